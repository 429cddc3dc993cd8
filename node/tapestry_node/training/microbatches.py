"""Physical batches: what runs at once; they change the result by rounding alone.

Units, which are clipped as one, are packed into groups that fit in memory; the
sequences of a group then run in batches of like length, since padding costs as much as
text.

That takes a model to which the company of a sequence makes no difference. Rotary
frequencies that depend on the batch break it unseen by a trial on short sequences;
``tapestry.workloads.language.architectures`` refuses them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tapestry.workloads.base import Unit

_ALIKE = 0.75  # of the longest sequence in a batch
_BUSY = 256  # tokens in a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Sizes of physical batches."""

    rows: int = 16
    tokens: int = 2048
    gradient_bytes: int = 1 << 30

    def rows_of(self, width: int) -> int:
        """How many sequences of up to ``width`` tokens run at once; at least one."""
        return max(1, min(self.rows, self.tokens // width))

    def hold(self, units: Sequence[Unit]) -> bool:
        """Whether the units run as one physical batch, unless it is one sequence."""
        rows = sum(len(u.sequences) for u in units)
        return rows <= self.rows_of(max(len(s) for u in units for s in u.sequences))


def pack(units: Sequence[Unit], limits: BatchLimits) -> Iterator[list[Unit]]:
    """Cut units into physical batches, those of like length together.

    A unit is never split; one with more sequences than fit stands alone.
    """
    order = sorted(units, key=lambda u: -max(map(len, u.sequences)))
    group: list[Unit] = []
    for unit in order:
        if group and not limits.hold([*group, unit]):
            yield group
            group = []
        group.append(unit)
    if group:
        yield group


def alike(rows: Sequence[Sequence[int]], limits: BatchLimits) -> Iterator[list[int]]:
    """Cut sequences into batches of like length, the longest first; yields places.

    What is shorter is padded, at the price of a token each. A batch ends where that
    gets dear, but not before it has enough tokens to keep a processor busy.
    """
    batch: list[int] = []
    for place in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        width = len(rows[batch[0]]) if batch else 0
        short = len(rows[place]) < _ALIKE * width and len(batch) * width >= _BUSY
        if batch and (short or len(batch) >= limits.rows_of(width)):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
