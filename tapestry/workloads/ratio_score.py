"""The score of a model on one set of public data: a sum of amounts over a sum of sizes.

Bits over bytes of text are one such score, squared errors over their number another.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tapestry.encoding import decode_decimal, encode_decimal

LARGEST = 1e17  # a plain decimal has at most 18 digits before its point


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioScore:
    """The amount that a model pays for each piece of data, and the piece's size."""

    amounts: tuple[float, ...]
    sizes: tuple[int, ...]

    @property
    def amount(self) -> float:
        """The amount for all pieces."""
        return math.fsum(self.amounts)

    @property
    def size(self) -> int:
        """The size of all pieces."""
        return sum(self.sizes)

    @property
    def score(self) -> float:
        """Amount per size; lower is better."""
        return self.amount / self.size

    @property
    def is_finite(self) -> bool:
        """True if every amount has a plain decimal spelling."""
        return all(abs(amount) < LARGEST for amount in self.amounts)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` returned."""
        return cls(
            amounts=tuple(map(decode_decimal, plain["amounts"])),
            sizes=tuple(plain["sizes"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON, amounts as decimals."""
        return {
            "amounts": list(map(encode_decimal, self.amounts)),
            "sizes": list(self.sizes),
        }

    def difference_error(self, other: "RatioScore") -> float | None:
        """Estimate the standard error of the difference of two models' scores.

        Both models were scored on the same data, so the error is that of a ratio of
        sums over paired pieces, linearized (Cochran, Sampling Techniques, 3rd ed.,
        section 6.3). It tells how much depends on which data were held out, and nothing
        about how another training would have turned out.

        Edge cases:
            One piece, or pieces of other sizes, allow no estimate: None.
        """
        sizes = self.sizes
        if len(sizes) < 2 or sizes != other.sizes:
            return None
        gap = (self.amount - other.amount) / self.size
        pairs = zip(self.amounts, other.amounts, sizes, strict=True)
        squares = [(mine - theirs - gap * size) ** 2 for mine, theirs, size in pairs]
        spread = math.fsum(squares) * len(sizes) / (len(sizes) - 1)
        return math.sqrt(spread) / self.size
