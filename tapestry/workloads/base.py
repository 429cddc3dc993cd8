"""What can be trained: one small protocol, behind which nothing else is known.

A *record* is encoded into a ``Unit``: the sequences that belong to it and that are
clipped as one. The update of a node is a vector in the order of ``layout``.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tapestry.protocol.wire_messages import TrainingPlan
from tapestry.vectors import FloatVector, Layout, Parameters
from tapestry.workloads.language.dialogue import Text

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One record as token sequences, each of 2 to ``sequence_length`` tokens.

    A token that is context only, and adds nothing to the loss, stands as its
    complement ``~token``; each sequence has at least one that counts.
    """

    sequences: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Code lengths of some texts under a model, text by text."""

    bits_by_text: tuple[float, ...]
    bytes_by_text: tuple[int, ...]

    @property
    def bits(self) -> float:
        """Code length of all texts."""
        return math.fsum(self.bits_by_text)

    @property
    def bytes(self) -> int:
        """Length of all texts in UTF-8."""
        return sum(self.bytes_by_text)

    @property
    def bits_per_byte(self) -> float:
        """Comparable across tokenizers; lower is better."""
        return self.bits / self.bytes

    def difference_error(self, other: "Evaluation") -> float | None:
        """Standard error of the difference of two models' bits per byte.

        Both models wrote the same texts, so the error is that of a ratio of sums over
        paired texts, linearized (Cochran, Sampling Techniques, 3rd ed., section 6.3).
        It tells how much depends on which texts were held out, and nothing about how
        another training would have turned out.

        Args:
            other: The other model on the same texts.

        Edge cases:
            One text, or texts of other lengths: None, nobody knows.
        """
        sizes = self.bytes_by_text
        if len(sizes) < 2 or sizes != other.bytes_by_text:
            return None
        gap = (self.bits - other.bits) / self.bytes
        pairs = zip(self.bits_by_text, other.bits_by_text, sizes, strict=True)
        squares = [(mine - theirs - gap * size) ** 2 for mine, theirs, size in pairs]
        spread = math.fsum(squares) * len(sizes) / (len(sizes) - 1)
        return math.sqrt(spread) / self.bytes


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

        Raises:
            ConfigError: The plan does not fit the model.
        """
        ...

    def choose_targets(self) -> tuple[str, ...]:
        """Name the targets of a low-rank plan where settings leave them open.

        Raises:
            ConfigError: Nothing in this model can be targeted.
        """
        ...

    def attach(
        self, plan: TrainingPlan
    ) -> "AbstractContextManager[list[tuple[str, nn.Parameter]]]":
        """Make exactly the tensors of ``layout`` trainable, in that order.

        With ``low_rank`` B starts at zero over the public factor A
        (``tapestry.model.low_rank.factor``). On leaving, nothing is attached any more
        and every parameter has the value from before.
        """
        ...

    def encode(self, texts: Sequence[Text], *, sequence_length: int) -> list[Unit]:
        """Turn each text into one unit; a text too short for a loss gives none."""
        ...

    def find_fault(self, text: Text) -> str | None:
        """Say why a text cannot be scored or its question not be asked, or None."""
        ...

    def losses(self, sequences: Sequence[Sequence[int]]) -> "Tensor":
        """Mean loss in nats of the tokens that count, shape (len(sequences),).

        No value depends on any other sequence of the batch.
        """
        ...

    def evaluate(self, texts: Sequence[Text], *, sequence_length: int) -> Evaluation:
        """Code length of texts and of the answers of dialogues, without gradients."""
        ...

    def save(self, directory: Path) -> None:
        """Write the model in its own ecosystem's layout, safetensors only."""
        ...
