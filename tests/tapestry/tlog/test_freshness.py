"""Clocks that are wrong and clocks that lie; [20] is a row of the attack matrix."""

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import PolicyError
from tapestry.keys import Algorithm, SigningKey
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.freshness import MAX_AHEAD, Times, check_fresh, tolerated
from tapestry.tlog.trust_policy import (
    CosignedCheckpoint,
    TrustPolicy,
    Witness,
    witness_quorum,
)
from tests.support.refusals import refused

NOW = 1_795_452_638
HOUR = 3600
DAY = 24 * HOUR
LOG = SigningKey(name="log.example", algorithm=Algorithm.SIGNATURE, seed=bytes(32))
WITNESSES = [
    SigningKey(
        name=f"w{number}",
        algorithm=Algorithm.COSIGNATURE,
        seed=bytes([number + 1] * 32),
    )
    for number in range(10)
]
CHECKPOINT = Checkpoint(origin="log.example", size=1, root=bytes(32))


def of_members(count: int) -> TrustPolicy:
    keys = [witness.verify_key for witness in WITNESSES[:count]]
    return TrustPolicy.of_members(LOG.verify_key, keys)


def cosigned(trust: TrustPolicy, times: Sequence[int]) -> CosignedCheckpoint:
    lines = [
        CHECKPOINT.cosign(witness, time=time)
        for witness, time in zip(WITNESSES, times, strict=False)
    ]
    return trust.open_pending(CHECKPOINT.sign(LOG) + b"".join(lines))


def fresh(
    trust: TrustPolicy, times: Sequence[int], *, before: Sequence[int] | None = None
) -> None:
    check_fresh(
        cosigned(trust, times),
        trust,
        now=NOW,
        limit=DAY,
        before=None if before is None else cosigned(trust, before),
    )


@pytest.mark.parametrize(
    ("count", "faulty"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (7, 2), (10, 3)]
)
def test_as_many_clocks_may_be_wrong_as_the_quorum_can_do_without(
    count: int, faulty: int
) -> None:
    trust = of_members(count)
    assert tolerated(trust) == faulty == count - witness_quorum(count)
    assert faulty >= (count - 1) // 3


@pytest.mark.parametrize(
    "groups",
    [
        "group all-of-them all a b c d e\nquorum all-of-them\n",
        "group one any a b c d e\nquorum one\n",
        "group m 2 a b c\ngroup o any d e\ngroup both all m o\nquorum both\n",
        "group m 3 a b c\ngroup either any m d\nquorum either\n",
        "quorum c\n",
    ],
)
def test_tolerated_is_the_most_witnesses_that_any_policy_can_miss(
    groups: str,
) -> None:
    names = "abcde"
    lines = [f"log {LOG.verify_key}\n"]
    lines += [f"witness {n} {w.verify_key}\n" for n, w in zip(names, WITNESSES)]  # noqa: B905 - five of ten
    trust = TrustPolicy.parse("".join([*lines, groups]).encode())
    survives = [
        count
        for count in range(len(names))
        if all(trust.is_quorum(set(names) - set(c)) for c in combinations(names, count))
    ]
    assert tolerated(trust) == max(survives)


def test_a_checkpoint_without_cosignatures_has_no_time() -> None:
    trust = TrustPolicy.parse(f"log {LOG.verify_key}\nquorum none\n".encode())
    assert tolerated(trust) == 0
    with refused(PolicyError, "checkpoint-without-time"):
        fresh(trust, [])


def test_the_example_in_the_module_docstring_holds() -> None:
    at = {"10:58": -120, "11:00": 0, "11:01": 60, "11:02": 120, "12:00": HOUR}
    trust = of_members(5)
    times = Times.of(cosigned(trust, [NOW + t for t in at.values()]), trust)
    assert times == Times(known_by=NOW, seen_at=NOW + 120)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_wrong_clocks_of_tolerated_witnesses_block_no_checkpoint(
    count: int,
) -> None:  # [20]
    trust = of_members(count)
    faulty = tolerated(trust)
    honest = [NOW] * (count - faulty)
    for wrong in (-2 * DAY, -HOUR, HOUR, 365 * DAY):
        fresh(trust, [*honest, *[NOW + wrong] * faulty], before=[NOW] * count)
        fresh(trust, [*[NOW + wrong] * faulty, *honest], before=[NOW] * count)


def test_one_clock_may_be_slow_and_another_fast() -> None:  # [20]
    trust = of_members(4)
    for slow in (-HOUR, -2 * DAY):
        fresh(trust, [NOW + HOUR, NOW + slow, NOW, NOW], before=[NOW] * 4)
        fresh(trust, [NOW + HOUR, NOW + slow, NOW], before=[NOW] * 4)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_liars_do_not_freshen_an_old_checkpoint(count: int) -> None:  # [4, 20]
    trust = of_members(count)
    faulty = tolerated(trust)
    old = NOW - DAY - 1
    for honest in range(witness_quorum(count) - faulty, count - faulty + 1):
        with refused(PolicyError, "checkpoint-too-old"):
            fresh(trust, [*[old] * honest, *[NOW] * faulty])


@pytest.mark.parametrize("count", [3, 4, 7])
def test_liars_do_not_hide_that_a_checkpoint_is_from_the_future(count: int) -> None:
    trust = of_members(count)
    faulty = tolerated(trust)
    ahead = NOW + MAX_AHEAD + 1
    for honest in range(witness_quorum(count) - faulty, count - faulty + 1):
        with refused(PolicyError, "checkpoint-from-future"):
            fresh(trust, [*[ahead] * honest, *[NOW] * faulty])


def test_a_checkpoint_cosigned_before_the_last_one_is_refused() -> None:
    trust = of_members(4)
    fresh(trust, [NOW - MAX_AHEAD] * 4, before=[NOW] * 4)
    with refused(PolicyError, "checkpoint-before-last"):
        fresh(trust, [NOW - MAX_AHEAD - 1] * 3 + [NOW], before=[NOW] * 4)


@given(
    st.sampled_from([3, 4, 5, 7, 10]),
    st.lists(st.integers(-DAY, DAY), min_size=10, max_size=10),
    st.lists(st.integers(-DAY, DAY), min_size=10, max_size=10),
)
def test_what_liars_say_moves_the_times_only_among_those_of_the_honest(
    count: int, honest: list[int], lies: list[int]
) -> None:
    trust = of_members(count)
    faulty = tolerated(trust)
    true = [NOW + t for t in honest[: count - faulty]]
    times = Times.of(cosigned(trust, true + [NOW + t for t in lies[:faulty]]), trust)
    assert times.seen_at <= max(true)
    assert times.known_by >= min(true)
    if count > 2 * faulty:
        assert min(true) <= times.known_by <= times.seen_at <= max(true)


def with_outsiders(count: int, quorum: int) -> TrustPolicy:
    """Four members, and witnesses that are none."""
    keys = [witness.verify_key for witness in WITNESSES]
    others = keys[4 : 4 + count]
    return TrustPolicy.of_members(
        LOG.verify_key,
        keys[:4],
        outside=[Witness(name=key.name, key=key) for key in others],
        outside_quorum=quorum,
    )


@pytest.mark.parametrize(
    ("count", "quorum"), [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (6, 1), (6, 6)]
)
def test_outside_witnesses_neither_freshen_nor_age_a_checkpoint(
    count: int, quorum: int
) -> None:
    """A member and all outsiders lie; or all outsiders' clocks are wrong."""
    trust = with_outsiders(count, quorum)
    old, ahead = NOW - DAY - 1, NOW + MAX_AHEAD + 1
    assert tolerated(trust) == 1
    with refused(PolicyError, "checkpoint-too-old"):
        fresh(trust, [old, old, old, NOW, *[NOW] * count])
    for wrong in (old, ahead):
        fresh(trust, [NOW] * 4 + [wrong] * count)
