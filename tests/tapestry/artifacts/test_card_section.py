"""A card says how to ask what members decided, and the command answers."""

import re
import shutil
from pathlib import Path
from typing import Literal

import pytest

from tapestry.artifacts.card_section import standing_section
from tests.support.adapter_folders import make_demo
from tests.support.commands import tapestry

Kind = Literal["release", "adapter"]
KINDS: dict[Kind, tuple[str, str | None]] = {
    "release": ("base-2", None),
    "adapter": ("fr-culture", "base-2"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("approved", "withdrawn", "warns", "status", "word"),
    [
        (True, False, "harmful", 0, "approved"),
        (False, False, "harmful", 5, "candidate"),
        (True, True, "harmful", 0, "withdrawn"),
        (True, True, "superseded", 5, "withdrawn"),
    ],
)
def test_the_command_of_a_card_answers_as_the_card_says(
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    approved: bool,
    withdrawn: bool,
    warns: str,
    status: int,
    word: str,
) -> None:
    name, base = KINDS[kind]
    demo = make_demo(
        tmp_path,
        approved=approved,
        withdrawn="base-2" if withdrawn else None,
        rules={"withdrawn_warns": (warns,)},
    )
    shutil.copy(demo / "bundle" / "trust-policy.txt", demo / "trust-policy.txt")
    monkeypatch.chdir(demo)
    section = standing_section(kind, name, base=base)
    (command,) = re.findall(r"^tapestry (.+)$", section, re.M)
    answered = tapestry(*command.split())
    assert answered.exit_code == status
    assert word in answered.stdout
    assert f"`{word}`" in section


def test_a_card_tells_no_outcome_of_a_vote() -> None:
    """It is one of the files that are voted on; both cards say one thing."""
    release = standing_section("release", "base-2")
    adapter = standing_section("adapter", "italy", base="base-2")
    for section in (release, adapter):
        assert section.startswith("## Standing\n")
        assert "after this card was written" in section
        assert not re.search(r"\bis approved\b|\bwas approved\b", section)
    assert "`base-2`" in adapter
