"""The gate: public held-out data and the length of the sum decide on a step.

A round whose mean update is too long, or after which the mean score over the
institutions' public data grows by more than the plan allows, changes nothing and is
logged so. What is scored, and how, is the workload's (``Evaluation``).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tapestry.encoding import canonical_json, decode_decimal, decode_json
from tapestry.errors import ConfigError
from tapestry.evaluation.held_out import (
    HeldOut,
    check_held_out,
    evaluate_all,
    evaluation_key,
    finite,
    mean_of,
    scores_of,
)
from tapestry.model.replica import Replica, measure
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.secagg.server import Unmasked
from tapestry.workloads.base import Evaluation, Workload
from tapestry.workloads.ratio_score import RatioScore
from tapestry_coordinator.journal import Journal


def logged_evaluations(
    journal: Journal, model_digest: str, *, evaluation: Evaluation, held_out: HeldOut
) -> dict[str, RatioScore] | None:
    """Read what a gate found out about a base; None if it never tried it so."""
    known = journal.facts().get(evaluation_key(evaluation, held_out, model_digest))
    if known is None:
        return None
    found = decode_json(known.encode())
    return {name: RatioScore.from_json(each) for name, each in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """What the gate says of a step; ``reason`` is None when it is taken.

    Guarantees:
        Norm and scores are finite; an institution whose score is not has none.
    """

    replica: Replica
    reason: str | None
    norm: float
    measure: str  # what the scores are
    scores: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceGate:
    """Tries steps before they are taken."""

    workload: Workload
    evaluation: Evaluation
    held_out: HeldOut
    journal: Journal

    def judge(
        self, manifest: RoundManifest, total: Unmasked, *, replica: Replica
    ) -> GateVerdict:
        """Try the step that a sum gives."""
        before = self.scores(replica)
        rejected = partial(
            GateVerdict,
            replica=replica,
            measure=self.evaluation.name,
            scores=finite(before),
        )
        survivors = len(total.transcript.uploads)
        found = measure(total.values, survivors=survivors, manifest=manifest)
        norm = found.norm
        if found.fault is not None:
            return rejected(reason=found.fault, norm=norm)
        candidate = replica.after(
            total.values,
            survivors=survivors,
            manifest=manifest,
            layout=self.workload.layout(manifest.training),
        )
        after = self.scores(candidate)
        limit = mean_of(before) + decode_decimal(manifest.outer.max_loss_increase)
        scores = finite(after)
        if not mean_of(after) <= limit:
            return rejected(reason="held_out_worse", norm=norm, scores=scores)
        return GateVerdict(
            replica=candidate,
            reason=None,
            norm=norm,
            measure=self.evaluation.name,
            scores=scores,
        )

    def check(self, replica: Replica, *, folder: Path) -> None:
        """Ask before the first round what would reject every round.

        Args:
            replica: The base that it starts from; its scores are kept for that round.
            folder: The one that ``held_out`` was read from.

        Raises:
            ConfigError: The model cannot be scored on some data, or gives no finite
                score on those of an institution.
        """
        check_held_out(folder, self.evaluation)
        scores = self.scores(replica)
        if lacking := sorted(scores.keys() - finite(scores).keys()):
            place = f"{folder.name}/{lacking[0]}{self.evaluation.suffix}"
            raise ConfigError(
                f"the base gives no finite {self.evaluation.name.replace('_', ' ')} on"
                f" {place}; its weights are damaged, or too large for float32",
                code="base-score-not-finite",
            )

    def scores(self, replica: Replica) -> dict[str, float]:
        """Score a base on each institution's data; computed once for each base.

        Edge cases:
            A base that breaks has scores that are not finite. They are returned, and
            neither remembered nor printed.
        """
        known = logged_evaluations(
            self.journal,
            replica.digest,
            evaluation=self.evaluation,
            held_out=self.held_out,
        )
        if known is not None:
            return scores_of(known)
        self.workload.load(replica.parameters)
        found = evaluate_all(self.evaluation, self.held_out.sets)
        if all(each.is_finite for each in found.values()):
            plain = {name: each.to_json() for name, each in found.items()}
            key = evaluation_key(self.evaluation, self.held_out, replica.digest)
            self.journal.set_fact(key, canonical_json(plain).decode())
        return scores_of(found)
