"""The events that end a round: reasons of aborts, outcomes of sums."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tapestry.errors import (
    InconsistentLog,
    ProtocolError,
    QuorumError,
    RuleError,
    TapestryError,
    VerificationError,
)
from tapestry.protocol.stages import RoundStage
from tapestry_coordinator.acceptance_gate import GateVerdict
from tapestry_coordinator.closing_event import closing_of, reason_of
from tapestry_coordinator.round import RoundOutcome
from tapestry_governance.events.round_events import RoundClosed
from tests.support.log_world import World, fake_digest
from tests.support.replicas import replica_of

BASE = replica_of({"w": np.zeros(2, dtype=np.float32)})
MANIFEST = World().found().manifest()


@pytest.mark.parametrize(
    ("error", "stage", "reason"),
    [
        (QuorumError("few"), RoundStage.SHARE_KEYS, "quorum_missing"),
        (RuleError("rule"), RoundStage.EVALUATE, "rule_broken"),
        (VerificationError("proof"), RoundStage.EVALUATE, "verification_failed"),
        (VerificationError("shares"), RoundStage.UNMASK, "bad_shares"),
        (InconsistentLog("shares"), RoundStage.UNMASK, "bad_shares"),
        (QuorumError("few"), RoundStage.UNMASK, "quorum_missing"),
        (ProtocolError("bytes"), RoundStage.UNMASK, "protocol"),
    ],
)
def test_an_abort_has_the_reason_of_its_error_and_stage(
    error: TapestryError, stage: RoundStage, reason: str
) -> None:
    assert reason_of(error, RoundOutcome(stage=stage)) == reason


def _closed(reason: str | None, outcome: RoundOutcome) -> RoundClosed:
    survivors = SimpleNamespace(names=("de", "fr"))
    result: Any = SimpleNamespace(
        transcript=SimpleNamespace(survivors=survivors), sum_root=fake_digest("sum")
    )
    verdict = GateVerdict(
        replica=BASE,
        reason=reason,
        norm=0.5,
        measure="bits_per_byte",
        scores={"de": 1.25, "fr": 2.0},
    )
    return closing_of(MANIFEST, result, outcome, verdict=verdict, base=BASE)


OUTCOME = RoundOutcome(
    dropped={
        "id": RoundStage.UNMASK,
        "es": RoundStage.SHARE_KEYS,
        "fr": RoundStage.UNMASK,  # after its upload: it is in the sum
    },
    commitments={"fr": 9, "de": 7, "es": 8},
)


def test_a_sum_that_is_taken_closes_its_round_as_applied() -> None:
    closed = _closed(None, OUTCOME)
    assert (closed.outcome, closed.reason) == ("applied", None)
    assert (closed.run_id, closed.round_number) == (MANIFEST.run_id, 1)
    assert closed.attempt == MANIFEST.attempt
    assert closed.base_before == MANIFEST.model_digest
    assert closed.base_after == BASE.digest
    assert closed.outer_digest == BASE.optimizer.digest
    assert closed.aggregate_digest == fake_digest("sum")
    assert closed.metrics == {
        "bits_per_byte/de": "1.25",
        "bits_per_byte/fr": "2",
        "mean_norm": "0.5",
    }


def test_a_sum_that_the_gate_stops_closes_its_round_as_rejected() -> None:
    closed = _closed("norm_too_large", OUTCOME)
    assert (closed.outcome, closed.reason) == ("rejected", "norm_too_large")


def test_survivors_have_their_commitments_and_others_the_stage_of_their_loss() -> None:
    closed = _closed(None, OUTCOME)
    assert (closed.included, closed.commitments) == (("de", "fr"), (7, 9))
    assert [(each.name, each.stage) for each in closed.dropped] == [
        ("es", RoundStage.SHARE_KEYS),
        ("id", RoundStage.UNMASK),
    ]
