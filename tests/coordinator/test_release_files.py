"""The model card of a release: where it comes from, under what, and how to check it."""

from pathlib import Path

import pytest

from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_coordinator.release_files import GIVEN, card_of
from tapestry_governance.cli import release as command


def card(given: str) -> str:
    facts = {GIVEN: given, "noise": "local"}
    return card_of(
        "base-1",
        digest="sha256:" + 64 * "0",
        rounds=2,
        workload=LanguageWorkload.__new__(LanguageWorkload),  # no model is needed
        facts=facts,
    )


def front(text: str) -> list[str]:
    head = text.removeprefix("---\n").partition("\n---\n")[0]
    return head.split("\n")


def folder(tmp_path: Path, text: str) -> str:
    (tmp_path / "README.md").write_text(text, "utf-8")
    return str(tmp_path)


def test_the_named_base_is_credited_with_its_licence() -> None:
    text = card("smollm2")
    assert '  given_base_licence: "Apache-2.0"' in front(text)
    assert "Changed from the given base, SmolLM2-135M-Instruct by HuggingFaceTB" in text
    assert "the given base is under Apache-2.0" in text


@pytest.mark.parametrize("line", ["license: mit", 'license: "mit"', "license: 'mit' "])
def test_a_folder_has_the_licence_that_its_card_names(
    tmp_path: Path, line: str
) -> None:
    text = card(folder(tmp_path, f"---\ntags: [x]\n{line}\n---\n\n# A base\n"))
    assert '  given_base_licence: "mit"' in front(text)
    assert "the given base is under mit" in text


def test_a_release_as_the_given_base_hands_its_licence_on(tmp_path: Path) -> None:
    text = card(folder(tmp_path, card("smollm2")))
    assert '  given_base_licence: "Apache-2.0"' in front(text)


@pytest.mark.parametrize(
    "text",
    [
        "# A base\n\nlicense: mit\n",
        "---\ntags: [x]\n---\n\nlicense: mit\n",
        "---\nlicense: other\n---\n",
        "---\nlicense: [mit, x]\n---\n",
        "---\nlicense: mit | `x`\n---\n",
        "---\nlicense:\n---\n",
        "",
    ],
    ids=["no-front", "in-the-text", "other", "list", "markup", "empty", "nothing"],
)
def test_without_a_licence_the_card_names_none(tmp_path: Path, text: str) -> None:
    made = card(folder(tmp_path, text))
    assert not [line for line in front(made) if "licen" in line]
    assert "see the given base for its licence" in made


@pytest.mark.parametrize("given", ["tiny", "no/such/folder"])
def test_a_base_without_a_card_is_referred_to(given: str) -> None:
    assert "see the given base for its licence" in card(given)


def test_a_card_that_is_not_text_names_no_licence(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\xff\n---\n")
    assert "see the given base for its licence" in card(str(tmp_path))


def test_the_card_names_a_command_that_there_is() -> None:
    said = card("tiny").split("`")[1::2]
    line = next(each for each in said if each.startswith("tapestry "))
    assert line == "tapestry release verify DIR"
    options = {o for p in command.app.commands["verify"].params for o in p.opts}
    flags = [each for each in said if each.startswith("--")]
    assert flags
    assert set(flags) <= options


def test_the_card_does_not_say_where_the_given_base_lies(tmp_path: Path) -> None:
    made = card(str(tmp_path / "our-base"))
    assert "| given base | our-base |" in made
    assert str(tmp_path) not in made
