"""A member away at a run's end gets its release later, and takes part in the next."""

from itertools import count

import pytest

from tapestry.protocol.messages import Kind
from tapestry_coordinator import run_folders, service
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.superlink.outcome import Outcome, write_outcome
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tests.support.federation import NAMES, Base, Federation, lost
from tests.support.federation_fixtures import Found

SHORT = {"deadlines": {"advertise_keys": 1}}
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch, base: Base) -> None:
    """Look at once, and take the given base that is loaded already."""
    monkeypatch.setattr(service, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(
        "tapestry_coordinator.run.open_workload", lambda *_: base.workload
    )


def leave_in_the_last_round(federation: Federation, name: str, *, rounds: int) -> None:
    """End a node when the last round is about to be offered to it."""
    offers = count(1)

    def look(node: str, message: object) -> None:
        kind = getattr(message, "kind", None)
        if (node, kind) == (name, Kind.ADVERTISE_KEYS) and next(offers) == rounds:
            federation.kill(name)

    federation.wire.before = look


def tend(federation: Federation, looks: int = 2) -> None:
    calls = count()
    service.tend_log(
        federation.coordinator, federation.wire, until=lambda: next(calls) >= looks
    )


def end(federation: Federation) -> None:
    federation.run()
    write_outcome(federation.run_folder, Outcome())
    federation.wire.log.clear()


def released(federation: Federation) -> ReleasePublished:
    found: ReleasePublished = federation.said(ReleasePublished)[-1]
    return found


def test_a_member_away_at_the_end_of_a_run_takes_part_in_the_next(
    found: Found,
) -> None:
    federation = found(coordinator={"rounds": 2, **SHORT})
    leave_in_the_last_round(federation, "fi", rounds=2)
    end(federation)
    assert [c.included for c in federation.closed()] == [NAMES, NAMES[1:]]
    node = federation.start("fi")
    assert node.replica.release_digest != released(federation).model_digest
    tend(federation)
    release = released(federation)
    assert node.replica.release_digest == release.model_digest
    assert node.store.rebuilt("run", 2) == release.manifest_digest
    assert len(set(federation.digests().values())) == 1
    sent = federation.wire.replies(Kind.APPLY_RESULT)
    assert [exchange.node for exchange in sent] == ["fi"]  # who has it gets it not
    federation.restart("fi")  # it has a snapshot of what it was sent
    assert federation.nodes["fi"].replica.release_digest == release.model_digest
    federation.approve()
    base = str(federation.coordinator / "releases" / "base-1")
    federation.begin_another_run("second", base=base, rounds=1)
    federation.run()
    assert federation.closed()[-1].included == NAMES
    assert federation.closed()[-1].run_id == "second"


def test_one_that_missed_a_whole_run_gets_all_its_rounds(found: Found) -> None:
    federation = found(coordinator={"rounds": 2, **SHORT})
    end(federation)  # after which a node counts two rounds of the first run
    federation.approve()
    base = str(federation.coordinator / "releases" / "base-1")
    federation.kill("fi")
    federation.begin_another_run("second", base=base, rounds=2)
    end(federation)
    node = federation.start("fi")
    tend(federation)
    assert len(federation.wire.replies(Kind.APPLY_RESULT)) == 2
    assert node.replica.release_digest == released(federation).model_digest


def test_it_is_asked_for_its_adapter_when_the_run_has_ended(found: Found) -> None:
    federation = found(coordinator={"adapters": True, **SHORT})
    leave_in_the_last_round(federation, "fi", rounds=1)
    federation.run()
    federation.start("fi")
    tend(federation)
    assert "fi" not in _publishers(federation)  # the run may go on
    federation.kill("fi")
    write_outcome(federation.run_folder, Outcome())
    federation.start("fi")
    tend(federation)
    assert set(_publishers(federation)) == set(NAMES)


def _publishers(federation: Federation) -> list[str]:
    logged = federation.logged()
    return [each.actor for each in logged if isinstance(each.body, AdapterPublished)]


def test_one_that_does_not_take_a_round_gets_none_after_it(found: Found) -> None:
    federation = found(coordinator={"rounds": 2, **SHORT})
    federation.kill("fi")
    end(federation)
    node = federation.start("fi")
    federation.wire.on("fi", Kind.APPLY_RESULT, lost)
    tend(federation, looks=1)
    assert federation.wire.replies(Kind.APPLY_RESULT) == []
    assert node.replica.digest == federation.base.replica.digest
    tend(federation)  # at the next look it gets both
    assert node.replica.release_digest == released(federation).model_digest


@pytest.mark.parametrize("lacking", ["journal.db", "run.toml", "sums", "result"])
def test_a_run_whose_files_are_gone_costs_the_service_nothing(
    found: Found, lacking: str
) -> None:
    federation = found(coordinator={"rounds": 2, **SHORT})
    leave_in_the_last_round(federation, "fi", rounds=2)
    end(federation)
    folder = federation.run_folder
    if lacking == "result":  # it is there, and is none
        journal = Journal(folder)
        journal.store_result(2, b"{}")
        journal.close()
    elif lacking == "sums":
        for path in (folder / lacking).iterdir():
            path.unlink()
    else:
        (folder / lacking).unlink()
    federation.start("fi")
    asked = len(federation.wire.replies(Kind.COSIGN))
    tend(federation)
    assert len(federation.wire.replies(Kind.COSIGN)) > asked
    assert run_folders.waiting(federation.coordinator) == []
