"""The rule of the acceptance gate, for the coordinator that applies it and for members.

A step is taken if the mean score over the institutions' public data grows by no more
than the plan allows. Scores are floats, and two processors may differ in their last
digits; so a member disputes an outcome only where its own scores contradict it by more
than ``BAND``, relative to the limit. Norm and range of a sum are whole numbers: there
every difference counts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tapestry.encoding import decode_decimal
from tapestry.errors import VerificationError
from tapestry.evaluation.held_out import finite, mean_of
from tapestry.protocol.round_manifest import OuterPlan

BAND = 1e-3
WORSE = "held_out_worse"  # the reason of a step that the scores reject


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Scores by institution before and after a step."""

    before: Mapping[str, float]
    after: Mapping[str, float]

    def limit(self, plan: OuterPlan) -> float:
        """Return the largest mean score after the step that the plan allows."""
        return mean_of(self.before) + decode_decimal(plan.max_loss_increase)

    def is_worse(self, plan: OuterPlan) -> bool:
        """Return True if the gate rejects the step; also if a score is not finite."""
        return not mean_of(self.after) <= self.limit(plan)


def check_outcome(
    scored: Scored,
    *,
    plan: OuterPlan,
    reason: str | None,
    claimed: Mapping[str, float],
) -> None:
    """Compare the outcome of a round, as the log has it, with a member's own scores.

    ``reason`` is why the log says the step was rejected, None if it was applied;
    ``claimed`` are the scores after the step that the log names.

    Raises:
        VerificationError: The log rejects a step that the member's scores accept,
            applies one that they reject, or names other scores, each by more than
            ``BAND``; it names a reason that is none of the gate's; or the scores
            before the step are not finite.
    """
    limit, mean = scored.limit(plan), mean_of(scored.after)
    if not math.isfinite(limit):
        raise VerificationError(
            f"the scores before the step allow {limit}; no step can be judged",
            code="gate-score-not-finite",
        )
    slack = BAND * abs(limit)
    said = f"{mean:.6g} here, at most {limit:.6g} is allowed"
    if reason not in {None, WORSE}:
        raise VerificationError(
            f"the log rejects the step for {reason!r}, which its sum does not show",
            code="gate-reason-unfounded",
        )
    if reason is None and not mean <= limit + slack:
        raise VerificationError(
            f"the log applies a step with a mean score of {said}",
            code="gate-outcome-differs",
        )
    if reason is not None and mean <= limit - slack:
        raise VerificationError(
            f"the log rejects a step with a mean score of {said}",
            code="gate-outcome-differs",
        )
    own = finite(scored.after)
    if own.keys() != claimed.keys():
        raise VerificationError(
            f"the log has scores of {sorted(claimed)}, here are those of {sorted(own)}",
            code="gate-scores-differ",
        )
    for name, value in own.items():
        if abs(value - claimed[name]) > BAND * abs(value):
            raise VerificationError(
                f"the log has the score {claimed[name]:.6g} for {name}, here it is"
                f" {value:.6g}",
                code="gate-scores-differ",
            )
