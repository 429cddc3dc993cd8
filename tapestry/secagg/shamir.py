"""Secret sharing: any threshold of shares recovers a secret (Shamir 1979).

The field is that of the integers mod p = 2**256 + 297, the least prime above 2**256,
so every 32-byte string is a secret. A share is the value of a polynomial of degree
t - 1 at a node's place in the cohort, counted from 1; it takes 33 bytes, big-endian.
The secret is the value at zero.

Python's integers do not take constant time. Shares are computed on the node alone,
so only an attacker on the same machine could measure it.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tapestry.errors import ProtocolError, QuorumError, VerificationError
from tapestry.protocol.secagg_messages import SHARE_BYTES
from tapestry.secagg.masks import keystream_into

PRIME = 2**256 + 297
SECRET_BYTES = 32
_WIDE_BYTES = 48  # reduced mod p this is uniform up to 2**-127
_REDUCE_EVERY = 16
_LIMBS, _LIMB_BITS = 8, 32  # 256 bits as an array
_MAX_PLACE = 2**20 - 1
_SUBSETS = 5_000


def coefficients(seed: bytes, count: int) -> list[int]:
    """Draw uniform field elements from a 32-byte seed.

    Each is 48 bytes of the AES-256-CTR keystream under the seed, big-endian, mod p.
    """
    stream = memoryview(bytearray(count * _WIDE_BYTES))
    keystream_into(seed)(stream)
    return [
        int.from_bytes(stream[at : at + _WIDE_BYTES], "big") % PRIME
        for at in range(0, count * _WIDE_BYTES, _WIDE_BYTES)
    ]


def split(
    secret: bytes, threshold: int, *, places: Sequence[int], seed: bytes
) -> dict[int, bytes]:
    """Split a secret into one share per place.

    Guarantees:
        Any ``threshold`` shares recover the secret; fewer are independent of it.
        Equal arguments give equal shares, so a repeated call tells nothing new.

    Args:
        secret: 32 bytes.
        threshold: How many shares recover it.
        places: Distinct numbers from 1, below 2**20.
        seed: 32 secret bytes, used for this secret alone.

    Raises:
        ValueError: A wrong length, a place out of range, or more shares needed than
            made.
    """
    if len(secret) != SECRET_BYTES or len(seed) != SECRET_BYTES:
        raise ValueError("secret and seed take 32 bytes")
    least, most = min(places), max(places)
    if not 1 <= least <= most <= _MAX_PLACE or not 1 <= threshold <= len(places):
        raise ValueError(f"threshold {threshold} for {len(places)} places to {most}")
    drawn = coefficients(seed, threshold - 1)
    polynomial = [int.from_bytes(secret, "big"), *drawn]
    values = _evaluate_all(polynomial, places)
    rows = zip(places, values, strict=True)
    return {place: value.to_bytes(SHARE_BYTES, "big") for place, value in rows}


def decode_share(share: bytes) -> int:
    """Read a share.

    Raises:
        ProtocolError: The share has not 33 bytes, or its number is not below the
            prime.
    """
    if len(share) != SHARE_BYTES:
        raise ProtocolError(
            f"share of {len(share)} bytes, want {SHARE_BYTES}",
            code="share-size-invalid",
        )
    value = int.from_bytes(share, "big")
    if value >= PRIME:
        raise ProtocolError(
            "share is not below the prime of the field, 2**256 + 297",
            code="share-not-in-field",
        )
    return value


def recover_checked(
    shares: Mapping[int, bytes],
    threshold: int,
    *,
    accept: Callable[[bytes], bool],
    suspects: Sequence[int] = (),
) -> tuple[bytes, tuple[int, ...]]:
    """Recover a secret although some shares are wrong, and return the wrong ones.

    Guarantees:
        What is returned passed ``accept``. With m shares it is found whenever at
        most (m - t) // 2 are wrong; when there are up to 5,000 subsets of t (all
        cohorts up to 16), whenever t are right. There, no place is named whose share
        is right, even if the others conspire: two liars can make t shares fit the
        secret on another polynomial, and then none is named at all. In larger
        cohorts names hold while at most (m - t) // 2 lie.

    Args:
        shares: Place to share.
        threshold: How many recover the secret.
        accept: Says whether a candidate is the secret that the dealer committed to.
        suspects: Places whose shares were wrong before; tried last.

    Returns:
        The secret, and the places whose shares were found wrong. Shares that the
        first attempt did not need go unchecked.

    Raises:
        QuorumError: There are fewer shares than ``threshold``.
        ProtocolError: A share is malformed (``decode_share``).
        VerificationError: No combination gives the committed secret.
    """
    if len(shares) < threshold:
        raise QuorumError(
            f"{len(shares)} shares of the {threshold} that are needed",
            code="shares-too-few",
        )
    points = {x: decode_share(share) for x, share in shares.items()}
    order = sorted(points.keys() - suspects) + sorted(points.keys() & suspects)
    secret = _try(points, order[:threshold], accept)
    if secret is not None:
        return secret, ()
    subsets: Iterable[tuple[int, ...]] = itertools.combinations(order, threshold)
    if math.comb(len(order), threshold) > _SUBSETS:
        subsets = _decoded(points, threshold)
    found = _search(points, subsets, accept)
    if not found:
        raise VerificationError(
            f"no {threshold} of {len(shares)} shares give the secret committed to",
            code="secret-not-recovered",
        )
    secret = next(iter(found.values()))
    fitting = next(iter(found)) if len(found) == 1 else frozenset(points)
    return secret, tuple(sorted(points.keys() - fitting))


def _try(
    points: Mapping[int, int], places: Iterable[int], accept: Callable[[bytes], bool]
) -> bytes | None:
    value = _at({x: points[x] for x in places}, 0)
    if value >> 256:
        return None
    secret = value.to_bytes(SECRET_BYTES, "big")
    return secret if accept(secret) else None


def _search(
    points: Mapping[int, int],
    subsets: Iterable[tuple[int, ...]],
    accept: Callable[[bytes], bool],
) -> dict[frozenset[int], bytes]:
    """Map the places on each polynomial that gives the secret to that secret."""
    found: dict[frozenset[int], bytes] = {}
    for places in subsets:
        if any(fitting.issuperset(places) for fitting in found):
            continue
        secret = _try(points, places, accept)
        if secret is not None:
            chosen = {x: points[x] for x in places}
            fitting = frozenset(x for x in points if _at(chosen, x) == points[x])
            found[fitting] = secret
    return found


def _decoded(points: Mapping[int, int], threshold: int) -> list[tuple[int, ...]]:
    """Find t places on the polynomial that most points lie on, if there is one."""
    polynomial = decode_polynomial(points, threshold)
    if polynomial is None:
        return []
    good = [x for x in points if _evaluate(polynomial, x) == points[x]]
    return [tuple(good[:threshold])]


def _evaluate_all(polynomial: Sequence[int], places: Sequence[int]) -> list[int]:
    """Evaluate at many places at once, in arrays: three times as fast as one by one.

    A value is eight limbs of 32 bits, least first. A step multiplies it by its place
    and adds a coefficient; then each limb hands what it has over 32 bits to the next,
    and the last to the first, since 2**256 is -297 mod p. A limb stays below 2**33 in
    absolute value, and a product below 2**54.
    """
    width = np.int64(_LIMB_BITS)
    at = np.array(places, dtype=np.int64)
    values = np.zeros((_LIMBS, len(places)), dtype=np.int64)
    for coefficient in _limbs(polynomial)[::-1]:
        values *= at
        values += coefficient[:, np.newaxis]
        carry = values >> width
        values -= carry << width
        values[1:] += carry[:-1]
        values[0] -= (PRIME - 2**256) * carry[-1]
    return [
        sum(limb << (_LIMB_BITS * i) for i, limb in enumerate(limbs)) % PRIME
        for limbs in values.T.tolist()
    ]


def _limbs(numbers: Sequence[int]) -> npt.NDArray[np.int64]:
    """Cut field elements into limbs, one row each; the last may take a bit more."""
    size = _LIMB_BITS // 8
    data = b"".join(n.to_bytes(size * (_LIMBS + 1), "little") for n in numbers)
    rows = np.frombuffer(data, dtype="<u4").reshape(-1, _LIMBS + 1).astype(np.int64)
    rows[:, -2] += rows[:, -1] << np.int64(_LIMB_BITS)
    return rows[:, :-1]


def _evaluate(polynomial: Sequence[int], x: int) -> int:
    value = 0
    for step, coefficient in enumerate(reversed(polynomial)):
        value = value * x + coefficient
        if step % _REDUCE_EVERY == 0:  # x is small, so reducing can wait
            value %= PRIME
    return value % PRIME


@lru_cache(maxsize=256)
def _lagrange(places: tuple[int, ...], x: int) -> tuple[int, ...]:
    """Return what to multiply the values at ``places`` by to get the value at x."""
    factors = []
    for place in places:
        top = bottom = 1
        for other in places:
            if other != place:
                top = top * (x - other) % PRIME
                bottom = bottom * (place - other) % PRIME
        factors.append(top * pow(bottom, -1, PRIME) % PRIME)
    return tuple(factors)


def _at(points: Mapping[int, int], x: int) -> int:
    factors = _lagrange(tuple(points), x)
    total: int = sum(map(operator.mul, factors, points.values()))
    return total % PRIME


def decode_polynomial(points: Mapping[int, int], size: int) -> list[int] | None:
    """Find the polynomial of ``size`` coefficients that most points lie on.

    The decoder of Gao (2003) for Reed-Solomon codes: it corrects (m - size) // 2
    wrong points of m.

    Returns:
        The coefficients, the constant first; nothing if too many are wrong.
    """
    product, through = [1], [0]
    for x, y in points.items():
        gap = (y - _evaluate(through, x)) * pow(_evaluate(product, x), -1, PRIME)
        through = _add(through, [gap * c for c in product])
        product = _add([0, *product], [-x * c for c in product])
    last, now = product, through
    last_v: list[int] = [0]
    now_v: list[int] = [1]
    while 2 * (len(now) - 1) >= len(points) + size:
        quotient, rest = _divide(last, now)
        last, now = now, rest
        last_v, now_v = now_v, _add(last_v, [-c for c in _multiply(quotient, now_v)])
    quotient, rest = _divide(now, now_v)
    return None if any(rest) or len(quotient) > size else quotient


def _add(a: Sequence[int], b: Sequence[int]) -> list[int]:
    pairs = itertools.zip_longest(a, b, fillvalue=0)
    return _trim([(x + y) % PRIME for x, y in pairs])


def _multiply(a: Sequence[int], b: Sequence[int]) -> list[int]:
    result = [0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] += x * y
    return _trim([c % PRIME for c in result])


def _divide(a: Sequence[int], b: Sequence[int]) -> tuple[list[int], list[int]]:
    rest, quotient = list(a), [0] * max(1, len(a) - len(b) + 1)
    inverse = pow(b[-1], -1, PRIME)
    for shift in range(len(a) - len(b), -1, -1):
        factor = rest[shift + len(b) - 1] * inverse % PRIME
        quotient[shift] = factor
        if factor:
            for i, c in enumerate(b):
                rest[shift + i] = (rest[shift + i] - factor * c) % PRIME
    return _trim(quotient), _trim(rest)


def _trim(polynomial: list[int]) -> list[int]:
    while len(polynomial) > 1 and polynomial[-1] == 0:
        polynomial.pop()
    return polynomial
