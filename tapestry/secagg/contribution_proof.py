"""The contributions of one survivor in message 10, and the proof of its commitments.

A node commits to its contributions by one Merkle tree. Its leaves are the commitments
in order of the receivers' names, without another hash; otherwise it is as in RFC 6962.
Message 10 shows the contributions to the nodes that dropped out. The tree is walked
from the left: a part without such a leaf gives its hash, such a leaf gives the
contribution. So all that a survivor shows has one proof, which is never longer than the
list of its commitments.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from tapestry.errors import VerificationError
from tapestry.tlog.merkle import EMPTY_ROOT, HASH_BYTES, node_hash

Commit = Callable[[int, bytes], bytes]  # leaf, contribution: the commitment to it


def root_of(commitments: Sequence[bytes]) -> bytes:
    """Compute the root over commitments; that of none is the hash of nothing."""
    level = list(commitments)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        odd = level[len(level) & ~1 :]  # moves up as it is
        level = [*map(node_hash, level[::2], level[1::2]), *odd]
    return level[0]


def show(
    commitments: Sequence[bytes], places: Sequence[int], contributed: Sequence[bytes]
) -> bytes:
    """Show some contributions, and the hashes that lead to the root.

    Args:
        commitments: The leaves.
        places: Those of what is shown, in ascending order.
        contributed: The contributions, as many.
    """
    parts: list[bytes] = []

    def walk(start: int, stop: int, first: int, last: int) -> None:
        if first == last:
            parts.append(root_of(commitments[start:stop]))
        elif stop - start == 1:
            parts.append(contributed[first])
        else:
            middle = start + _left(stop - start)
            between = bisect_left(places, middle, first, last)
            walk(start, middle, first, between)
            walk(middle, stop, between, last)

    walk(0, len(commitments), 0, len(places))
    return b"".join(parts)


def read(
    shown: bytes, *, count: int, places: Sequence[int], commit: Commit
) -> tuple[bytes, list[bytes]]:
    """Read contributions and compute the root that they lead to.

    Guarantees:
        With the number of leaves and the places given, bytes of one length are read;
        two readings with one root have the same commitment at each of the places.

    Args:
        shown: What ``show`` returned.
        count: The number of leaves.
        places: Those of what is shown, in ascending order; one at least.
        commit: The commitment to what is shown at a leaf.

    Returns:
        The root, and the contributions.

    Raises:
        VerificationError: There are too many or too few bytes.
    """
    parts = iter(
        [shown[at : at + HASH_BYTES] for at in range(0, len(shown), HASH_BYTES)]
    )
    found: list[bytes] = []

    def walk(start: int, stop: int, first: int, last: int) -> bytes:
        if first == last:
            return next(parts)
        if stop - start == 1:
            found.append(next(parts))
            return commit(start, found[-1])
        middle = start + _left(stop - start)
        between = bisect_left(places, middle, first, last)
        left = walk(start, middle, first, between)
        return node_hash(left, walk(middle, stop, between, last))

    try:
        root = walk(0, count, 0, len(places))
    except StopIteration:
        raise _other_size(shown) from None
    if len(shown) % HASH_BYTES or next(parts, None) is not None:
        raise _other_size(shown)
    return root, found


def _left(count: int) -> int:
    """Return the largest power of two below ``count``, for ``count`` over one."""
    return 1 << ((count - 1).bit_length() - 1)


def _other_size(shown: bytes) -> VerificationError:
    return VerificationError(
        f"{len(shown)} bytes are no proof of these contributions",
        code="contribution-proof-size-invalid",
    )
