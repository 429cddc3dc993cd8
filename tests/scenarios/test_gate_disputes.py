"""A coordinator that lies about the gate, or ends a round after a list was sent."""

import dataclasses
from typing import Any

import pytest

from tapestry.errors import QuorumError, TapestryError
from tapestry.protocol.messages import Kind, Message
from tapestry_coordinator.acceptance_gate import AcceptanceGate, GateVerdict
from tapestry_coordinator.node_tracker import NodeTracker
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.round_events import RoundDisputed
from tests.scenarios.conftest import Found
from tests.support.federation import NAMES, Federation, changed
from tests.support.refusals import refused


def _judge(monkeypatch: pytest.MonkeyPatch, **lie: object) -> None:
    honest = AcceptanceGate.judge

    def judge(gate: AcceptanceGate, *arguments: Any, **rest: Any) -> GateVerdict:
        found = honest(gate, *arguments, **rest)
        return dataclasses.replace(found, **lie)  # type: ignore[arg-type]

    monkeypatch.setattr(AcceptanceGate, "judge", judge)


def _disputes(federation: Federation) -> list[tuple[int, str]]:
    return [(b.round_number, b.subject) for b in federation.said(RoundDisputed)]


def test_a_good_step_that_is_called_bad_ends_the_run_and_is_in_the_log(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To repeat the round without a victim, and to look at the difference."""
    federation = found(coordinator={"rounds": 3})
    _judge(monkeypatch, reason="held_out_worse")
    with pytest.raises(TapestryError):
        federation.run()
    (closed,) = federation.closed()
    assert closed.outcome == "rejected"
    assert _disputes(federation) == [(1, "gate")] * len(NAMES)
    assert all(
        n.store.disputed_gates() == [("run", 1)] for n in federation.nodes.values()
    )
    assert {number for _, number in federation.uploads()} == {1}


@pytest.mark.slow
def test_a_dispute_outlives_a_restart(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(coordinator={"rounds": 2})
    with monkeypatch.context() as patch:
        _judge(patch, reason="held_out_worse")
        with pytest.raises(TapestryError):
            federation.run()
    for name in NAMES:
        federation.restart(name)
    with refused(QuorumError, "rounds-failed"):
        federation.run()
    assert {number for _, number in federation.uploads()} == {1}


def test_scores_that_are_not_the_steps_get_no_release(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    _judge(monkeypatch, scores=dict.fromkeys(NAMES, 0.5))
    with pytest.raises(QuorumError):
        federation.run()
    assert _disputes(federation) == [(1, "gate")] * len(NAMES)


def test_a_rejection_whose_result_is_withheld_ends_the_run(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base stays as it is, so the base alone shows nothing."""
    federation = found(coordinator={"rounds": 3})
    _judge(monkeypatch, reason="held_out_worse")
    monkeypatch.setattr(NodeTracker, "send_result", lambda *_, **__: set())
    with pytest.raises(TapestryError):
        federation.run()
    assert {number for _, number in federation.uploads()} == {1}
    assert len(federation.closed()) == 1


def test_a_round_whose_data_nobody_has_is_not_joined(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    monkeypatch.setattr(NodeTracker, "show_held_out", lambda *_, **__: set())
    with pytest.raises(TapestryError):
        federation.run()
    assert federation.uploads() == {}
    assert set(federation.refusals().values()) == {"maintenance"}


def test_held_out_data_that_the_round_does_not_name_are_not_taken(
    found: Found,
) -> None:
    federation = found()

    def other(request: Message) -> Message:
        files = [b'{"text": "easy"}\n', *request.attachments[1:]]
        return dataclasses.replace(request, attachments=files)

    federation.wire.on("fr", Kind.SHOW_HELD_OUT, changed(other), times=10)
    federation.run()
    replies = federation.wire.replies(Kind.SHOW_HELD_OUT)
    refusals = [e for e in replies if e.reply and e.reply.kind is Kind.REFUSAL]
    assert {e.node for e in refusals} == {"fr"}
    assert federation.digests()["fr"] == federation.base.replica.digest
    (closed,) = federation.closed()
    assert (closed.outcome, "fr" in closed.included) == ("applied", False)


@pytest.mark.slow
def test_an_aborted_round_names_those_whose_sum_may_be_known(found: Found) -> None:
    federation = found()

    def at_reveal(name: str, message: Message) -> bool:
        return message.kind is Kind.UNMASK and name == "id"

    federation.run_until_killed(at_reveal)
    federation.run()
    (aborted,) = federation.aborted()
    assert (aborted.reason, aborted.survivors) == ("coordinator_restarted", NAMES)
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_a_round_that_is_aborted_before_a_list_names_no_survivors(
    found: Found,
) -> None:
    federation = found()
    federation.run_until_killed(lambda _, m: m.kind is Kind.SHARE_KEYS)
    federation.run()
    (aborted,) = federation.aborted()
    assert aborted.survivors == ()
