"""Sequences whose items are made when they are asked for.

Records and examples may be more than memory holds. Whoever goes through them one by
one, or draws a few, needs no more than those.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar, overload

from tapestry.workloads.base import Example

_Item = TypeVar("_Item", covariant=True)
_ROOM = 128 << 20  # bytes of encoded examples that are kept
_ELEMENT_BYTES = 40  # an integer of Python and the place that refers to it


class LazySequence(Sequence[_Item]):
    """A sequence of a known length that makes each item anew."""

    def __init__(self, count: int, make: Callable[[int], _Item]) -> None:
        """Take the number of items, and what makes the item of a place."""
        self._count, self._make = count, make

    def __len__(self) -> int:
        """Count the items; none is made."""
        return self._count

    @overload
    def __getitem__(self, place: int) -> _Item: ...
    @overload
    def __getitem__(self, place: slice) -> "LazySequence[_Item]": ...
    def __getitem__(self, place: int | slice) -> "_Item | LazySequence[_Item]":
        """Make an item, or a shorter sequence."""
        places = range(self._count)[place]
        if isinstance(places, int):
            return self._make(places)
        return LazySequence(len(places), lambda each: self._make(places[each]))


class LazyExamples(LazySequence[Example]):
    """Examples that are encoded when they are drawn; the last ones are kept.

    Edge cases:
        An example that alone is larger than the room is kept until the next one.
    """

    def __init__(
        self, count: int, encode: Callable[[int], Example], *, room: int = _ROOM
    ) -> None:
        """Take what encodes the record of a place, and the bytes that may be kept."""
        super().__init__(count, self._recall)
        self._encode, self._room, self._used = encode, room, 0
        self._kept: OrderedDict[int, Example] = OrderedDict()

    def _recall(self, place: int) -> Example:
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        found = self._kept[place] = self._encode(place)
        self._used += _size(found)
        while self._used > self._room and len(self._kept) > 1:
            self._used -= _size(self._kept.popitem(last=False)[1])
        return found


def drawn(found: Sequence[_Item], most: int = 10_000) -> Sequence[_Item]:
    """Return all items or, of more than ``most``, so many that are drawn by lot."""
    if len(found) <= most:
        return found
    places = sorted(secrets.SystemRandom().sample(range(len(found)), most))
    return LazySequence(most, lambda each: found[places[each]])


def _size(example: Example) -> int:
    """Estimate the bytes of an example in memory."""
    return 500 + _ELEMENT_BYTES * sum(map(len, example.rows))
