"""Releases: published once for a closed round, whole and with a proof."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.artifacts import manifest, model_folder
from tapestry_coordinator import release_publisher
from tapestry_coordinator import run as driver
from tapestry_coordinator.release_publisher import write_files
from tests.coordinator.conftest import Found, opened_run
from tests.support.federation import Federation
from tests.tapestry.model.test_release_draft import draft


@pytest.fixture
def federation(found: Found) -> Federation:
    federation = found()
    federation.run()
    return federation


@pytest.fixture
def run(federation: Federation) -> Iterator[driver.Run]:
    with opened_run(federation) as run:
        yield run


def test_a_round_that_is_released_is_not_released_again(run: driver.Run) -> None:
    size, releases = run.context.log.size, run.context.publisher.state.releases
    assert releases
    release_publisher.release(run.context, run.replica, run.workload)
    assert run.context.log.size == size
    assert run.context.publisher.state.releases.keys() == releases.keys()


def test_a_proof_that_was_lost_is_written_again(
    federation: Federation, run: driver.Run
) -> None:
    folder = federation.coordinator / "releases" / "base-1" / "tapestry"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in before.keys() - {"manifest.json"}:
        (folder / name).unlink()
    release_publisher.release(run.context, run.replica, run.workload)
    assert {path.name for path in folder.iterdir()} == before.keys()


def test_the_folder_is_what_its_manifest_lists(tmp_path: Path) -> None:
    made, folder = draft(), tmp_path / "releases" / "base-1"
    (folder / "left").mkdir(parents=True)  # of another day
    write_files(folder, made)
    manifest.verify(folder, made.manifest)
    assert model_folder.read_files(folder).manifest_digest == made.manifest.digest
    assert (folder / "README.md").read_text("utf-8") == made.card
