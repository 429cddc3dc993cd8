"""Physical batches, which run at once and change the result by rounding alone.

Examples, which are clipped as one, are packed into groups that fit in memory; the rows
of a group then run in batches of like length, since padding costs as much as data.

The loss of a row must not depend on the other rows of a batch. A trial on short rows
does not show every such dependence, so the workload refuses models that are not known
to be free of it (``Workload.check_private``).
"""

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass

from tapestry.workloads.base import Example

_ALIKE = 0.75  # of the longest row in a batch
_BUSY = 256  # elements in a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Sizes of physical batches."""

    rows: int = 16
    elements: int = 2048  # of all rows that run at once, padding included
    gradient_bytes: int = 1 << 30
    recompute: bool = False  # layers on the way back, rather than keep what they gave

    def rows_of(self, width: int) -> int:
        """Count the rows of up to ``width`` elements that run at once; at least one."""
        return max(1, min(self.rows, self.elements // width))

    def hold(self, examples: Sequence[Example]) -> bool:
        """Return true if the examples run as one physical batch."""
        rows = sum(len(each.rows) for each in examples)
        return rows <= self.rows_of(max(len(s) for e in examples for s in e.rows))


def pack(examples: Sequence[Example], limits: BatchLimits) -> Iterator[list[Example]]:
    """Cut examples into physical batches, those of like length together.

    An example is never split; one with more rows than fit stands alone.
    """
    order = sorted(examples, key=lambda each: -max(map(len, each.rows)))
    group: list[Example] = []
    for example in order:
        if group and not limits.hold([*group, example]):
            yield group
            group = []
        group.append(example)
    if group:
        yield group


def alike(rows: Sequence[Sized], limits: BatchLimits) -> Iterator[list[int]]:
    """Cut rows into batches of like length, the longest first; yields places.

    Shorter rows are padded. A batch ends where the padding gets too large, but not
    before it has enough elements to keep a processor busy.
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
