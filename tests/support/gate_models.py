"""A model whose score is its first weight, and held-out data: tests of the gate."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapestry.encoding import digest, encode_decimal
from tapestry.evaluation.held_out import HeldOut, digest_of
from tapestry.evaluation.scorer import gate_inputs
from tapestry.protocol.round_manifest import GateInputs, Participant, RoundManifest
from tapestry.tensor_types import widen
from tapestry.vectors import Layout
from tapestry.workloads.language.bits_per_byte import BitsPerByte
from tapestry.workloads.ratio_score import RatioScore
from tapestry_governance.events.round_events import RoundClosed
from tapestry_node.round.gate_check import GateCheck
from tests.support.plans import round_manifest

LENGTH = 16
FILES = {
    "fr.jsonl": b'{"text":"a"}\n{"text":"b"}\n',
    "id.jsonl": b'{"text":"c"}\n',
}
HELD_OUT = HeldOut(
    sets={"fr": ["a", "b"], "id": ["c"]},
    digest=digest_of({Path(name).stem: digest(data) for name, data in FILES.items()}),
)


@dataclass
class ScoredModel:
    """A workload whose code length is 3 plus its first weight; counts evaluations."""

    drawn: Layout
    slope: float = 1.0
    value: float = 0.0
    count: int = 0
    unfit: tuple[str, ...] = ()

    def layout(self, _plan: object) -> Layout:
        return self.drawn

    def load(self, parameters: Mapping[str, Any]) -> None:
        self.value = self.slope * float(widen(parameters["w"]).ravel()[0])

    def evaluate(
        self, texts: list[str], *, sequence_length: int, coarse: bool
    ) -> RatioScore:
        assert (sequence_length, coarse) == (LENGTH, False)
        self.count += 1
        return RatioScore(
            amounts=tuple(3 + self.value for _ in texts),
            sizes=tuple(1 for _ in texts),
        )

    def find_fault(self, text: object) -> str | None:
        return "is not tokenizable" if text in self.unfit else None

    def evaluation(self, _options: object) -> BitsPerByte:
        model: Any = self
        return BitsPerByte(model=model, sequence_length=LENGTH)


def inputs() -> GateInputs:
    """Name data and evaluation, as a round's manifest does."""
    return gate_inputs(ScoredModel(Layout(tensors=())).evaluation(None), HELD_OUT)


def metrics(value: float, *, norm: float = 1.0) -> dict[str, str]:
    """Spell norm and scores of a base with this first weight, as the log has them."""
    scores = {
        f"bits_per_byte/{name}": encode_decimal(3 + value) for name in HELD_OUT.sets
    }
    return {**scores, "mean_norm": encode_decimal(norm)}


def naming(gate: GateInputs) -> RoundManifest:
    """Plan a round that names these data."""
    names = ("a.example", "b.example")
    return round_manifest([Participant(name=n, key="k") for n in names], gate=gate)


def gate_check(
    folder: Path,
    layout: Layout,
    dispute: Callable[[RoundClosed], None],
    *,
    slope: float = 1.0,
) -> GateCheck:
    """Open a member's gate in a folder, with the data in place."""
    workload: Any = ScoredModel(layout, slope=slope)
    gate = GateCheck(workload, folder=folder, dispute=dispute)
    gate.keep(naming(inputs()), list(FILES), list(FILES.values()))
    return gate
