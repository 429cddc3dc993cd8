"""``tapestry coordinator status``: the rounds of a run, from journal and log."""

import json
import shutil
from pathlib import Path

import pytest
import tomli_w

from tapestry.inputs.setting_values import to_toml
from tapestry.protocol.messages import Reason
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.run_folders import current, run_folder
from tapestry_coordinator.settings import CoordinatorSettings, RunSettings
from tapestry_coordinator.superlink.outcome import Outcome, write_outcome
from tapestry_governance.events.round_events import ContributionRefused, RoundOpened
from tapestry_governance.log.writer import Log
from tests.support.commands import tapestry
from tests.support.demo_folders import demo_settings
from tests.support.log_world import World
from tests.support.settings_files import coordinator_settings, write_settings


@pytest.fixture
def coordinator(tmp_path: Path) -> Path:
    """The folder of a coordinator: one round closed, one open that a node refused."""
    world = World().found()
    first = world.run_round(1, names=("de", "es", "fr"))
    second = world.manifest(2)
    world.add(RoundOpened(manifest=second))
    refusal = ContributionRefused(
        run_id=second.run_id,
        round_number=2,
        attempt=second.attempt,
        reason=Reason.BUDGET_EXHAUSTED,
    )
    world.add(refusal, "id", "node")
    folder = tmp_path / "coordinator"
    (folder / "keys").mkdir(parents=True)
    leads = coordinator_settings().model_dump()
    write_settings(folder / "coordinator.toml", leads, CoordinatorSettings)
    world.log_key.save(folder / "keys" / "log.key")
    with Log.create(folder / "log", key=world.log_key) as log:
        log.append(world.entries)
    settings = demo_settings(run_id=first.run_id, rounds=3)
    text = tomli_w.dumps(to_toml(settings.model_dump(), RunSettings))
    place = run_folder(folder, first.run_id)
    place.mkdir(parents=True)
    (place / "run.toml").write_text(text)
    journal = Journal(place)
    journal.open_round(1, first.encode())
    journal.settle(1, "closed")
    journal.open_round(2, second.encode())
    journal.close()
    return folder


def test_status_shows_each_round_with_those_included_or_that_refused(
    coordinator: Path,
) -> None:
    said = tapestry("coordinator", "status", coordinator)
    assert said.exit_code == 0, said.stderr
    _, run, second, refused, first, log, *_ = said.stdout.splitlines()
    assert "1 of 3 rounds closed" in run
    assert first.split() == ["round", "1", "closed", "de,", "es,", "fr"]
    assert second.split() == ["round", "2", "open"]
    assert refused.strip().startswith("id refused: ")
    assert "budget_exhausted" in refused
    assert log.startswith("the log has ")


def test_status_as_json_has_the_same_rounds(coordinator: Path) -> None:
    said = tapestry("coordinator", "status", coordinator, "--json")
    assert said.exit_code == 0, said.stderr
    told = json.loads(said.stdout)
    key = World().log_key
    assert told["entries"] == len(Log.read(coordinator / "log", key=key)) > 8
    (run,) = told["runs"]
    assert (run["of"], run["end"], told["waiting"]) == (3, "", [])
    assert run["rounds"] == [
        {
            "round": 1,
            "status": "closed",
            "outcome": "applied",
            "included": ["de", "es", "fr"],
            "refused": {},
        },
        {
            "round": 2,
            "status": "open",
            "outcome": None,
            "included": [],
            "refused": {"id": "budget_exhausted"},
        },
    ]


def test_status_changes_no_file_and_waits_for_no_lock(coordinator: Path) -> None:
    def files() -> dict[Path, bytes]:
        paths = (path for path in coordinator.rglob("*") if path.is_file())
        kept = (path for path in paths if not path.name.endswith(("-shm", "-wal")))
        return {path: path.read_bytes() for path in kept}

    before = files()
    journal = Journal(run_folder(coordinator, current(coordinator)))  # at work
    said = tapestry("coordinator", "status", coordinator)
    journal.close()
    assert said.exit_code == 0, said.stderr
    assert files() == before


@pytest.mark.parametrize("missing", ["keys/log.key", "journal.db"])
def test_status_names_a_file_that_is_missing(coordinator: Path, missing: str) -> None:
    (path,) = coordinator.rglob(missing)
    path.unlink()
    said = tapestry("coordinator", "status", coordinator)
    assert said.exit_code in (3, 64)
    assert missing in said.stderr
    assert said.stdout == ""


def test_status_shows_runs_that_ended_and_those_that_wait(coordinator: Path) -> None:
    run_id = current(coordinator)
    place = run_folder(coordinator, run_id)
    waits = coordinator / "queue" / "run-9"
    waits.mkdir(parents=True)
    (waits / "run.toml").write_bytes((place / "run.toml").read_bytes())
    for outcome, said in (
        (Outcome(), "; done"),
        (Outcome(kind="PolicyError", code="plan-refused", message="no cohort"), "; no"),
    ):
        write_outcome(place, outcome)
        lines = tapestry("coordinator", "status", coordinator).stdout.splitlines()
        assert lines[1].startswith(f"run {run_id}: 1 of 3 rounds closed{said}")
        assert "run run-9: waits" in lines


def test_a_federation_without_a_run_has_a_status(coordinator: Path) -> None:
    shutil.rmtree(coordinator / "runs")
    said = tapestry("coordinator", "status", coordinator)
    assert said.exit_code == 0
    serving, log, *_ = said.stdout.splitlines()
    assert serving == "no coordinator is running here"
    assert log.startswith("the log has ")
