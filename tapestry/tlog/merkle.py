"""Merkle trees of a log: roots and proofs (RFC 6962, RFC 9162).

RFC 6962, section 2.1, with SHA-256::

    leaf  = SHA-256(0x00 || entry)         root of nothing = SHA-256("")
    node  = SHA-256(0x01 || left || right)

A tree of n leaves splits at the largest power of two below n. The two prefixes
keep a leaf from being taken for a node. Everything here works on leaf *hashes*;
only :func:`leaf_hash` sees an entry.

``root`` keeps a logarithmic number of hashes. ``Tree`` holds all of them and makes
proofs: a party that serves a log keeps one.
"""

import hashlib
from collections.abc import Iterable, Sequence

from tapestry.errors import InconsistentLog, VerificationError

EMPTY_ROOT = hashlib.sha256(b"").digest()
HASH_BYTES = 32


def leaf_hash(entry: bytes | memoryview) -> bytes:
    """Hash an entry into a leaf, without copying it."""
    state = hashlib.sha256(b"\x00")
    state.update(entry)
    return state.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into their parent."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Iterable[bytes]) -> bytes:
    """Compute the root over leaf hashes; memory is logarithmic in their number."""
    peaks: list[bytes] = []  # roots of perfect subtrees, the largest first
    for size, leaf in enumerate(leaves):
        _check_hash(leaf)
        carried, merges = leaf, size
        while merges & 1:  # one merge for each trailing one bit, as in a counter
            carried, merges = node_hash(peaks.pop(), carried), merges >> 1
        peaks.append(carried)
    return root_of_peaks(peaks)


def root_of_peaks(peaks: Sequence[bytes]) -> bytes:
    """Compute the root over perfect subtrees, the largest first."""
    if not peaks:
        return EMPTY_ROOT
    result = peaks[-1]
    for peak in reversed(peaks[:-1]):
        result = node_hash(peak, result)
    return result


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """List the hashes that lead from one leaf to the root, the lowest first."""
    return Tree(leaves).inclusion_proof(index)


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """List the hashes that show the first ``old_size`` leaves to be a prefix."""
    return Tree(leaves).consistency_proof(old_size)


class Tree:
    """All hashes of a growing tree, level by level.

    Guarantees:
        ``root`` and proofs exist for every size up to the present one; each
        takes a logarithmic number of hash operations.
    """

    __slots__ = ("_levels",)

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        """Start with some leaf hashes."""
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.push(leaf)

    @property
    def size(self) -> int:
        """The number of leaves."""
        return len(self._levels[0])

    def push(self, leaf: bytes) -> None:
        """Append one leaf hash."""
        _check_hash(leaf)
        height = 0
        self._levels[0].append(leaf)
        while len(self._levels[height]) % 2 == 0:
            left, right = self._levels[height][-2:]
            height += 1
            if height == len(self._levels):
                self._levels.append([])
            self._levels[height].append(node_hash(left, right))

    def nodes(self, height: int, start: int, stop: int) -> list[bytes]:
        """Return roots of perfect subtrees of ``2 ** height`` leaves each.

        Raises:
            ValueError: The range reaches beyond the perfect subtrees there are.
        """
        level = self._levels[height] if height < len(self._levels) else []
        if not 0 <= start <= stop <= len(level):
            raise ValueError(f"no nodes {start} to {stop} at height {height}")
        return level[start:stop]

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first ``size`` leaves, by default all."""
        size = self._check_size(size)
        return self._subtree(0, size) if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Prove that a leaf is in the tree of ``size`` leaves (RFC 6962, 2.1.1).

        Raises:
            ValueError: There is no such leaf in a tree of that size.
        """
        size = self._check_size(size)
        if not 0 <= index < size:
            raise ValueError(f"no leaf {index} in a tree of {size}")
        proof: list[bytes] = []
        start, stop = 0, size
        while stop - start > 1:
            middle = start + _split(stop - start)
            if index < middle:
                proof.append(self._subtree(middle, stop))
                stop = middle
            else:
                proof.append(self._subtree(start, middle))
                start = middle
        return proof[::-1]

    def consistency_proof(self, old_size: int, size: int | None = None) -> list[bytes]:
        """Prove that a smaller tree is a prefix (RFC 6962, 2.1.2).

        Edge cases:
            Between equal sizes and from the empty tree the proof is empty.

        Raises:
            ValueError: The old size is above the new one.
        """
        size = self._check_size(size)
        if not 0 <= old_size <= size:
            raise ValueError(f"no proof from size {old_size} to {size}")
        if old_size in (0, size):
            return []
        proof: list[bytes] = []
        start, stop, whole = 0, size, True
        while old_size != stop:
            middle = start + _split(stop - start)
            if old_size <= middle:
                proof.append(self._subtree(middle, stop))
                stop = middle
            else:
                proof.append(self._subtree(start, middle))
                start, whole = middle, False
        if not whole:
            proof.append(self._subtree(start, stop))
        return proof[::-1]

    def _subtree(self, start: int, stop: int) -> bytes:
        count = stop - start
        if count & (count - 1) == 0:  # a perfect subtree; start is aligned with it
            return self._levels[count.bit_length() - 1][start // count]
        middle = start + _split(count)
        return node_hash(self._subtree(start, middle), self._subtree(middle, stop))

    def _check_size(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise ValueError(f"no tree of {size} among {self.size} leaves")
        return size


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that a leaf is at ``index`` in the tree (RFC 9162, 2.1.3.2).

    Guarantees:
        Each proof has one length: a hash more or less is an error, and so is a hash of
        another length than 32 bytes.

    Raises:
        VerificationError: The proof does not lead to the root.
    """
    if not _are_hashes([leaf, root, *proof]):
        raise VerificationError(
            f"the inclusion proof of leaf {index} has a hash that is not of"
            f" {HASH_BYTES} bytes",
            code="inclusion-proof-invalid",
        )
    if not 0 <= index < size:
        raise VerificationError(
            f"no leaf {index} in a tree of {size}", code="inclusion-proof-invalid"
        )
    if len(proof) != _inclusion_length(index, size):
        raise VerificationError(
            f"inclusion proof of {len(proof)} hashes for leaf {index} of {size}, want"
            f" {_inclusion_length(index, size)}",
            code="inclusion-proof-invalid",
        )
    current, position, last = leaf, index, size - 1
    for sibling in proof:
        if position & 1 or position == last:
            current = node_hash(sibling, current)
            while position and not position & 1:  # levels without a sibling
                position, last = position >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        position, last = position >> 1, last >> 1
    if current != root:
        raise VerificationError(
            f"leaf {index} is not under the root at size {size}",
            code="inclusion-proof-invalid",
        )


def verify_consistency(
    *, old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the old tree is a prefix of the new one (RFC 9162, 2.1.4.2).

    Edge cases:
        Between equal sizes the roots must be equal and the proof empty; the
        empty tree is a prefix of every tree, with an empty proof.

    Raises:
        InconsistentLog: The roots contradict each other or the proof is wrong.
    """
    if not _are_hashes([old_root, root, *proof]):
        raise InconsistentLog(
            f"the consistency proof of size {old_size} has a hash that is not of"
            f" {HASH_BYTES} bytes",
            code="consistency-proof-invalid",
        )
    if not 0 <= old_size <= size:
        raise InconsistentLog(
            f"a log of {old_size} entries cannot shrink to {size}", code="log-shrunk"
        )
    if old_size in (0, size):
        want = root if old_size else EMPTY_ROOT
        if proof or old_root != want or (size == 0 and root != EMPTY_ROOT):
            raise InconsistentLog(
                f"two roots for the log at size {old_size}", code="log-forked"
            )
        return
    if _rebuild(proof, old_size=old_size, old_root=old_root, size=size) != (
        old_root,
        root,
    ):
        raise InconsistentLog(
            f"size {old_size} is not a prefix of size {size}",
            code="consistency-proof-invalid",
        )


def _rebuild(
    proof: Sequence[bytes], *, old_size: int, old_root: bytes, size: int
) -> tuple[bytes, bytes] | None:
    """Compute both roots from a consistency proof; None when it has no such shape."""
    hashes = list(proof)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old_root)  # a perfect old tree is its own first hash
    position, last = old_size - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    if not hashes:
        return None
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return None
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        position, last = position >> 1, last >> 1
    return (old, new) if last == 0 else None


def _split(count: int) -> int:
    """Return the largest power of two below ``count``, for ``count`` over one."""
    return 1 << ((count - 1).bit_length() - 1)


def _inclusion_length(index: int, size: int) -> int:
    """Count inner siblings plus the left borders above them (RFC 6962, 2.1.1)."""
    inner = (index ^ (size - 1)).bit_length()
    return inner + (index >> inner).bit_count()


def _are_hashes(values: Sequence[bytes]) -> bool:
    """A shorter or longer one would shift the border between two hashes of a node."""
    return all(len(value) == HASH_BYTES for value in values)


def _check_hash(leaf: bytes) -> None:
    if len(leaf) != HASH_BYTES:
        raise ValueError(f"leaf hash of {len(leaf)} bytes, want {HASH_BYTES}")
