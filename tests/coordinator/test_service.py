"""The service leads one run after the other, and tends the log between them."""

from collections.abc import Callable
from itertools import count

import pytest

from tapestry.errors import ConfigError
from tapestry.protocol.folder_faults import FolderFault
from tapestry.protocol.messages import (
    Identity,
    Kind,
    Message,
    encode_message,
    expect_body,
)
from tapestry_coordinator import run_folders, service
from tapestry_coordinator.run_folders import PROGRESS, run_folder
from tapestry_coordinator.run_requests import ask_again, ask_to_end, request_in
from tapestry_coordinator.run_status import read_status
from tapestry_coordinator.superlink.outcome import Outcome, read_outcome
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.events.privacy_events import DataDeclared
from tapestry_governance.events.round_events import RoundOpened
from tests.support.federation import NAMES, Base, Deliver, Federation, lost
from tests.support.federation_fixtures import Found

FAULT = FolderFault.RECORDS_MISSING
ONE_SECOND = dict.fromkeys(("collect_masked_inputs", "advertise_keys"), 1)


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


def kill_in_the_second_round(federation: Federation) -> None:
    offers = count(1)
    federation.run_until_killed(
        lambda _, m: m.kind is Kind.ADVERTISE_KEYS and next(offers) > len(NAMES)
    )


def finish(federation: Federation) -> bool:
    return service.finish_run(federation.coordinator, federation.wire, "run")


def test_a_run_that_is_done_has_an_outcome(found: Found) -> None:
    federation = found()
    assert finish(federation)
    outcome = read_outcome(run_folder(federation.coordinator, "run"))
    assert outcome is not None
    assert not outcome.kind
    assert run_folders.unfinished(federation.coordinator) is None


@pytest.mark.slow
def test_a_run_whose_members_are_away_is_tried_again(found: Found) -> None:
    federation = found(coordinator={"deadlines": {"advertise_keys": 1}})
    for name in NAMES[1:]:
        federation.kill(name)
    assert not finish(federation)
    folder = run_folder(federation.coordinator, "run")
    assert read_outcome(folder) is None
    (status,) = read_status(federation.coordinator).runs
    assert status.doing == "waits: 1 nodes are online, a round takes 3; start more"
    for name in NAMES[1:]:
        federation.start(name)
    assert finish(federation)
    assert [c.outcome for c in federation.closed()] == ["applied"]


def test_a_run_that_waits_says_why_from_its_first_attempt_on(found: Found) -> None:
    federation = found(
        coordinator={"secagg": {"min_cohort": 4}, "deadlines": {"advertise_keys": 1}}
    )

    def rests(_name: str, request: Message, deliver: Deliver) -> Message:
        if (federation.run_folder / PROGRESS).exists():
            raise KeyboardInterrupt  # a first attempt was made
        body = expect_body(deliver(request), Identity)
        return encode_message(body.model_copy(update={"rests": True}))

    federation.wire.on("fi", Kind.HELLO, rests, times=50)
    with pytest.raises(KeyboardInterrupt):
        finish(federation)
    (run,) = read_status(federation.coordinator).runs
    assert run.doing.startswith("waits: 3 members are online, do not rest and have")


def test_a_run_whose_base_is_not_here_waits_and_says_so(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise ConfigError("no model releases/base-1", code="base-missing")

    federation = found()
    monkeypatch.setattr("tapestry_coordinator.run.open_workload", gone)
    assert not finish(federation)
    (run,) = read_status(federation.coordinator).runs
    assert run.doing == "waits: no model releases/base-1"


def test_a_run_that_can_never_succeed_ends_with_its_reason(found: Found) -> None:
    federation = found(institution={"policy": {"epsilon_limit": "0.001"}})
    assert finish(federation)
    outcome = read_outcome(run_folder(federation.coordinator, "run"))
    assert outcome is not None
    assert (outcome.kind, outcome.code) == ("PolicyError", "plan-refused")
    assert "budget" in outcome.message


@pytest.mark.slow
def test_rounds_that_fail_are_not_paid_for_for_ever(found: Found) -> None:
    """A member goes silent when the others have spent their budget on the round."""
    federation = found(
        coordinator={"secagg": {"min_cohort": 4}, "deadlines": ONE_SECOND},
        institution={"policy": {"epsilon_limit": "100"}},
        policy={"epsilon_cap": "100"},
    )
    federation.wire.on("fi", Kind.COLLECT_MASKED_INPUTS, lost, times=50)
    assert finish(federation)
    outcome = read_outcome(run_folder(federation.coordinator, "run"))
    assert outcome is not None
    assert outcome.code == "rounds-failed"
    assert 1 < len(federation.aborted()) <= 6


@pytest.mark.slow
def test_a_coordinator_that_dies_again_and_again_ends_the_run(found: Found) -> None:
    federation = found(
        coordinator={"secagg": {"min_cohort": 4}},
        institution={"policy": {"epsilon_limit": "100"}},
        policy={"epsilon_cap": "100"},
    )
    for _ in range(6):
        federation.run_until_killed(lambda _, m: m.kind is Kind.CHECK_CONSISTENCY)
    assert finish(federation)
    outcome = read_outcome(run_folder(federation.coordinator, "run"))
    assert outcome is not None
    assert outcome.code == "rounds-failed"
    assert "paid for 5 rounds more than the 1 of the plan" in outcome.message
    assert federation.closed() == []
    assert len(federation.aborted()) == 6


def test_a_run_that_ends_leaves_no_open_round_to_the_next(found: Found) -> None:
    federation = found()
    federation.run_until_killed(lambda _, m: m.kind is Kind.COLLECT_MASKED_INPUTS)
    plan = federation.run_folder / "run.toml"
    known = plan.read_text()
    plan.write_text("rounds = 0\n")
    assert finish(federation)
    outcome = read_outcome(run_folder(federation.coordinator, "run"))
    assert outcome is not None
    assert outcome.kind == "ConfigError"
    (aborted,) = federation.aborted()
    assert aborted.round_number == 1
    plan.write_text(known)
    federation.begin_another_run("second")
    assert service.finish_run(federation.coordinator, federation.wire, "second")
    (closed,) = federation.closed()
    assert closed.run_id == "second"


@pytest.mark.slow
def test_a_run_is_ended_after_the_round_at_hand_and_released(found: Found) -> None:
    federation = found(coordinator={"rounds": 3})

    def look(_: str, message: Message) -> None:
        if message.kind is Kind.COLLECT_MASKED_INPUTS:
            ask_to_end(federation.coordinator, "run")

    federation.wire.before = look
    assert finish(federation)
    outcome = read_outcome(run_folder(federation.coordinator, "run"))
    assert outcome == Outcome(message="ended as its operator asked")
    (closed,) = federation.closed()
    (released,) = federation.said(ReleasePublished)
    assert (released.round_number, federation.aborted()) == (closed.round_number, [])
    assert request_in(run_folder(federation.coordinator, "run")) is None


def test_a_run_that_is_ended_before_its_first_round_costs_nothing(
    found: Found,
) -> None:
    federation = found()
    ask_to_end(federation.coordinator, "run")
    assert finish(federation)
    assert federation.said(RoundOpened) == []
    assert federation.said(ReleasePublished) == []


@pytest.mark.slow
def test_an_end_does_not_wait_for_members_that_are_away(found: Found) -> None:
    federation = found(coordinator={"rounds": 2, "deadlines": {"advertise_keys": 1}})
    kill_in_the_second_round(federation)
    for name in NAMES[1:]:
        federation.kill(name)
    ask_to_end(federation.coordinator, "run")
    assert finish(federation)
    outcome = read_outcome(run_folder(federation.coordinator, "run"))
    assert outcome is not None
    assert outcome.code == "nodes-too-few"


@pytest.mark.slow
def test_a_run_that_failed_goes_on_when_its_operator_asks(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(coordinator={"rounds": 2})
    kill_in_the_second_round(federation)
    plan = federation.run_folder / "run.toml"
    known = plan.read_text()
    plan.write_text("rounds = 0\n")
    assert finish(federation)
    looked = count()

    def tended(*_: object, until: Callable[[], bool]) -> None:
        if next(looked):
            raise KeyboardInterrupt
        assert not until()
        plan.write_text(known)
        ask_again(federation.coordinator, "run", opened=["run"])
        assert until()  # it is looked for while nothing else is to do

    monkeypatch.setattr(service, "tend_log", tended)
    with pytest.raises(KeyboardInterrupt):
        service.main(federation.coordinator, federation.wire)
    assert [c.outcome for c in federation.closed()] == ["applied"] * 2
    assert read_outcome(run_folder(federation.coordinator, "run")) == Outcome()
    assert request_in(run_folder(federation.coordinator, "run")) is None


@pytest.mark.slow
def test_a_run_that_waits_is_tried_at_once_when_its_operator_asks(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(coordinator={"deadlines": {"advertise_keys": 1}})
    for name in NAMES[1:]:
        federation.kill(name)

    def tended(*_: object, until: Callable[[], bool]) -> None:
        if federation.closed():
            raise KeyboardInterrupt
        assert not until()  # for seconds
        for name in NAMES[1:]:
            federation.start(name)
        ask_again(federation.coordinator, "run", opened=[])
        assert until()

    monkeypatch.setattr(service, "tend_log", tended)
    with pytest.raises(KeyboardInterrupt):
        service.main(federation.coordinator, federation.wire)
    assert read_outcome(run_folder(federation.coordinator, "run")) == Outcome()


def test_files_of_a_run_that_are_lost_end_that_run_alone(found: Found) -> None:
    federation = found(coordinator={"rounds": 2})
    unmasked = count(1)
    federation.run_until_killed(
        lambda _, m: m.kind is Kind.UNMASK and next(unmasked) > len(NAMES)
    )
    for path in (federation.run_folder / "sums").iterdir():
        path.unlink()
    assert finish(federation)
    outcome = read_outcome(run_folder(federation.coordinator, "run"))
    assert outcome is not None
    assert outcome.kind == "IncompleteError"
    assert len(federation.aborted()) == 1


def test_a_member_that_says_nonsense_keeps_nobody_from_cosigning(found: Found) -> None:
    federation = found()

    def garbled(_name: str, request: Message, deliver: Deliver) -> Message:
        body = expect_body(deliver(request), Identity)
        return encode_message(body.model_copy(update={"checkpoint": "garbage"}))

    federation.wire.on("fi", Kind.HELLO, garbled, times=50)
    service.tend_log(federation.coordinator, federation.wire, until=times(3))
    assert (federation.coordinator / "log" / "public" / "checkpoint").exists()
    assert len(federation.said(DataDeclared)) == len(NAMES) - 1


def test_a_member_that_can_do_nothing_is_asked_nothing(found: Found) -> None:
    federation = found()

    def at_fault(_name: str, request: Message, deliver: Deliver) -> Message:
        body = expect_body(deliver(request), Identity)
        return encode_message(body.model_copy(update={"refuses": FAULT}))

    federation.wire.on("fi", Kind.HELLO, at_fault, times=50)
    service.tend_log(federation.coordinator, federation.wire, until=times(3))
    asked = {e.request.kind for e in federation.wire.log if e.node == "fi"}
    assert asked == {Kind.HELLO}
    assert len(federation.said(DataDeclared)) == len(NAMES) - 1


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
