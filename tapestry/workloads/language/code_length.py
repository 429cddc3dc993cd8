"""Code lengths of texts under a language model, and bits per byte."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tapestry.encoding import decode_fraction, encode_fraction
from tapestry.workloads.base import LARGEST_SCORE


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeLength:
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

    @property
    def score(self) -> float:
        """Bits per byte."""
        return self.bits_per_byte

    @property
    def is_finite(self) -> bool:
        """Whether every text has a code length with a plain decimal spelling."""
        return all(abs(bits) < LARGEST_SCORE for bits in self.bits_by_text)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` returned."""
        return cls(
            bits_by_text=tuple(map(decode_fraction, plain["bits"])),
            bytes_by_text=tuple(plain["bytes"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON, bits as decimals."""
        return {
            "bits": list(map(encode_fraction, self.bits_by_text)),
            "bytes": list(self.bytes_by_text),
        }

    def difference_error(self, other: "CodeLength") -> float | None:
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
