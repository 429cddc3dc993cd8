"""A coordinator's metrics, read from its files while another process works there."""

from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry.metrics_page import render
from tapestry_coordinator import coordinator_metrics, service
from tapestry_coordinator.coordinator_metrics import CoordinatorMetrics
from tapestry_coordinator.led_log import MARKER
from tapestry_coordinator.log_publisher import event_of
from tapestry_coordinator.run_status import read_status
from tapestry_coordinator.superlink.outcome import working_on
from tapestry_governance.log.writer import Log
from tests.coordinator.conftest import Found
from tests.node.test_node_metrics import values
from tests.support.federation import NAMES
from tests.support.refusals import refused

_OF_STATUS = ("members_here", "members_behind", "open_proposals")


def test_the_metrics_of_a_run_are_those_of_its_log(found: Found) -> None:
    federation = found(coordinator={"rounds": 2})
    metrics = CoordinatorMetrics(federation.coordinator)
    before = values(render(metrics.read()))
    assert before["tapestry_coordinator_round"] == 0
    assert "tapestry_coordinator_cosignatures" not in before
    federation.run()
    with Log.open(federation.coordinator / "log", key=federation.log_key()) as log:
        after = values(render(metrics.read()))  # while another one writes
        assert after["tapestry_coordinator_log_entries"] == log.size
    assert after["tapestry_coordinator_round"] == 2
    assert after["tapestry_coordinator_round_open"] == 0
    assert after['tapestry_coordinator_rounds_total{outcome="applied"}'] == 2
    assert after["tapestry_coordinator_members"] == len(NAMES)
    assert after["tapestry_coordinator_cosignatures"] == len(NAMES)
    assert 0 <= after["tapestry_coordinator_checkpoint_age_seconds"] < 600
    assert after["tapestry_coordinator_disputes"] == 0
    assert 800 < after["tapestry_coordinator_certificate_days"] < 826
    assert values(render(metrics.read())).keys() == after.keys()


def test_members_and_votes_are_counted_as_status_shows_them(found: Found) -> None:
    federation = found()
    metrics = CoordinatorMetrics(federation.coordinator)
    counted = [f"tapestry_coordinator_{each}" for each in _OF_STATUS]
    before = values(render(metrics.read()))
    assert [before[each] for each in counted] == [0, len(NAMES), 0]
    federation.run()
    with working_on(federation.coordinator):
        federation.kill("fr")
        service.cosign_once(federation.coordinator, federation.wire)
        status = read_status(federation.coordinator)
        after = values(render(metrics.read()))
    here = sum(each.here for each in status.members)
    behind = sum(each.behind > 0 for each in status.members)
    assert [after[each] for each in counted] == [here, behind, len(status.votes)]
    assert here == len(NAMES) - 1
    assert len(status.votes) == 1


def test_aborts_are_counted_by_their_reason_once(found: Found) -> None:
    federation = found()
    metrics = CoordinatorMetrics(federation.coordinator)
    federation.run_until_killed(lambda _, m: m.kind == "unmask")
    assert values(render(metrics.read()))["tapestry_coordinator_round_open"] == 1
    federation.run()
    for _ in range(2):
        after = values(render(metrics.read()))
        assert after['tapestry_coordinator_rounds_total{outcome="aborted"}'] == 1
        said = 'tapestry_coordinator_abort_total{reason="coordinator_restarted"}'
        assert after[said] == 1


def test_only_what_is_new_is_replayed(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    metrics = CoordinatorMetrics(federation.coordinator)
    metrics.read()
    size = len(federation.entries())
    federation.run()
    seen: list[bytes] = []

    def look(entry: bytes) -> object:
        seen.append(entry)
        return event_of(entry)

    monkeypatch.setattr(coordinator_metrics, "event_of", look)
    metrics.read()
    assert seen == federation.entries()[size:]
    seen.clear()
    metrics.read()
    assert seen == []


def test_a_restored_log_shows_and_a_folder_without_one_is_said(
    found: Found, tmp_path: Path
) -> None:
    folder = found().coordinator
    (folder / MARKER).touch()
    metrics = CoordinatorMetrics(folder)
    assert values(render(metrics.read()))["tapestry_coordinator_restored"] == 1
    (folder / "log").rename(tmp_path / "log")
    with refused(ConfigError, "log-missing"):
        CoordinatorMetrics(folder).read()
