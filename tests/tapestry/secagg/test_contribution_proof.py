"""One proof for all that a survivor shows: short, exact, and bound to its places."""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import VerificationError
from tapestry.secagg.contribution_proof import read, root_of, show
from tapestry.tlog.merkle import EMPTY_ROOT, root
from tests.support.refusals import refused


def secret(place: int) -> bytes:
    return hashlib.sha256(f"secret {place}".encode()).digest()


def commit(place: int, made: bytes) -> bytes:
    return hashlib.sha256(f"commitment {place}".encode() + made).digest()


def leaves(count: int) -> list[bytes]:
    return [commit(place, secret(place)) for place in range(count)]


def shown(count: int, places: list[int]) -> bytes:
    return show(leaves(count), places, [secret(place) for place in places])


@pytest.mark.parametrize("count", range(1, 65))
def test_the_root_is_that_of_rfc_6962(count: int) -> None:
    assert root_of(leaves(count)) == root(leaves(count))


def test_the_root_of_no_commitments_is_that_of_an_empty_tree() -> None:
    assert root_of([]) == EMPTY_ROOT


@given(data=st.data())
def test_what_is_shown_leads_to_the_root_and_nothing_else_does(
    data: st.DataObject,
) -> None:
    count = data.draw(st.integers(1, 40))
    drawn = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    places = sorted(drawn)
    good = shown(count, places)
    found, made = read(good, count=count, places=places, commit=commit)
    assert found == root_of(leaves(count))
    assert made == [secret(place) for place in places]
    assert len(good) <= 32 * count
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    other, _ = read(flipped, count=count, places=places, commit=commit)
    assert other != found


def test_a_proof_of_any_other_size_is_refused() -> None:
    for count, size in itertools.product(range(1, 9), range(1, 9)):
        for places in itertools.combinations(range(count), min(size, count)):
            good = shown(count, list(places))
            for wrong in (good[:-1], good[:-32], good + b"0", good + bytes(32), b""):
                with refused(VerificationError, "contribution-proof-size-invalid"):
                    read(wrong, count=count, places=places, commit=commit)


def test_what_is_shown_at_one_place_does_not_stand_for_another() -> None:
    good = shown(8, [2])
    for place in (0, 1, 3, 5):
        found, _ = read(good, count=8, places=[place], commit=commit)
        assert found != root_of(leaves(8))
    found, _ = read(good, count=8, places=[2], commit=lambda _, made: commit(3, made))
    assert found != root_of(leaves(8))


def test_all_that_500_nodes_show_of_150_that_dropped_out_fits_a_document() -> None:
    """350 survivors made 250 contributions each, 75 of them for nodes that are lost."""
    draw = np.random.default_rng(10)
    drawn = [draw.choice(250, 75, replace=False) for _ in range(20)]
    sizes = [len(shown(250, sorted(row.tolist()))) for row in drawn]
    hex_digits = 2 * (max(sizes) + 32) * 350
    rest = 500 * 2_800 + 500 * 500 + 350 * 800  # keys, heads, uploads and consents
    assert hex_digits + rest < 8 << 20
