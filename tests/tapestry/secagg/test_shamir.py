"""Shares: any threshold of them recovers, one less knows nothing, liars are found."""

import itertools
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ProtocolError, QuorumError, VerificationError
from tapestry.secagg import shamir
from tapestry.secagg.shamir import (
    PRIME,
    coefficients,
    decode_polynomial,
    decode_share,
    recover_checked,
    split,
)
from tests.support.attackers import recover
from tests.support.refusals import refused

secrets32 = st.binary(min_size=32, max_size=32)


@given(secret=secrets32, seed=secrets32, data=st.data())
def test_any_threshold_of_shares_recovers(
    secret: bytes, seed: bytes, data: st.DataObject
) -> None:
    places = data.draw(st.lists(st.integers(1, 1000), min_size=1, unique=True))
    threshold = data.draw(st.integers(1, len(places)))
    shares = split(secret, threshold, places=places, seed=seed)
    chosen = data.draw(st.permutations(places))[:threshold]
    assert recover({x: shares[x] for x in chosen}, threshold) == secret


extreme = st.sampled_from([0, 1, 2**256 - 1, 2**256, PRIME - 1]) | st.integers(
    0, PRIME - 1
)


@given(
    secret=secrets32 | st.just(b"\xff" * 32),
    drawn=st.lists(extreme, max_size=40),
    others=st.sets(st.integers(2, 2**20 - 2), min_size=40, max_size=40),
)
def test_a_share_is_the_value_of_the_polynomial(
    secret: bytes, drawn: list[int], others: set[int]
) -> None:
    places = [1, *others, 2**20 - 1]
    with patch.object(shamir, "coefficients", lambda *_: drawn):
        shares = split(secret, len(drawn) + 1, places=places, seed=bytes(32))
    polynomial = [int.from_bytes(secret, "big"), *drawn]
    for x, share in shares.items():
        value = sum(c * x**k for k, c in enumerate(polynomial)) % PRIME
        assert decode_share(share) == value


@pytest.mark.parametrize("place", [0, -1, 2**20])
def test_a_place_out_of_range_is_refused(place: int) -> None:
    with pytest.raises(ValueError, match="place"):
        split(bytes(32), 2, places=[1, place], seed=bytes(32))


@pytest.mark.parametrize(("count", "threshold"), [(4, 3), (5, 2), (7, 5)])
def test_every_subset_of_the_threshold_recovers(count: int, threshold: int) -> None:
    secret = bytes(range(32))
    shares = split(secret, threshold, places=range(1, count + 1), seed=b"\1" * 32)
    for chosen in itertools.combinations(shares, threshold):
        assert recover({x: shares[x] for x in chosen}, threshold) == secret
    for chosen in itertools.combinations(shares, threshold - 1):
        with refused(QuorumError, "shares-too-few", match=f"^{threshold - 1} "):
            recover({x: shares[x] for x in chosen}, threshold)


@given(secret=secrets32, other=secrets32, seed=secrets32)
def test_one_share_less_is_consistent_with_every_secret(
    secret: bytes, other: bytes, seed: bytes
) -> None:
    shares = split(secret, 4, places=range(1, 8), seed=seed)
    known = {x: decode_share(shares[x]) for x in (2, 5, 7)}
    points = {0: int.from_bytes(other, "big"), **known}
    polynomial = decode_polynomial(points, 4)
    assert polynomial is not None  # some polynomial explains them with that secret
    assert polynomial[0] == int.from_bytes(other, "big")


@given(seed=secrets32)
def test_shares_follow_from_the_seed_and_differ_between_seeds(seed: bytes) -> None:
    secret = bytes(32)
    places = range(1, 5)
    first = split(secret, 3, places=places, seed=seed)
    assert split(secret, 3, places=places, seed=seed) == first
    other = bytes([seed[0] ^ 1]) + seed[1:]
    assert split(secret, 3, places=places, seed=other) != first
    assert split(secret, 3, places=[1, 3, 4], seed=seed)[3] == first[3]


def test_the_field_is_that_of_the_least_prime_above_two_to_the_256() -> None:
    assert PRIME == 2**256 + 297
    assert all(pow(a, PRIME - 1, PRIME) == 1 for a in (2, 3, 5, 7, 11))
    for offset in range(1, 297, 2):
        candidate = 2**256 + offset
        assert any(pow(a, candidate - 1, candidate) != 1 for a in (2, 3))


def test_coefficients_are_spread_over_the_field() -> None:
    drawn = coefficients(bytes(32), 300)
    assert len(set(drawn)) == 300
    assert all(0 <= c < PRIME for c in drawn)
    assert max(drawn) > PRIME * 0.97
    assert min(drawn) < PRIME * 0.03


@given(secret=secrets32, seed=secrets32, conspire=st.booleans(), data=st.data())
def test_with_a_threshold_of_correct_shares_only_wrong_ones_are_named(
    secret: bytes, seed: bytes, conspire: bool, data: st.DataObject
) -> None:
    count = data.draw(st.integers(2, 9))
    threshold = data.draw(st.integers(1, count))
    shares = dict(split(secret, threshold, places=range(1, count + 1), seed=seed))
    liars = data.draw(st.sets(st.integers(1, count), max_size=count - threshold))
    noise = coefficients(secret, count)
    for liar in liars:  # adding the place itself is adding a polynomial of degree 1
        shift = liar if conspire else noise[liar - 1]
        value = (decode_share(shares[liar]) + shift) % PRIME
        shares[liar] = value.to_bytes(33, "big")
    found, wrong = recover_checked(
        shares, threshold, accept=lambda candidate: candidate == secret
    )
    assert found == secret
    assert set(wrong) <= liars
    if not conspire and liars & set(range(1, threshold + 1)):
        assert set(wrong) == liars


def test_two_conspirators_cannot_frame_an_honest_reporter() -> None:
    secret, threshold = bytes(range(32)), 3
    shares = dict(split(secret, threshold, places=range(1, 6), seed=b"\4" * 32))
    for liar in (1, 2):  # t shares fit the secret with those of 1, 2 and 3: x (x - 3)
        value = (decode_share(shares[liar]) + liar * (liar - 3)) % PRIME
        shares[liar] = value.to_bytes(33, "big")
    tried: list[bytes] = []

    def accept(candidate: bytes) -> bool:
        tried.append(candidate)
        return candidate == secret and len(tried) > 1  # past the first attempt

    found, wrong = recover_checked(shares, threshold, accept=accept)
    assert (found, wrong) == (secret, ())


def test_large_cohorts_correct_half_of_what_is_spare() -> None:
    secret, threshold = bytes(range(32)), 20
    shares = dict(split(secret, threshold, places=range(1, 41), seed=b"\2" * 32))
    for liar in range(1, 11):
        shares[liar] = b"\0" * 33
    found, wrong = recover_checked(shares, threshold, accept=lambda c: c == secret)
    assert (found, wrong) == (secret, tuple(range(1, 11)))
    shares[11] = b"\0" * 33
    with refused(VerificationError, "secret-not-recovered", match="no 20 of 40 "):
        recover_checked(shares, threshold, accept=lambda c: c == secret)


def test_shares_of_known_liars_are_tried_last() -> None:
    secret = bytes(range(32))
    shares = dict(split(secret, 3, places=range(1, 6), seed=b"\3" * 32))
    shares[1] = b"\0" * 33
    tried = []

    def accept(candidate: bytes) -> bool:
        tried.append(candidate)
        return candidate == secret

    recover_checked(shares, 3, accept=accept, suspects=[1])
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("share", "code"),
    [
        (b"", "share-size-invalid"),
        (b"\0" * 32, "share-size-invalid"),
        (b"\0" * 34, "share-size-invalid"),
        (b"\2" + b"\0" * 32, "share-not-in-field"),
        (PRIME.to_bytes(33, "big"), "share-not-in-field"),
    ],
)
def test_malformed_shares_are_refused(share: bytes, code: str) -> None:
    with refused(ProtocolError, code):
        decode_share(share)


def test_arguments_of_split_out_of_range_raise_value_error() -> None:
    for secret, threshold, places in [
        (b"short", 1, [1]),
        (bytes(32), 0, [1]),
        (bytes(32), 2, [1]),
        (bytes(32), 1, [0]),
    ]:
        with pytest.raises(ValueError, match=r"32 bytes|threshold"):
            split(secret, threshold, places=places, seed=bytes(32))


def test_shares_that_give_a_number_of_33_bytes_are_no_secret() -> None:
    share = (2**256).to_bytes(33, "big")  # of a constant polynomial
    with refused(VerificationError, "secret-not-recovered", match="2 of 2 "):
        recover({1: share, 2: share}, 2)
