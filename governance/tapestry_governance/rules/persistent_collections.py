"""A map, a list and a Merkle tree that share storage with the ones they grew from.

Each entry of the log makes the next state of the federation, which is a value. An
update copies only the path from the root of a tree to the place that changes, a
logarithmic number of small nodes, and shares all others with its predecessor.

Guarantees:
    No object changes after it was made. Any number of successors may be made of the
    same object, and none of them sees another.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from tapestry.tlog.merkle import node_hash, root_of_peaks

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

_BITS = 5
_WIDTH = 1 << _BITS  # children of an inner node; entries of a leaf before it splits
_DEEPEST = 12  # levels of _BITS bits that a hash has; a leaf below never splits
_MISSING: Any = object()

_Leaf = dict[Any, Any]
_Node = Any  # a leaf, or a tuple of _WIDTH nodes


class PersistentMap(Mapping[K, V]):
    """An immutable map; :meth:`set` and :meth:`without` return others.

    Keys are hashable and can be compared: iteration is in their order, so that it does
    not depend on the seed of Python's string hashes. A lookup and an update cost
    O(log n), an iteration O(n log n).
    """

    __slots__ = ("_length", "_root")

    def __init__(self) -> None:
        self._root: _Node = {}
        self._length = 0

    def set(self, key: K, value: V) -> "PersistentMap[K, V]":
        """Return a map that has this value under this key."""
        made: PersistentMap[K, V] = PersistentMap()
        made._root = _set(self._root, hash(key), key, value, 0)
        made._length = self._length + (key not in self)
        return made

    def without(self, key: K) -> "PersistentMap[K, V]":
        """Return a map that lacks a key.

        Raises:
            KeyError: This map has no such key.
        """
        if key not in self:
            raise KeyError(key)
        made: PersistentMap[K, V] = PersistentMap()
        made._root = _remove(self._root, hash(key), key)
        made._length = self._length - 1
        return made

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value under a key, or a default."""
        node, bits = self._root, hash(key)
        while type(node) is tuple:
            node, bits = node[bits & (_WIDTH - 1)], bits >> _BITS
        return node.get(key, default)

    def __getitem__(self, key: K) -> V:
        """Return the value under a key.

        Raises:
            KeyError: This map has no such key.
        """
        value: V = self.get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return self.get(key, _MISSING) is not _MISSING

    def __iter__(self) -> Iterator[K]:
        return iter(sorted(_keys(self._root)))

    def __len__(self) -> int:
        return self._length

    def __hash__(self) -> int:
        return hash(self._length)

    def __repr__(self) -> str:
        return f"PersistentMap({dict(self)!r})"


class PersistentList(Generic[T]):
    """An immutable list that grows at its end; :meth:`append` returns another.

    Appending costs O(1), and so does each step from the end towards the start.
    """

    __slots__ = ("_last", "_length")

    def __init__(self) -> None:
        self._last: Any = None  # an item and what was before it; None for no item
        self._length = 0

    def append(self, item: T) -> "PersistentList[T]":
        """Return a list with one more item."""
        made: PersistentList[T] = PersistentList()
        made._last, made._length = (item, self._last), self._length + 1
        return made

    @property
    def last(self) -> T | None:
        """The newest item, or None."""
        return None if self._last is None else self._last[0]

    def newest_first(self) -> Iterator[T]:
        """Iterate from the end to the start."""
        cell = self._last
        while cell is not None:
            item, cell = cell
            yield item

    def while_newest(self, condition: Callable[[T], bool]) -> list[T]:
        """Return the items at the end that all meet a condition, oldest first."""
        found = []
        for item in self.newest_first():
            if not condition(item):
                break
            found.append(item)
        return found[::-1]

    def __iter__(self) -> Iterator[T]:
        return iter(list(self.newest_first())[::-1])

    def __len__(self) -> int:
        return self._length

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PersistentList):
            return NotImplemented
        return len(self) == len(other) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(self._length)

    def __repr__(self) -> str:
        return f"PersistentList({list(self)!r})"


class PersistentTree:
    """An immutable RFC 6962 tree that grows; :meth:`push` returns another.

    Unlike ``tapestry.tlog.merkle.Tree`` it makes no proofs. It knows the root of every
    size up to its own.
    """

    __slots__ = ("_peaks", "size")

    def __init__(self) -> None:
        self._peaks: tuple[Any, ...] = ()  # perfect subtrees, the largest first
        self.size = 0

    def push(self, leaf: bytes) -> "PersistentTree":
        """Return a tree with one more leaf hash."""
        made = PersistentTree()
        peaks, carried, merges = self._peaks, leaf, self.size
        node: Any = leaf
        while merges & 1:  # one merge for each trailing one bit, as in a counter
            left = peaks[-1]
            carried = node_hash(_hash(left), carried)
            node, peaks, merges = (left, node, carried), peaks[:-1], merges >> 1
        made._peaks, made.size = (*peaks, node), self.size + 1
        return made

    def root(self, size: int) -> bytes:
        """Return the root over the first leaves.

        Raises:
            ValueError: The tree has fewer leaves than that.
        """
        if not 0 <= size <= self.size:
            raise ValueError(f"no prefix of {size} entries in a log of {self.size}")
        return root_of_peaks(list(self._perfect(size)))

    def leaf(self, index: int) -> bytes:
        """Return one leaf hash.

        Raises:
            ValueError: The tree has no leaf of this index.
        """
        if not 0 <= index < self.size:
            raise ValueError(f"no leaf {index} in a tree of {self.size}")
        rest = index
        for height, peak in self._heights():
            if rest < 1 << height:
                return _leaf(peak, height, rest)
            rest -= 1 << height
        raise AssertionError("the peaks do not hold all leaves")

    def _perfect(self, size: int) -> Iterator[bytes]:
        """Iterate over the perfect subtrees that a prefix consists of."""
        rest = size
        for height, peak in self._heights():
            if rest < 1 << height:
                yield from _prefix(peak, height, rest)
                return
            yield _hash(peak)
            rest -= 1 << height

    def _heights(self) -> Iterator[tuple[int, Any]]:
        """Iterate over the peaks with their heights: one for each bit of the size."""
        bits = range(self.size.bit_length() - 1, -1, -1)
        heights = (bit for bit in bits if self.size >> bit & 1)
        return zip(heights, self._peaks, strict=True)


def _leaf(node: Any, height: int, index: int) -> bytes:
    while height:
        height -= 1
        node = node[index >> height & 1]
    found: bytes = node
    return found


def _prefix(node: Any, height: int, rest: int) -> Iterator[bytes]:
    """Iterate over the perfect subtrees of the first leaves below a node."""
    while rest:
        height -= 1
        left, right, _ = node
        if rest >= 1 << height:
            yield _hash(left)
            rest -= 1 << height
            node = right
        else:
            node = left


def _hash(node: Any) -> bytes:
    found: bytes = node[2] if type(node) is tuple else node
    return found


def _set(node: _Node, bits: int, key: Any, value: Any, depth: int) -> _Node:
    if type(node) is tuple:
        at = bits & (_WIDTH - 1)
        child = _set(node[at], bits >> _BITS, key, value, depth + 1)
        return (*node[:at], child, *node[at + 1 :])
    leaf: _Leaf = {**node, key: value}
    if len(leaf) <= _WIDTH or depth == _DEEPEST:
        return leaf
    children: tuple[_Leaf, ...] = tuple({} for _ in range(_WIDTH))
    for each, held in leaf.items():
        children[hash(each) >> (_BITS * depth) & (_WIDTH - 1)][each] = held
    return children


def _remove(node: _Node, bits: int, key: Any) -> _Node:
    if type(node) is tuple:
        at = bits & (_WIDTH - 1)
        child = _remove(node[at], bits >> _BITS, key)
        return (*node[:at], child, *node[at + 1 :])
    return {each: held for each, held in node.items() if each != key}


def _keys(node: _Node) -> Iterator[Any]:
    if type(node) is tuple:
        for child in node:
            yield from _keys(child)
    else:
        yield from node
