"""Whom a node trusts with time, bases, plans and releases: nobody alone."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tapestry.errors import QuorumError
from tapestry.keys import SigningKey
from tapestry.model.replica import measure
from tapestry.protocol.messages import Kind, Message
from tapestry.tlog.checkpoint import read_claim
from tapestry_coordinator import acceptance_gate, node_tracker
from tapestry_coordinator.acceptance_gate import AcceptanceGate
from tapestry_coordinator.settings import RunSettings
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.model_events import ReleasePublished
from tests.scenarios.conftest import Found
from tests.scenarios.test_crash import nth
from tests.scenarios.test_refusals import checkpoint_of, offer, offered, reason_in
from tests.support.federation import NAMES, Federation, lost
from tests.support.refusals import refused
from tests.support.replicas import replica_of
from tests.support.settings_files import change_settings

OTHER = "sha256:" + "0" * 64
LATER = timedelta(hours=25)


def set_clock(federation: Federation, name: str, ahead: timedelta) -> None:
    node = federation.nodes[name]
    node.clock = lambda: datetime.now(UTC) + ahead


def holds(federation: Federation, *, rounds: int) -> None:
    assert len(federation.closed()) == rounds
    assert set(federation.digests().values()) == {federation.closed()[-1].base_after}
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def refusals_of(federation: Federation, kind: Kind) -> list[tuple[str, str]]:
    """Who refused requests of a kind, and why, in order."""
    return [
        (e.node, reason_in(e.reply))
        for e in federation.wire.replies(kind)
        if e.reply is not None and e.reply.kind is Kind.REFUSAL
    ]


def test_one_fast_and_one_slow_clock_stop_no_other_node(found: Found) -> None:
    federation = found(coordinator={"rounds": 2, "release_every": 1})
    set_clock(federation, "fr", timedelta(hours=1))
    set_clock(federation, "sw", timedelta(hours=-1))
    federation.run()
    assert len(federation.closed()) == 2
    assert all({"fi", "id"} <= set(c.included) for c in federation.closed())
    assert {name for name, _ in refusals_of(federation, Kind.ADVERTISE_KEYS)} <= {
        "fr",
        "sw",
    }
    assert refusals_of(federation, Kind.APPLY_RESULT) == []


def test_a_fast_clock_stops_its_own_node_at_most(found: Found) -> None:
    federation = found()
    set_clock(federation, "fr", timedelta(hours=1))
    assert offered(federation) == dict.fromkeys(NAMES, "joins")


def recosigned(federation: Federation, note: bytes, name: str, now: datetime) -> bytes:
    """Replace a witness's line of a checkpoint by one of another time."""
    folder = federation.directory / "nodes" / name / "keys"
    key = SigningKey.load(folder / "witness.key")
    text, _, signatures = note.partition(b"\n\n")
    lines = signatures.splitlines(keepends=True)
    kept = [line for line in lines if f" {key.name} ".encode() not in line]
    assert len(kept) == len(lines) - 1
    fresh = read_claim(note).cosign(key, time=int(now.timestamp()))
    return text + b"\n\n" + b"".join([*kept, fresh])


def test_coordinator_and_one_witness_do_not_freshen_an_old_checkpoint(
    found: Found,
) -> None:
    federation = found()
    assert offered(federation) == dict.fromkeys(NAMES, "joins")
    federation.now = LATER
    now = datetime.now(UTC) + LATER
    note = recosigned(federation, checkpoint_of(federation), "sw", now)
    for name in ("fi", "fr", "id"):
        reply = federation.nodes[name].handle(offer(note))
        assert reason_in(reply) == "stale_checkpoint"
    note = recosigned(federation, note, "id", now)  # a second one is not foreseen
    reply = federation.nodes["fi"].handle(offer(note))
    assert reply.kind is Kind.ADVERTISED_KEYS


@pytest.mark.slow
@pytest.mark.parametrize("bases", [[OTHER], []], ids=["another", "none"])
def test_a_base_that_the_policy_does_not_name_is_refused_in_every_round(
    found: Found, bases: list[str]
) -> None:
    federation = found(
        coordinator={"rounds": 3}, institutions={"fr": {"policy": {"bases": bases}}}
    )
    federation.run()
    assert refusals_of(federation, Kind.ADVERTISE_KEYS) == [("fr", "local_policy")] * 3
    assert all("fr" not in closed.included for closed in federation.closed())
    holds(federation, rounds=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "mean", "momentum": None},
        {"learning_rate": "0.75"},
        {"momentum": "0.25"},
        {"max_norm": "100"},
        {"max_loss_increase": "2"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_outer_step_is_not_changed_in_the_middle_of_a_run(
    found: Found, change: dict[str, str | None]
) -> None:
    federation = found(coordinator={"rounds": 2})
    federation.run_until_killed(nth(Kind.ADVERTISE_KEYS, 5))
    assert len(federation.closed()) == 1
    path = federation.run_folder / "run.toml"
    change_settings(path, RunSettings, {"outer": change})
    with pytest.raises(QuorumError):
        federation.run()
    assert len(federation.closed()) == 1
    assert {reason for _, reason in refusals_of(federation, Kind.ADVERTISE_KEYS)} == {
        "protocol"
    }


def _apply_whatever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator's gate lets everything pass."""

    def lenient(*arguments: Any, **rest: Any) -> Any:
        return dataclasses.replace(measure(*arguments, **rest), fault=None)

    monkeypatch.setattr(acceptance_gate, "measure", lenient)


def test_a_sum_that_is_too_long_is_not_applied_though_the_log_says_so(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    _apply_whatever_it_is(monkeypatch)
    federation = found(coordinator={"outer": {"max_norm": "0.9"}})
    for name in NAMES:
        federation.poison[name] = lambda update: np.full_like(update, 1e6)
    with refused(QuorumError, "quorum-not-reached"):
        federation.run()
    _disputed(federation)


def test_a_sum_out_of_range_is_not_applied_though_the_log_says_so(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tapestry.secagg import client

    honest = client.mask_input

    def mask_input(state: Any, update: Any, **rest: Any) -> Any:
        if state.round.node == NAMES[0]:
            update.values[0] ^= np.uint32(1 << 31)
        return honest(state, update, **rest)

    monkeypatch.setattr(client, "mask_input", mask_input)
    _apply_whatever_it_is(monkeypatch)
    federation = found(
        coordinator={"outer": {"max_norm": "1000000", "max_loss_increase": "1000"}}
    )
    with refused(QuorumError, "quorum-not-reached"):
        federation.run()
    _disputed(federation)


def _disputed(federation: Federation) -> None:
    """The log says applied; every node says no, and the release has no quorum."""
    (closed,) = federation.closed()
    given = federation.base.replica.digest
    assert closed.outcome == "applied"
    assert closed.base_after != given
    assert set(federation.digests().values()) == {given}
    assert {reason for _, reason in refusals_of(federation, Kind.APPLY_RESULT)} == {
        "not_in_log"
    }
    assert not _released(federation)


def _released(federation: Federation) -> bool:
    """Say whether a quorum has cosigned a log with the last release."""
    last = max(
        index
        for index, event in enumerate(federation.logged())
        if isinstance(event.body, ReleasePublished)
    )
    return read_claim(checkpoint_of(federation)).size > last


def test_a_dispute_outlives_a_restart_of_every_node(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator is honest again but for its base; results come no more."""
    honest = AcceptanceGate.judge

    def judge(gate: AcceptanceGate, *arguments: Any, **rest: Any) -> Any:
        verdict = honest(gate, *arguments, **rest)
        values = dict(verdict.replica.parameters)
        values[max(values)] = values[max(values)] + np.float32(1)
        return dataclasses.replace(verdict, replica=replica_of(values))

    monkeypatch.setattr(AcceptanceGate, "judge", judge)
    federation = found()
    with refused(QuorumError, "quorum-not-reached"):
        federation.run()
    last = federation.wire.replies(Kind.COSIGN)[-1].request
    for name in NAMES:
        node = federation.restart(name)
        assert reason_in(node.handle(last)) == "not_in_log"


def test_a_release_of_a_round_whose_result_was_withheld_gets_no_cosignature(
    found: Found,
) -> None:
    """Nodes cannot tell what they were not shown, and vouch for nothing unseen."""
    federation = found()
    for name in NAMES:
        federation.wire.on(name, Kind.APPLY_RESULT, lost, times=100)
    with refused(QuorumError, "quorum-not-reached"):
        federation.run()
    assert not _released(federation)
    assert set(refusals_of(federation, Kind.COSIGN)) == {
        (n, "base_mismatch") for n in NAMES
    }


@pytest.mark.slow
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_once_the_results_come_the_release_is_cosigned(
    found: Found, restart: bool
) -> None:
    """No node has taken the result when the release is in the log: no deadlock."""
    federation = found()
    for name in NAMES:
        federation.wire.on(name, Kind.APPLY_RESULT, lost, times=100)
    with refused(QuorumError, "quorum-not-reached"):
        federation.run()
    assert not _released(federation)
    federation.wire.faults.clear()
    for name in NAMES if restart else ():
        federation.restart(name)
    federation.run()
    assert _released(federation)
    holds(federation, rounds=1)


@pytest.mark.slow
def test_results_that_are_late_hold_up_a_release_and_not_the_run(found: Found) -> None:
    federation = found(coordinator={"rounds": 2, "release_every": 1})
    for name in ("fr", "sw"):
        federation.wire.on(name, Kind.APPLY_RESULT, lost)
    federation.run()
    releases = federation.said(ReleasePublished)
    assert [release.round_number for release in releases] == [1, 2]
    assert all(closed.included == NAMES for closed in federation.closed())
    holds(federation, rounds=2)


@pytest.mark.slow
def test_all_nodes_started_again_after_a_release_go_on(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they followed is on their disks; the results come later."""
    monkeypatch.setattr(node_tracker, "_KNOWN_SECONDS", 0.0)  # each round greets all
    federation = found(coordinator={"rounds": 2, "release_every": 1})
    federation.run_until_killed(second_roll_call(federation))
    assert _released(federation)
    for name in NAMES:
        federation.restart(name)
    federation.run()
    assert federation.aborted() == []
    holds(federation, rounds=2)


def second_roll_call(federation: Federation) -> Callable[[str, Message], bool]:
    """Say when nodes are greeted after the first release."""

    def when(_name: str, message: Message) -> bool:
        if message.kind is not Kind.HELLO:
            return False
        return any(e.get("stage") == "release" for e in federation.events)

    return when


@pytest.mark.slow
def test_a_release_goes_on_without_a_node_that_is_away(found: Found) -> None:
    """It comes back to a log with a release that a quorum has cosigned already."""
    federation = found(coordinator={"rounds": 2, "release_every": 1})
    federation.kill("fr")

    def back(_name: str, _message: Message) -> None:
        released = any(e.get("stage") == "release" for e in federation.events)
        if released and "fr" not in federation.nodes:
            federation.start("fr")

    federation.wire.before = back
    federation.run()
    first, second = federation.closed()
    assert "fr" not in first.included
    assert second.included == NAMES
    assert refusals_of(federation, Kind.COSIGN) == []
    assert federation.digests()["fr"] == federation.digests()["fi"]
    holds(federation, rounds=2)
