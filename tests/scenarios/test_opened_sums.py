"""What a coordinator with colluding nodes can compute from all sums it ever opened."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry.protocol.messages import Reason
from tapestry_node.refusal import Refused
from tapestry_node.round.survivor_marks import check_consent
from tests.support.opened_sums import (
    Coordinator,
    Rules,
    isolated,
    members,
    rank,
    schedule,
)


def _allow(*_: Any, **__: Any) -> None:
    """Check nothing."""


def _only_pairs(mark: Any, known: Any, *, named: Any) -> None:
    """Refuse only what the difference to one earlier sum would show."""
    assert not named
    for each in known:
        difference = {*mark.survivors} ^ {*each.survivors}
        if 0 < len([n for n in difference if not n.startswith("z")]) < 2:
            raise Refused(Reason.LOCAL_POLICY, "two sums", code="survivors-vary")


def _only_bases(mark: Any, known: Any, *, named: Any) -> None:
    same = [each for each in known if each.base == mark.base]
    check_consent(mark, same, named=named)


WEAKER = {
    "marks on rounds only": Rules(upload=_allow, consent=_allow),
    "pairwise differences": Rules(consent=_only_pairs),
    "marks at consent only": Rules(upload=_allow),
    "marks on bases only": Rules(consent=_only_bases),
    "no floor of the outer step": Rules(admission=_allow),
}


def test_the_rank_is_that_of_the_matrix() -> None:
    draw = np.random.default_rng(7)
    for _ in range(100):
        rows = draw.integers(0, 2, size=draw.integers(1, 7, size=2))
        assert rank(rows.tolist()) == np.linalg.matrix_rank(rows)


def test_a_combination_of_three_sums_shows_what_no_two_do() -> None:
    sums = [frozenset("vab"), frozenset("vcd"), frozenset("abcd")]
    assert isolated(frozenset(sums), least=2) == frozenset("v")
    for pair in combinations(sums, 2):
        assert isolated(frozenset(pair), least=2) is None


@pytest.mark.parametrize(
    "seeds",
    [range(100), pytest.param(range(10_000), marks=pytest.mark.slow)],
    ids=["100", "10000"],
)
def test_no_legal_history_shows_fewer_nodes_than_a_cohort_has(seeds: range) -> None:
    opened = 0
    for seed in seeds:
        world = schedule(seed)
        assert world.breach() is None, seed
        opened += sum(map(len, world.opened.values()))
    assert opened > len(seeds)  # there is something to combine


@pytest.mark.slow
def test_marks_in_databases_open_what_marks_in_memory_open(tmp_path: Path) -> None:
    for seed in range(40):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert schedule(seed, folder=folder).opened == schedule(seed).opened, seed


@pytest.mark.parametrize("rules", WEAKER.values(), ids=WEAKER)
def test_each_weaker_rule_is_broken_by_some_schedule(rules: Rules) -> None:
    assert any(schedule(seed, rules=rules).breach() for seed in range(200))


def _repeats_without_the_victim(world: Coordinator, *, ends: str) -> None:
    everybody = {*world.honest, *world.colluding}
    for survivors in (everybody, everybody - {"a"}):
        world.play(
            run="run",
            cohort=everybody,
            lists=[survivors],
            asked=sorted(world.honest),
            ends=ends,
        )


@pytest.mark.parametrize("ends", ["rejected", "aborted", "applied"])
def test_a_round_repeated_without_the_victim_does_not_isolate_it(ends: str) -> None:
    for label, rules in {"": Rules(), **WEAKER}.items():
        world = members(5, min_cohort=3, rules=rules)
        _repeats_without_the_victim(world, ends=ends)
        open_to = {"marks on rounds only"}
        open_to |= {"marks on bases only"} if ends == "applied" else set()
        assert (world.breach() == frozenset("a")) == (label in open_to), label


def _opens_three_triangles(world: Coordinator) -> None:
    for number, honest in enumerate(("vab", "vcd", "abcd")):
        cohort = [*("abcd" if honest == "abcd" else honest), *world.colluding]
        run = f"run-{number}"
        world.play(run=run, cohort=cohort, lists=[cohort], asked=sorted(honest))


def test_three_sums_of_which_no_two_isolate_the_victim_do_not() -> None:
    for label, rules in {"": Rules(), **WEAKER}.items():
        world = members(4, min_cohort=3, rules=rules)
        world.honest["v"] = next(
            iter(members(1, min_cohort=3, rules=rules).honest.values())
        )
        _opens_three_triangles(world)
        found = world.breach()
        assert (found == frozenset("v")) == (label == "marks on rounds only"), label


def test_nodes_that_were_not_asked_to_consent_are_not_isolated() -> None:
    """Two thresholds of other nodes each consent to one sum only."""
    for label, rules in {"": Rules(), **WEAKER}.items():
        world = members(14, min_cohort=7, rules=rules)
        first = {*"abcdefghij", *world.colluding}
        second = {*"abcdefghi", *"klmn", *world.colluding}
        for number, (cohort, asked) in enumerate(
            ((first, "abcdef"), (second, "ghiklmn"))
        ):
            run = f"run-{number}"
            world.play(run=run, cohort=cohort, lists=[cohort], asked=asked)
        open_to = {"marks on rounds only", "marks at consent only"}
        assert (world.breach() is not None) == (label in open_to), label
