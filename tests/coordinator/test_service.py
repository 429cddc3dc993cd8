"""The service leads one run after the other, and tends the log between them."""

from collections.abc import Callable
from itertools import count

import pytest

from tapestry.protocol.messages import Kind
from tapestry_coordinator import run_folders, service
from tapestry_coordinator.run_folders import run_folder
from tapestry_coordinator.superlink.outcome import read_outcome
from tapestry_governance.events.privacy_events import DataDeclared
from tests.support.federation import NAMES, Base, Federation
from tests.support.federation_fixtures import Found


def times(number: int) -> Callable[[], bool]:
    calls = count()
    return lambda: next(calls) >= number


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch, base: Base) -> None:
    """Look at once, and take the given base that is loaded already."""
    monkeypatch.setattr(service, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr("tapestry_coordinator.run.open_workload", _loaded(base))


def _loaded(base: Base) -> Callable[..., object]:
    def open_base(*_: object) -> object:
        base.workload.load(base.replica.parameters)
        return base.workload

    return open_base


def finish(federation: Federation) -> bool:
    return service.finish_run(federation.coordinator, federation.wire, "run")


def test_a_run_that_is_done_has_an_outcome(found: Found) -> None:
    federation = found()
    assert finish(federation)
    outcome = read_outcome(run_folder(federation.coordinator, "run"))
    assert outcome is not None
    assert not outcome.kind
    assert run_folders.unfinished(federation.coordinator) is None


def test_a_run_whose_members_are_away_is_tried_again(found: Found) -> None:
    federation = found(coordinator={"deadlines": {"advertise_keys": 1}})
    for name in NAMES[1:]:
        federation.kill(name)
    assert not finish(federation)
    folder = run_folder(federation.coordinator, "run")
    assert read_outcome(folder) is None
    for name in NAMES[1:]:
        federation.start(name)
    assert finish(federation)
    assert [c.outcome for c in federation.closed()] == ["applied"]


def test_a_run_that_can_never_succeed_ends_with_its_reason(found: Found) -> None:
    federation = found(institution={"policy": {"epsilon_limit": "0.001"}})
    assert finish(federation)
    outcome = read_outcome(run_folder(federation.coordinator, "run"))
    assert outcome is not None
    assert (outcome.kind, outcome.code) == ("PolicyError", "plan-refused")
    assert "budget" in outcome.message


def test_between_runs_the_log_is_cosigned_and_takes_entries(found: Found) -> None:
    federation = found()
    service.tend_log(federation.coordinator, federation.wire, until=times(3))
    assert len(federation.said(DataDeclared)) == len(NAMES)
    assert (federation.coordinator / "log" / "public" / "checkpoint").exists()
    asked = len(federation.wire.replies(Kind.COSIGN))
    service.tend_log(federation.coordinator, federation.wire, until=times(3))
    assert len(federation.wire.replies(Kind.COSIGN)) > asked  # they came anew


def test_members_that_are_there_are_not_asked_again_at_once(found: Found) -> None:
    federation = found()
    service.tend_log(federation.coordinator, federation.wire, until=times(2))
    once = len(federation.wire.replies(Kind.COSIGN))
    federation.wire.log.clear()
    service.tend_log(federation.coordinator, federation.wire, until=times(9))
    assert len(federation.wire.replies(Kind.COSIGN)) <= once


def test_the_service_begins_what_waits_and_goes_on_for_ever(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    directory = federation.coordinator
    (directory / "queue").mkdir()
    (directory / "runs" / "run").rename(directory / "queue" / "run")

    class Ended(BaseException):
        pass

    def tended(*_: object, until: Callable[[], bool]) -> None:
        assert not until()  # nothing waits any more
        raise Ended

    monkeypatch.setattr(service, "tend_log", tended)
    with pytest.raises(Ended):
        service.main(directory, federation.wire)
    assert run_folders.begun(directory) == ["run"]
    assert run_folders.waiting(directory) == []
    assert [c.outcome for c in federation.closed()] == ["applied"]
