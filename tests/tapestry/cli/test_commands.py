"""Commands explain themselves, and wrong usage says what is allowed."""

import json
from pathlib import Path

import click
import pytest

from tapestry.cli.commands import (
    PATH,
    Argument,
    Command,
    CommandGroup,
    NoVerb,
    Roles,
    as_json,
    usage_error,
)
from tapestry.cli.exit_status import MEANINGS
from tapestry.errors import ConfigError
from tests.support.command_table import commands
from tests.support.commands import tapestry

SERVING = {"demo", "node run", "coordinator run", "witness run"}


def test_each_command_that_ends_by_itself_has_json() -> None:
    without = {
        name.removeprefix("tapestry ")
        for name, command in commands()
        if "--json" not in [each for p in command.params for each in p.opts]
    }
    assert without == SERVING


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "extra"], "tapestry demo takes no arguments; got unexpected extra"),
        (["horse"], "no command 'horse'; choose from demo, node, coordinator, "),
        (
            ["audit", "x"],
            "choose from verify, account, statement, trace, software; see tapestry",
        ),
        (["node", "x"], "choose from init, join, backup, "),
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


@click.group(cls=CommandGroup)
def group() -> None:
    """Do things."""


@group.command(cls=Command)
@click.argument("place", cls=Argument, help="The folder.", metavar="DIR", type=PATH)
@click.option("--count", type=click.IntRange(1, 9), default=3, help="How many.")
@as_json
def second(place: Path, count: int, as_json: bool) -> None:
    """Do the second thing.

    And say more of it.
    """
    click.echo(json.dumps([str(place), count, as_json]))


@group.command(cls=Command)
def first() -> None:
    """Do the first thing."""


def _refusal(*words: str) -> str:
    with pytest.raises((click.UsageError, ConfigError)) as caught:
        group.main(list(words), prog_name="things", standalone_mode=False)
    error = caught.value
    return str(usage_error(error) if isinstance(error, click.UsageError) else error)


def test_a_path_is_given_as_it_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    group.main(["second", "no/such", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == ["no/such", 3, True]


def test_help_has_the_whole_first_sentence_and_the_order_of_declaration() -> None:
    assert group.summaries() == [
        ("second", "Do the second thing."),
        ("first", "Do the first thing."),
    ]
    text = group.get_help(click.Context(group, info_name="things"))
    assert text.index("second") < text.index("first")


def test_help_describes_arguments_options_and_statuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    group.main(["second", "--help"], prog_name="things", standalone_mode=False)
    text = capsys.readouterr().out
    assert "DIR  The folder." in text
    assert "How many." in text
    for status, meaning in MEANINGS.items():
        assert f"  {int(status)} " in text
        assert meaning in text


def test_a_group_without_a_verb_carries_its_help() -> None:
    with pytest.raises(NoVerb, match="Do things"):
        group.main([], prog_name="things", standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["third"],
            "no command 'third'; choose from second, first; see things --help",
        ),
        (["second"], "DIR is missing: the folder; see things second --help"),
        (
            ["second", "a", "b"],
            (
                "things second takes DIR; got unexpected extra argument (b);"
                " see things second --help"
            ),
        ),
        (
            ["first", "b"],
            (
                "things first takes no arguments; got unexpected extra argument (b);"
                " see things first --help"
            ),
        ),
        (
            ["second", "a", "--lax"],
            (
                "no option --lax; choose from --count, --json, --help;"
                " see things second --help"
            ),
        ),
        (["--lax"], "no option --lax; choose from --help; see things --help"),
        (
            ["second", "a", "--count", "0"],
            (
                "--count: 0 is not in the range 1<=x<=9; for example --count 3;"
                " see things second --help"
            ),
        ),
    ],
    ids=str,
)
def test_wrong_words_are_told_with_what_is_allowed_and_where_to_read(
    words: list[str], said: str
) -> None:
    assert _refusal(*words) == said


def test_a_usage_error_without_a_command_has_its_text_alone() -> None:
    error = usage_error(click.UsageError("Something is odd."))
    assert (str(error), error.code) == ("something is odd", "usage")


def test_an_argument_with_a_default_may_be_left_out() -> None:
    argument = Argument(["place"], help="The folder.", metavar="DIR", default="here")
    assert not argument.required
    assert Argument(["place"], help="The folder.", metavar="DIR").required


def test_a_role_is_imported_when_it_is_asked_for_and_not_before() -> None:
    roles = Roles("all")
    roles.modules = {
        "chat": ("tapestry_serve.cli", "Ask."),
        "gone": ("no_such_module", "Nothing."),
    }
    context = click.Context(roles)
    assert roles.list_commands(context) == ["chat", "gone"]
    assert roles.summaries() == [("chat", "Ask."), ("gone", "Nothing.")]
    command = roles.get_command(context, "chat")
    assert command is not None
    assert command.name == "chat"
    assert roles.get_command(context, "other") is None
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        roles.get_command(context, "gone")


def test_a_module_whose_app_is_no_command_is_a_bug() -> None:
    roles = Roles("all")
    roles.modules = {"odd": ("tests.support.odd_role", "Odd.")}
    with pytest.raises(TypeError, match="odd is no command"):
        roles.get_command(click.Context(roles), "odd")
