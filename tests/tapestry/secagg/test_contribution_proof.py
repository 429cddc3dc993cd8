"""One proof for all that a survivor shows: short, exact, and bound to its places."""

import hashlib
import itertools
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import VerificationError
from tapestry.protocol.messages import NOTE_LIMIT
from tapestry.protocol.round_manifest import MAX_HYBRID_COHORT
from tapestry.schema import DOCUMENT_LIMIT, Strict
from tapestry.secagg.contribution_proof import read, root_of, show
from tapestry.tlog.merkle import EMPTY_ROOT, root
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation


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


@cache
def most(count: int, places: int) -> int:
    """The most parts that so many of the leaves may take, wherever they are."""
    if not places or count == 1:
        return 1
    left = 1 << ((count - 1).bit_length() - 1)
    split = range(max(0, places - (count - left)), min(left, places) + 1)
    return max(most(left, j) + most(count - left, places - j) for j in split)


def test_no_proof_has_more_parts_than_are_counted() -> None:
    for count in range(1, 10):
        for size in range(1, count + 1):
            drawn = itertools.combinations(range(count), size)
            sizes = {len(shown(count, list(places))) // 32 for places in drawn}
            assert max(sizes) == most(count, size) <= count


def test_message_10_of_the_largest_hybrid_round_fits_a_document() -> None:
    """Whichever drop out, with the longest names, and the longest checkpoint beside it.

    Each node contributes to half of the others. Of so many lost nodes a survivor may
    contribute to more than half, another then to fewer, and all together show less.
    """
    federation = Federation.of(6)
    federation.run("receive_shares")
    federation.collect_masked_inputs(federation.names()[1:])
    federation.check_consistency()
    sample = federation.unmask().transcript
    longer = 63 - len(federation.names()[0])  # than these names

    def row(one: Strict) -> int:
        return len(one.encode()) + longer + 1

    of_each = row(sample.keys.advertisements[0]) + row(sample.heads.heads[0])
    of_each += 64 + 63 + 6  # a seed or a root
    of_survivor = row(sample.uploads[0]) + row(sample.consents.consents[0])

    def size(count: int, lost: int) -> int:
        parts = 1 + most((count + 1) // 2, (lost + 1) // 2)
        survivor = of_survivor + 64 * parts + 63 + 6
        return count * of_each + (count - lost) * survivor + NOTE_LIMIT + 1000

    def largest(count: int) -> int:
        return max(size(count, lost) for lost in range(1, count // 2))

    assert largest(MAX_HYBRID_COHORT) < DOCUMENT_LIMIT
    assert largest(MAX_HYBRID_COHORT + 50) > DOCUMENT_LIMIT  # the limit is no smaller
