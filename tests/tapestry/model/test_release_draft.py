"""A release is a function of the log and of the given base's files."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry.artifacts import manifest, model_folder
from tapestry.artifacts.model_identity import ModelContent, licence_in
from tapestry.model.release_draft import ReleaseDraft
from tapestry.model.replica import Replica
from tapestry.tensor_types import type_name
from tapestry_governance.cli import release as command
from tests.support.log_world import World

GIVEN = ModelContent(
    tensors={"w": np.ones((2, 3), np.float32), "b": np.zeros(2, np.uint16)},
    files={"config.json": b"{}", "NOTICE": b"made by us\n"},
    licence="apache-2.0",
)


def draft(given: ModelContent = GIVEN) -> ReleaseDraft:
    return ReleaseDraft(
        name="base-1",
        round_number=2,
        first=World().found().manifest(),
        replica=Replica.start(given),
        given=given,
        card_fields={"library_name": "transformers"},
    )


def test_the_manifest_is_that_of_the_folder_which_is_written(tmp_path: Path) -> None:
    made = draft()
    made.write(tmp_path / "base-1")
    assert manifest.describe(tmp_path / "base-1") == made.manifest
    found = model_folder.read_files(tmp_path / "base-1")
    assert found.digest == made.model_digest == GIVEN.digest
    assert found.manifest.parameters == made.parameters_digest
    assert found.settings == GIVEN.files


def test_a_tensor_that_moved_is_written_in_the_type_of_the_given_base(
    tmp_path: Path,
) -> None:
    """``b`` is given as bfloat16, and float32 since it moved."""
    moved = {**GIVEN.tensors, "b": np.ones(2, np.float32)}
    replica = dataclasses.replace(Replica.start(GIVEN), parameters=moved)
    made = dataclasses.replace(draft(), replica=replica)
    made.write(tmp_path / "base-1")
    assert manifest.describe(tmp_path / "base-1") == made.manifest
    found = model_folder.read_files(tmp_path / "base-1").content.tensors["b"]
    assert type_name(found) == "BF16"
    assert found.tolist() == [0x3F80, 0x3F80]


def test_two_members_rebuild_the_same_and_other_facts_give_another() -> None:
    """None of it comes from a library, so members may have other versions of one."""
    want = draft().manifest.digest
    assert draft().manifest.digest == want
    first = World().found().manifest()
    others: tuple[dict[str, Any], ...] = (
        {"name": "base-2"},
        {"round_number": 3},
        {"first": first.model_copy(update={"run_id": "another"})},
        {"given": dataclasses.replace(GIVEN, files={"config.json": b"{ }"})},
        {"given": dataclasses.replace(GIVEN, licence=None)},
        {"card_fields": {}},
    )
    for changes in others:
        assert dataclasses.replace(draft(), **changes).manifest.digest != want


def front(text: str) -> list[str]:
    return text.removeprefix("---\n").partition("\n---\n")[0].split("\n")


@pytest.mark.parametrize("licence", ["apache-2.0", "mit", None])
def test_a_release_as_the_given_base_hands_its_licence_on(licence: str | None) -> None:
    card = draft(dataclasses.replace(GIVEN, licence=licence)).card
    assert licence_in(card.encode()) == licence
    line = f'  given_base_licence: "{licence}"'
    assert (line in front(card)) == (licence is not None)
    assert ("see it for its licence" in card) == (licence is None)


def test_the_card_names_models_by_identity_and_the_noise_of_the_run() -> None:
    made = draft()
    for row in (
        f"| model | `{made.model_digest}` |",
        f"| parameters | `{made.parameters_digest}` |",
        f"| given base | `{made.first.model_digest}` |",
        "| rounds | 2 |",
        f"| noise | {made.first.privacy.noise} |",
    ):
        assert row in made.card


def test_the_card_names_a_command_that_there_is() -> None:
    (line,) = re.findall(r"^tapestry .+$", draft().card, re.M)
    words = line.split()
    assert words[1:4] == ["release", "verify", f"releases/{draft().name}"]
    options = {o for p in command.app.commands["verify"].params for o in p.opts}
    flags = {each for each in words if each.startswith("--")}
    assert flags == {"--bundle", "--trust"}
    assert flags <= options
