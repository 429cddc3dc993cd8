"""Nodes come and go: at every stage, one too many, and back again."""

from pathlib import Path

import pytest

from tapestry.errors import QuorumError
from tapestry.protocol.messages import Kind
from tapestry.protocol.stages import RoundStage
from tapestry_governance.audit.verify import AuditVerdict
from tests.scenarios.conftest import Found
from tests.support.federation import (
    NAMES,
    Fault,
    Federation,
    corrupted,
    doubled,
    lost,
    replayed,
    unanswered,
)
from tests.support.refusals import refused

OTHERS = tuple(name for name in NAMES if name != "fr")
STAGES = {
    RoundStage.ADVERTISE_KEYS: Kind.ADVERTISE_KEYS,
    RoundStage.SHARE_KEYS: Kind.SHARE_KEYS,
    RoundStage.COLLECT_MASKED_INPUTS: Kind.COLLECT_MASKED_INPUTS,
    RoundStage.CHECK_CONSISTENCY: Kind.CHECK_CONSISTENCY,
    RoundStage.UNMASK: Kind.UNMASK,
}


def _holds(federation: Federation) -> None:
    """Whatever happened, the log verifies and nobody uploaded twice."""
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS
    assert set(federation.uploads().values()) == {1}


@pytest.mark.parametrize("fault", [lost, unanswered], ids=["request", "reply"])
@pytest.mark.parametrize("stage", [*STAGES][:3], ids=str)
def test_a_node_lost_before_the_upload_counted_is_left_out_of_the_sum(
    found: Found, stage: RoundStage, fault: Fault
) -> None:
    federation = found()
    federation.wire.on("fr", STAGES[stage], fault)
    federation.run()
    (closed,) = federation.closed()
    assert closed.included == OTHERS
    assert [(d.name, d.stage) for d in closed.dropped] == [("fr", stage)]
    assert len(set(federation.digests().values())) == 1
    _holds(federation)


@pytest.mark.parametrize("stage", [*STAGES][3:], ids=str)
def test_a_node_lost_after_its_upload_stays_in_the_sum(
    found: Found, stage: RoundStage
) -> None:
    federation = found()
    federation.wire.on("fr", STAGES[stage], lost)
    federation.run()
    (closed,) = federation.closed()
    assert closed.included == NAMES
    assert closed.dropped == ()
    assert set(federation.digests().values()) == {closed.base_after}
    _holds(federation)


@pytest.mark.parametrize(
    "stage",
    [
        RoundStage.SHARE_KEYS,
        RoundStage.UNMASK,
        *(
            pytest.param(s, marks=pytest.mark.slow)
            for s in STAGES
            if s not in (RoundStage.SHARE_KEYS, RoundStage.UNMASK)
        ),
    ],
)
def test_below_the_floor_the_round_aborts_and_the_next_one_goes_on(
    found: Found, stage: RoundStage
) -> None:
    federation = found()
    for name in ("fr", "id"):
        federation.wire.on(name, STAGES[stage], lost)
    federation.run()
    (aborted,) = federation.aborted()
    assert (aborted.round_number, aborted.stage) == (1, stage)
    (closed,) = federation.closed()
    assert closed.round_number == 2
    assert closed.included == NAMES
    assert closed.base_before == federation.base.replica.digest
    _holds(federation)


def test_what_was_uploaded_for_an_aborted_round_is_spent_and_logged(
    found: Found,
) -> None:
    federation = found()
    for name in ("fr", "id"):
        federation.wire.on(name, Kind.CHECK_CONSISTENCY, lost)
    federation.run()
    for node in federation.nodes.values():
        rows = node.ledger.rows()
        assert [(r.charge.number, r.state) for r in rows] == [
            (1, "spent"),
            (2, "spent"),
        ]
    assert federation.committed() == {(n, r): 1 for n in NAMES for r in (1, 2)}


def test_a_node_that_did_not_upload_gets_its_reservation_back(found: Found) -> None:
    federation = found(coordinator={"rounds": 2})
    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, lost)
    federation.run()
    rows = federation.nodes["fr"].ledger.rows()
    assert [(r.charge.number, r.state) for r in rows] == [(2, "spent")]


def test_a_run_ends_when_round_after_round_fails(found: Found) -> None:
    federation = found()
    for name in ("fr", "id"):
        federation.wire.on(name, Kind.ADVERTISE_KEYS, lost, times=100)
    with refused(QuorumError, "rounds-failed"):
        federation.run()
    assert federation.closed() == []
    assert len(federation.aborted()) >= 2


@pytest.mark.parametrize("kind", [Kind.APPLY_RESULT, Kind.COSIGN], ids=str)
def test_a_late_node_catches_up_by_the_results_it_missed(
    found: Found, kind: Kind
) -> None:
    federation = found(coordinator={"rounds": 2})
    times = 3 if kind is Kind.COSIGN else 1  # the whole first round goes by
    federation.wire.on("fr", kind, lost, times=times)
    federation.run()
    assert [body.round_number for body in federation.closed()] == [1, 2]
    assert federation.closed()[1].included == NAMES
    assert set(federation.digests().values()) == {federation.closed()[1].base_after}
    _holds(federation)


@pytest.mark.slow
def test_a_node_that_was_away_for_a_round_comes_back(found: Found) -> None:
    federation = found(coordinator={"rounds": 2})
    federation.kill("fr")

    def back(_name: str, _message: object) -> None:
        last = federation.events[-1] if federation.events else {}
        if last.get("round_stage") == "close" and "fr" not in federation.nodes:
            federation.start("fr")

    federation.wire.before = back
    federation.run()
    first, second = federation.closed()
    assert first.included == OTHERS
    assert second.included == NAMES
    assert set(federation.digests().values()) == {second.base_after}
    _holds(federation)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [*STAGES.values(), Kind.COSIGN, Kind.APPLY_RESULT], ids=str
)
def test_a_request_that_arrives_twice_does_no_harm(found: Found, kind: Kind) -> None:
    """The second one is answered or refused; the sum is right without it."""
    federation = found()
    federation.wire.on("fr", kind, doubled)
    federation.run()
    (closed,) = federation.closed()
    assert {*closed.included, "fr"} == set(NAMES)
    assert set(federation.digests().values()) == {closed.base_after}
    _holds(federation)


@pytest.mark.parametrize("kind", list(STAGES.values()), ids=str)
def test_a_second_answer_never_gives_away_more(found: Found, kind: Kind) -> None:
    federation = found()
    federation.wire.on("fr", kind, replayed)
    federation.run()
    (closed,) = federation.closed()
    assert closed.outcome == "applied"
    _holds(federation)


@pytest.mark.parametrize("place", ["body", "attachment"])
def test_an_upload_that_was_garbled_on_its_way_is_left_out(
    found: Found, place: str
) -> None:
    federation = found()
    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, corrupted(place))
    federation.run()
    (closed,) = federation.closed()
    assert closed.included == OTHERS
    _holds(federation)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        Kind.ADVERTISE_KEYS,
        Kind.SHARE_KEYS,
        Kind.CHECK_CONSISTENCY,
        Kind.UNMASK,
        Kind.COSIGN,
    ],
    ids=str,
)
def test_a_garbled_reply_counts_as_none(found: Found, kind: Kind) -> None:
    federation = found()
    federation.wire.on("fr", kind, corrupted("body"))
    federation.run()
    (closed,) = federation.closed()
    assert len(closed.included) >= 3
    _holds(federation)


@pytest.mark.slow
def test_the_folder_of_a_run_is_all_it_needs(found: Found, tmp_path: Path) -> None:
    """What the coordinator leaves names no other place on the disk."""
    federation = found()
    federation.run()
    assert str(tmp_path) not in (federation.run_folder / "run.toml").read_text()
