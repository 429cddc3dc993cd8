"""The acceptance gate: held-out data and the norm of the sum decide on a step.

A round is rejected, changes nothing and is logged so if its mean update has too large
a norm, or if the mean score over the institutions' public data grows by more than the
plan allows. The workload defines the score (``Evaluation``). What is scored is the
model that a release would hold, rounded to the types of the given base.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import ConfigError
from tapestry.evaluation.acceptance import WORSE, Scored
from tapestry.evaluation.held_out import (
    HeldOut,
    check_held_out,
    evaluation_key,
    finite,
    scores_of,
)
from tapestry.evaluation.scorer import Scorer
from tapestry.model.replica import Replica, measure
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.secagg.server import Unmasked
from tapestry.workloads.base import Evaluation
from tapestry.workloads.ratio_score import RatioScore
from tapestry_coordinator.journal import Journal


def logged_evaluations(
    journal: Journal, model_digest: str, *, evaluation: Evaluation, held_out: HeldOut
) -> dict[str, RatioScore] | None:
    """Read the scores of a base from a journal; None if it was never scored so."""
    known = journal.facts().get(evaluation_key(evaluation, held_out, model_digest))
    if known is None:
        return None
    found = decode_json(known.encode())
    return {name: RatioScore.from_json(each) for name, each in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """The gate's verdict on a step; ``reason`` is None when the step is taken.

    Guarantees:
        Norm and scores are finite; an institution without a finite score is left out.
    """

    replica: Replica
    reason: str | None
    norm: float
    measure: str  # the name of the score
    scores: dict[str, float]  # by institution


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceGate:
    """The test that a step must pass before it is taken."""

    scorer: Scorer
    journal: Journal

    def judge(
        self, manifest: RoundManifest, total: Unmasked, *, replica: Replica
    ) -> GateVerdict:
        """Test the step that a sum gives."""
        before = self.scores(replica)
        survivors = len(total.transcript.uploads)
        found = measure(total.values, survivors=survivors, manifest=manifest)
        name = self.scorer.evaluation.name
        verdict = partial(GateVerdict, norm=found.norm, measure=name)
        if found.fault is not None:
            return verdict(replica=replica, reason=found.fault, scores=finite(before))
        candidate = replica.after(
            total.values,
            survivors=survivors,
            manifest=manifest,
            layout=self.scorer.workload.layout(manifest.training),
        )
        after = self.scores(candidate)
        scores = finite(after)
        if Scored(before=before, after=after).is_worse(manifest.outer):
            return verdict(replica=replica, reason=WORSE, scores=scores)
        return verdict(replica=candidate, reason=None, scores=scores)

    def check(self, replica: Replica, *, folder: Path) -> None:
        """Score a base before the first round, which would be rejected without scores.

        ``folder`` is the one that ``held_out`` was read from.

        Raises:
            ConfigError: The model cannot be scored on some data, or gives no finite
                score on the data of an institution.
        """
        evaluation = self.scorer.evaluation
        check_held_out(folder, evaluation)
        scores = self.scores(replica)
        if lacking := sorted(scores.keys() - finite(scores).keys()):
            place = f"{folder.name}/{lacking[0]}{evaluation.suffix}"
            raise ConfigError(
                f"the base gives no finite {evaluation.name.replace('_', ' ')} on"
                f" {place}; its weights are damaged, or too large for float32",
                code="base-score-not-finite",
            )

    def scores(self, replica: Replica) -> dict[str, float]:
        """Score what would be released; computed once for each such model.

        Edge cases:
            A base with damaged or overflowing weights has scores that are not finite.
            They are returned, but not stored.
        """
        evaluation, held_out = self.scorer.evaluation, self.scorer.held_out
        known = logged_evaluations(
            self.journal,
            replica.release_digest,
            evaluation=evaluation,
            held_out=held_out,
        )
        if known is not None:
            return scores_of(known)
        found = self.scorer.scores(replica)
        if all(each.is_finite for each in found.values()):
            plain = {name: each.to_json() for name, each in found.items()}
            key = evaluation_key(evaluation, held_out, replica.release_digest)
            self.journal.set_fact(key, canonical_json(plain).decode())
        return scores_of(found)
