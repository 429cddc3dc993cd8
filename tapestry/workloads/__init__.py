"""What can be trained: one small protocol, behind which nothing else is known.

A *record* is encoded into a ``Unit``: the sequences that belong to it and that are
clipped as one. The update of a node is a vector in the order of ``layout``.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tapestry.protocol import TrainingPlan
from tapestry.vector import FloatVector, Layout, Parameters

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One record as token sequences, each of 2 to ``sequence_length`` tokens."""

    sequences: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Total code length of some text under a model."""

    bits: float
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        """Comparable across tokenizers; lower is better."""
        return self.bits / self.bytes


class Workload(Protocol):
    """A loaded model and how its records become losses."""

    @property
    def module(self) -> "nn.Module":
        """The torch module."""
        ...

    def parameters(self) -> dict[str, FloatVector]:
        """Copy all parameters out, by name, float32."""
        ...

    def load(self, parameters: Parameters) -> None:
        """Copy parameters in.

        Raises:
            ProtocolError: Names or shapes differ from the model's.
        """
        ...

    def layout(self, plan: TrainingPlan) -> Layout:
        """Order the trained tensors.

        With ``low_rank``: B of each target module, shape (out, rank), under the name
        of the dense weight that it moves.
        """
        ...

    def attach(
        self, plan: TrainingPlan
    ) -> "AbstractContextManager[list[tuple[str, nn.Parameter]]]":
        """Make exactly the tensors of ``layout`` trainable, in that order.

        With ``low_rank`` B starts at zero over the public factor A
        (``tapestry.low_rank.factor``). On leaving, nothing is attached any more and
        every parameter has the value from before.
        """
        ...

    def encode(self, texts: Sequence[str], *, sequence_length: int) -> list[Unit]:
        """Turn each text into one unit; a text too short for a loss gives none."""
        ...

    def losses(self, sequences: Sequence[Sequence[int]]) -> "Tensor":
        """Mean token loss in nats of each sequence, shape (len(sequences),).

        No value depends on any other sequence of the batch.
        """
        ...

    def evaluate(self, texts: Sequence[str], *, sequence_length: int) -> Evaluation:
        """Code length of the texts, without gradients."""
        ...

    def save(self, directory: Path) -> None:
        """Write the model in its own ecosystem's layout, safetensors only."""
        ...
