"""Commands explain themselves, and wrong usage says what is allowed."""

import pytest

from tests.support.commands import tapestry


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "extra"], "tapestry demo takes no arguments; got unexpected extra"),
        (["horse"], "no command 'horse'; choose from demo, node, coordinator, "),
        (
            ["audit", "x"],
            "choose from verify, account, statement; see tapestry audit -",
        ),
        (["node", "x"], "choose from run, check, budget, egress; see tapestry node -"),
        (["audit", "verify"], "BUNDLE is missing: the bundle's folder; see tapestry a"),
        (["audit", "verify", "x", "--lax"], "no option --lax; choose from --trust, "),
        (["audit", "verify", "x", "--trust"], "see tapestry audit verify --help"),
        (["audit", "verify", "x", "y"], "tapestry audit verify takes BUNDLE; "),
        (["--lax"], "no option --lax; choose from --version, --help; see tapestry -"),
        (["chat"], "--base is missing: "),
        (
            ["chat", "--base", "x", "--max-tokens", "many"],
            "--max-tokens: 'many' is not",
        ),
        (["chat", "--base", "x", "--max-tokens", "0"], "; for example --max-tokens 48"),
        (["demo", "--engine", "horse"], "'horse' is not one of 'inprocess', 'flower'"),
        (["--json", "audit"], "no option --json"),
        (["audit", "--json=1", "verify"], "no option --json"),
        (["audit", "verify", "x", "--json=1"], "see tapestry audit verify --help"),
        ([""], "no command ''"),
    ],
    ids=str,
)
def test_wrong_usage_says_what_is_allowed(words: list[str], said: str) -> None:
    result = tapestry(*words)
    assert result.exit_code == 64
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
