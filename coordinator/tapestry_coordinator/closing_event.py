"""The events that end a round: its outcome, or the reason of its abort."""

from tapestry.encoding import encode_decimal
from tapestry.errors import QuorumError, RuleError, TapestryError, VerificationError
from tapestry.model.replica import Replica
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Result
from tapestry.protocol.stages import RoundStage
from tapestry_coordinator.acceptance_gate import GateVerdict
from tapestry_coordinator.round import RoundOutcome
from tapestry_governance.events.round_events import Dropped, RoundClosed

_REASONS = {  # of an abort, for the log
    QuorumError: "quorum_missing",
    RuleError: "rule_broken",
    VerificationError: "verification_failed",
}


def reason_of(error: TapestryError, outcome: RoundOutcome) -> str:
    """Return the word with which the log gives the reason of an abort."""
    if outcome.stage is RoundStage.UNMASK and isinstance(error, VerificationError):
        return "bad_shares"
    return _REASONS.get(type(error), "protocol")


def closing_of(
    manifest: RoundManifest,
    result: Result,
    outcome: RoundOutcome,
    *,
    verdict: GateVerdict,
    base: Replica,
) -> RoundClosed:
    """Return the event that closes a round, with its outcome and scores."""
    names = result.transcript.survivors.names
    dropped = sorted(set(outcome.dropped) - set(names))
    scores = {
        f"{verdict.measure}/{name}": encode_decimal(value)
        for name, value in verdict.scores.items()
    }
    return RoundClosed(
        run_id=manifest.run_id,
        round_number=manifest.round_number,
        attempt=manifest.attempt,
        outcome="rejected" if verdict.reason else "applied",
        reason=verdict.reason,
        included=names,
        dropped=tuple(Dropped(name=n, stage=outcome.dropped[n]) for n in dropped),
        commitments=tuple(outcome.commitments[name] for name in names),
        aggregate_digest=result.sum_root,
        base_before=manifest.model_digest,
        base_after=base.digest,
        release_digest=base.release_digest,
        outer_digest=base.optimizer.digest,
        metrics={**scores, "mean_norm": encode_decimal(verdict.norm)},
    )
