"""The span of the sums that a coordinator opened, and coordinators that open them.

Updates from one base are taken for the same vector in each round, which is the worst
case. What colluders add to a sum is known, so a sum counts by its honest nodes.

``Members`` are honest nodes with the product's own admission and marks, in memory or in
databases; a test may take a rule away. ``schedule`` plays a coordinator that chooses
runs, bases, cohorts, thresholds, dropouts, survivor lists, who is asked to consent, and
what the log calls the end of a round.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np

from tapestry.encoding import digest
from tapestry.protocol.round_manifest import (
    Participant,
    RoundManifest,
    recommended_threshold,
)
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused
from tapestry_node.round.admission import check_policy
from tapestry_node.round.survivor_marks import (
    ConsentMark,
    UploadMark,
    check_consent,
    check_upload,
)
from tapestry_node.settings import NodePolicy
from tests.support.plans import DIGEST, outer_plan, round_manifest
from tests.support.unsigned_accounts import unsigned

T = TypeVar("T")
Sums = frozenset[frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules that honest nodes follow: the product's, unless a test says others."""

    admission: Callable[..., None] = check_policy
    upload: Callable[..., None] = check_upload
    consent: Callable[..., None] = check_consent


_PRODUCT = Rules()
_PRIME = 2**31 - 1  # above every minor of so small a matrix of zeros and ones
TINY = "0.000000001"  # an outer rate that changes a base's identity and nothing else
_PLAN = round_manifest([Participant(name=name, key="k") for name in "abc"])


def rank(rows: Iterable[Sequence[int]]) -> int:
    """Return the rank of a matrix of zeros and ones, exactly."""
    left, found = [list(row) for row in rows], 0
    while left:
        row = left.pop()
        pivot = next((i for i, value in enumerate(row) if value), None)
        if pivot is None:
            continue
        found += 1
        inverse = pow(row[pivot], -1, _PRIME)
        for other in left:
            factor = other[pivot] * inverse % _PRIME
            if factor:
                for i, value in enumerate(row):
                    other[i] = (other[i] - factor * value) % _PRIME
    return found


@cache
def isolated(sums: Sums, *, least: int) -> frozenset[str] | None:
    """Return fewer than ``least`` nodes that a combination of sums shows alone.

    A vector of the span lies within some nodes if and only if the sums, without the
    columns of these nodes, have a smaller rank.
    """
    names = sorted(frozenset().union(*sums))
    whole = rank([name in each for name in names] for each in sums)
    for hidden in combinations(names, min(least - 1, len(names))):
        kept = [name for name in names if name not in hidden]
        if rank([name in each for name in kept] for each in sums) < whole:
            return frozenset(hidden)
    return None


@dataclass(slots=True)
class Member:
    """One honest node; ``state`` is its database, None for marks in memory."""

    policy: NodePolicy
    rules: Rules
    state: NodeState | None = None
    uploads: list[UploadMark] = field(default_factory=list)
    consents: list[ConsentMark] = field(default_factory=list)

    def uploads_for(self, manifest: RoundManifest) -> bool:
        """Admit a round and mark the upload, or refuse."""
        mark = UploadMark.of(manifest)
        try:
            self.rules.admission(manifest, self.policy)
            if self.state is not None:
                if mark.round_number <= self.state.highest(mark.run):
                    return False
                self.state.take_upload(mark, charge=None, sign=unsigned)
                return True
            if any(
                (each.run, each.round_number) >= (mark.run, mark.round_number)
                for each in self.uploads
                if each.run == mark.run
            ):
                return False
            self.rules.upload(mark, self.uploads, named=())
        except Refused:
            return False
        self.uploads.append(mark)
        return True

    def consents_to(self, manifest: RoundManifest, survivors: Iterable[str]) -> bool:
        """Mark a set of survivors, or refuse."""
        mark = ConsentMark.of(manifest, survivors)
        try:
            if self.state is not None:
                self.state.take_consent(mark)
                return True
            self.rules.consent(mark, self.consents, named=())
        except Refused:
            return False
        self.consents.append(mark)
        return True


@dataclass(slots=True)
class Coordinator:
    """A coordinator with colluding nodes, and all that it has opened."""

    honest: dict[str, Member]
    colluding: tuple[str, ...]
    least: int
    opened: dict[tuple[str, str], set[frozenset[str]]] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)  # base -> what it really is
    rounds: dict[str, int] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)  # run -> its base

    def play(
        self,
        *,
        run: str,
        cohort: Collection[str],
        lists: Sequence[Collection[str]],
        asked: Sequence[str],
        threshold: int | None = None,
        rate: str = "1",
        ends: str = "rejected",
        base: str = DIGEST,
    ) -> None:
        """Play one round: all of the cohort upload, then survivor lists go around.

        ``asked`` says in which order the honest nodes are asked to consent; each signs
        one list at most. ``ends`` is what the log will say, "applied" moves the base.
        """
        colluding = len(self.colluding)
        base = self.bases.setdefault(run, base)
        number = self.rounds[run] = self.rounds.get(run, 0) + 1
        least = recommended_threshold(len(cohort), max_colluding=colluding)
        manifest = _PLAN.model_copy(
            update={
                "run_id": run,
                "round_number": number,
                "model_digest": base,
                "participants": tuple(
                    Participant.model_construct(name=name, key="")
                    for name in sorted(cohort)
                ),
                "max_colluding": colluding,
                "threshold": max(threshold or 0, least),
                "min_cohort": self.least + colluding,
                "outer": outer_plan(learning_rate=rate),
            }
        )
        uploaded = {
            name
            for name in sorted(cohort)
            if name in self.colluding or self.honest[name].uploads_for(manifest)
        }
        signed: set[str] = set()
        moved = False
        for wanted in lists:
            survivors = frozenset(wanted) & uploaded
            if len(survivors) < max(manifest.threshold, manifest.min_cohort):
                continue
            consents = len(survivors & set(self.colluding))
            for name in asked:
                if consents >= manifest.threshold:
                    break
                if name in survivors and name not in signed:
                    signed.add(name)
                    consents += self.honest[name].consents_to(manifest, survivors)
            if consents >= manifest.threshold:
                self._open(run, base, survivors)
                moved = True
        if moved and ends == "applied":
            after = self.bases[run] = digest(f"{run} {number} {base}".encode())
            self.same[after] = self.same.get(base, base) if rate == TINY else after

    def _open(self, run: str, base: str, survivors: frozenset[str]) -> None:
        shown = survivors - set(self.colluding)
        for key in (("base", self.same.get(base, base)), ("run", run)):
            self.opened.setdefault(key, set()).add(shown)

    def breach(self) -> frozenset[str] | None:
        """Return fewer nodes than there may be, whose sum alone can be computed."""
        for sums in self.opened.values():
            found = isolated(frozenset(sums), least=self.least)
            if found is not None:
                return found
        return None


def members(
    count: int,
    *,
    min_cohort: int,
    colluding: int = 1,
    folder: Path | None = None,
    rules: Rules = _PRODUCT,
) -> Coordinator:
    """Make honest members, and a coordinator with colluding ones."""
    policy = NodePolicy(
        min_cohort=min_cohort,
        max_colluding=colluding,
        noise=("none",),
        epsilon_limit="1",
        fallback_epsilon_limit="1",
        target_delta="0.00001",
        max_steps=100,
        bases=(DIGEST,),
        parameterizations=("full",),
        max_checkpoint_age=60,
        spot_checks=2,
    )
    honest = {}
    for name in "abcdefghijklmn"[:count]:
        state = NodeState(folder / f"{name}.db") if folder else None
        honest[name] = Member(policy, rules, state=state)
    return Coordinator(
        honest=honest,
        colluding=tuple(f"z{number}" for number in range(colluding)),
        least=min_cohort - colluding,
    )


class _Draws:
    """Choices of a coordinator; the same for a seed."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def one(self, options: Sequence[T]) -> T:
        return options[int(self._generator.integers(len(options)))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        order = self._generator.permutation(len(options))[:count]
        return [options[int(place)] for place in order]


def schedule(
    seed: int, *, folder: Path | None = None, rules: Rules = _PRODUCT
) -> Coordinator:
    """Play a schedule of rounds against a victim; it is the same for a seed."""
    draws = _Draws(seed)
    colluding = draws.one((1, 1, 2))
    world = members(
        draws.one(range(4, 9)),
        min_cohort=colluding + draws.one((2, 3)),
        colluding=colluding,
        folder=folder,
        rules=rules,
    )
    names, before = list(world.honest), list[set[str]]()
    victim = draws.one(names)
    for _ in range(draws.one(range(3, 9))):
        cohort = {*names, *world.colluding}
        cohort -= {*draws.some(names, draws.one((0, 0, 1, 1, 2, 3)))}
        lists = []
        for _ in range(draws.one((1, 1, 2))):
            wanted = set(draws.one(before or [cohort]))
            wanted ^= {*draws.some([victim], draws.one((0, 1)))}
            wanted ^= {*draws.some(names, draws.one((0, 0, 1, 2)))}
            lists.append({*wanted, *world.colluding} & cohort)
        before += lists
        world.play(
            run=draws.one(("run", "run", "run", "other", "third")),
            cohort=draws.one((cohort, {*lists[0], *world.colluding})),
            lists=lists,
            asked=draws.some(names, len(names)),
            threshold=draws.one((None, None, None, len(cohort))),
            rate=draws.one(("1", "0.05", TINY)),
            ends=draws.one(("applied", "rejected", "aborted")),
            base=draws.one([DIGEST, *world.bases.values()]),
        )
    return world
