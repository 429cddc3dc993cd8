"""Scores of bases on held-out data, each computed once.

The coordinator scores each step at the gate, and every member scores it again. What a
score depends on is in its key, so a score that is known stands for no other.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass, field

from tapestry.encoding import canonical_json, digest
from tapestry.evaluation.held_out import HeldOut, evaluate_all, evaluation_key
from tapestry.model.replica import Replica
from tapestry.protocol.round_manifest import GateInputs
from tapestry.workloads.base import Evaluation, Workload
from tapestry.workloads.ratio_score import RatioScore

KnownScores = MutableMapping[str, dict[str, RatioScore]]


def gate_inputs(evaluation: Evaluation, held_out: HeldOut) -> GateInputs:
    """Name held-out data and evaluation, as the manifest of a round does."""
    settings = canonical_json([evaluation.name, dict(evaluation.settings)])
    return GateInputs(held_out=held_out.digest, evaluation=digest(settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A workload, an evaluation of it and the data that it is scored on."""

    workload: Workload
    evaluation: Evaluation
    held_out: HeldOut
    known: KnownScores = field(default_factory=dict)  # may be shared in one process

    def scores(self, replica: Replica) -> dict[str, RatioScore]:
        """Score a base on each institution's data, rounded as a release of it is."""
        key = evaluation_key(self.evaluation, self.held_out, replica.release_digest)
        if key not in self.known:
            self.workload.load(replica.rounded())
            self.known[key] = evaluate_all(self.evaluation, self.held_out.sets)
        return self.known[key]
