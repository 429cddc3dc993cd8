"""The way from a base that is here to what the log has now, round by round."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tapestry.protocol.messages import RoundName
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.round_records import ReleaseRecord
from tapestry_node.round.missed_rounds import goals, next_round
from tests.support.log_world import (
    NAMES,
    World,
    changed,
    fake_digest,
    renamed,
    without_noise,
)
from tests.support.plans import privacy_plan

GIVEN = fake_digest("given")


@dataclass
class Runs:
    """A log of several runs without noise, each with releases of some rounds."""

    world: World = field(
        default_factory=lambda: World(
            rules={"bases": "any", "noise": ("none",)}
        ).found()
    )

    def open(self, run: str, number: int, *, begins: str) -> None:
        manifest = renamed(
            self.world.manifest(number),
            run_id=run,
            model_digest=begins if number == 1 else after(run, number - 1),
            privacy=privacy_plan(noise="none"),
        )
        self.world.add(RoundOpened(manifest=manifest))
        self.manifest = manifest

    def run(
        self, run: str, *, begins: str, rounds: int, releases: Sequence[int] = ()
    ) -> None:
        world = self.world
        for number in range(1, rounds + 1):
            self.open(run, number, begins=begins)
            commitments = {}
            for name in NAMES:
                account = without_noise(world.account(self.manifest, epsilon="2"))
                world.add(account, name, "node")
                commitment = world.commitment(name, self.manifest)
                commitments[name] = world.add(commitment, name, "node")
            base = after(run, number)
            closed = world.closing(self.manifest, commitments)
            world.add(changed(closed, base_after=base, release_digest=base))
            if number in releases:
                self.release(run, number)

    def release(self, run: str, number: int) -> None:
        known = self.world.folded.releases
        name = f"base-{len(known) + 1}"
        self.world.add(
            ReleasePublished(
                name=name,
                model_digest=after(run, number),
                parameters_digest=fake_digest("values"),
                manifest_digest=fake_digest(name),
                run_id=run,
                round_number=number,
                previous=f"base-{len(known)}" if known else None,
            )
        )


def after(run: str, number: int) -> str:
    return fake_digest(f"{run} {number}")


Mirrored = Callable[[Runs], LogMirror]


@pytest.fixture
def mirrored(tmp_path: Path) -> Iterator[Mirrored]:
    opened: list[LogMirror] = []

    def make(runs: Runs) -> LogMirror:
        path, world = tmp_path / f"{len(opened)}.db", runs.world
        mirror = LogMirror.open(path, trust=world.trust, genesis=world.genesis)
        opened.append(mirror)
        mirror.extend(0, world.entries, world.note())
        return mirror

    yield make
    for mirror in opened:
        mirror.close()


def way(
    mirror: LogMirror,
    *,
    at: tuple[str | None, int] = (None, 0),
    here: Sequence[str] = (GIVEN,),
) -> list[tuple[str, int]]:
    """Take one round after the other, as a node does that keeps no snapshots."""
    taken: list[tuple[str, int]] = []
    while len(taken) < 50:
        (goal,) = goals(mirror.state, accepted=mirror.size, is_followed=lambda _: True)
        known = {*here, after(str(at[0]), at[1])}
        found = next_round(*goal, mirror=mirror, at=at, is_here=known.__contains__)
        if found is None:
            return taken
        at = found.run_id, found.round_number
        taken.append(at)
    raise AssertionError(f"it never ends: {taken}")


def generations() -> Runs:
    """Three runs, each from the release of the one before, and one beside them."""
    runs = Runs()
    runs.run("a", begins=GIVEN, rounds=3, releases=(2, 3))
    runs.run("beside", begins=GIVEN, rounds=1, releases=(1,))
    runs.run("b", begins=after("a", 2), rounds=2, releases=(2,))
    runs.run("c", begins=after("b", 2), rounds=2)
    return runs


ALL = [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 1), ("c", 2)]


def test_the_way_goes_from_a_base_that_is_here_through_releases_to_the_newest_run(
    mirrored: Mirrored,
) -> None:
    mirror = mirrored(generations())
    assert way(mirror) == ALL
    for index, at in enumerate(ALL):
        assert way(mirror, at=at) == ALL[index + 1 :]
    assert way(mirror, here=[after("b", 2)]) == ALL[4:]  # such is a new member's base
    assert way(mirror, here=[GIVEN, after("a", 2)]) == ALL[2:]  # such is a snapshot


def test_who_went_too_far_or_aside_goes_back(mirrored: Mirrored) -> None:
    mirror = mirrored(generations())
    assert way(mirror, at=("a", 3)) == ALL
    assert way(mirror, at=("beside", 1)) == ALL
    assert way(mirror, at=("a", 3), here=[GIVEN, after("a", 2)]) == ALL[2:]


def test_without_a_base_on_the_way_nothing_is_taken(mirrored: Mirrored) -> None:
    mirror = mirrored(generations())
    assert way(mirror, here=[fake_digest("another")]) == []
    assert way(mirror, here=[after("a", 1)]) == []  # no run begins with it
    unpublished = Runs()
    unpublished.run("a", begins=GIVEN, rounds=1)
    unpublished.run("b", begins=fake_digest("elsewhere"), rounds=1)
    assert way(mirrored(unpublished)) == []


def test_a_run_without_a_closed_round_is_prepared_for(mirrored: Mirrored) -> None:
    runs = Runs()
    runs.run("a", begins=GIVEN, rounds=2, releases=(1, 2))
    runs.open("b", 1, begins=after("a", 1))
    mirror = mirrored(runs)
    assert way(mirror) == [("a", 1)]
    assert way(mirror, at=("a", 1)) == []
    assert way(mirror, at=("a", 2)) == [("a", 1)]


def test_a_release_that_no_quorum_cosigned_comes_first(mirrored: Mirrored) -> None:
    runs = Runs()
    runs.run("a", begins=GIVEN, rounds=1, releases=(1,))
    before = len(runs.world.entries)
    runs.run("b", begins=GIVEN, rounds=2, releases=(1, 2))
    runs.open("c", 1, begins=GIVEN)
    state = mirrored(runs).state
    unheard = [("b", 1), ("b", 2)]
    assert asked(state, 0) == [("a", 1), *unheard, ("c", 0)]
    assert asked(state, before) == [*unheard, ("c", 0)]
    assert asked(state, 0, "base-1", "base-3") == [("b", 1), ("c", 0)]
    assert asked(state, state.size) == [("c", 0)]


def asked(
    state: FederationState, accepted: int, *followed: str
) -> list[tuple[str, int]]:
    def is_followed(release: ReleaseRecord) -> bool:
        return release.name in followed

    return list(goals(state, accepted=accepted, is_followed=is_followed))


def test_a_log_without_a_round_asks_for_nothing(mirrored: Mirrored) -> None:
    mirror = mirrored(Runs())
    assert not list(goals(mirror.state, accepted=0, is_followed=lambda _: False))
    runs = Runs()
    runs.open("a", 1, begins=GIVEN)
    mirror = mirrored(runs)
    name = next_round(
        "a", 0, mirror=mirror, at=(None, 0), is_here=lambda base: base == GIVEN
    )
    assert name is None
    runs = Runs()
    runs.run("a", begins=GIVEN, rounds=1)
    found = next_round(
        "a", 1, mirror=mirrored(runs), at=(None, 0), is_here=lambda base: base == GIVEN
    )
    assert found == RoundName(run_id="a", round_number=1)
