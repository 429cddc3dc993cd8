"""Members keep the bases of some approved releases, and of some candidates."""

import pytest

from tapestry_governance.events.member_events import Withdrawal
from tapestry_governance.rules import kept_releases as module
from tapestry_governance.rules.kept_releases import kept_releases
from tests.support.log_world import World


def kept(world: World) -> list[str]:
    return [release.name for release in kept_releases(world.settled)]


def test_the_newest_approved_releases_are_kept_and_candidates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World().found()
    assert kept(world) == []
    for number in (1, 2, 3):
        world.run_round(number)
        world.add(world.release(number))
    assert kept(world) == ["base-3"]  # of a run the last candidate
    for number, found in (
        (2, ["base-3", "base-2"]),
        (1, ["base-3", "base-2", "base-1"]),  # its votes came later
        (3, ["base-3", "base-2", "base-1"]),
    ):
        world.approve(f"base-{number}")
        assert kept(world) == found
    monkeypatch.setattr(module, "MOST_APPROVED", 2)
    assert kept(world) == ["base-3", "base-2"]
    files = world.release(3).manifest_digest
    world.decide(
        Withdrawal(kind="withdraw", subject=files, name="base-3", reason="quality")
    )
    assert kept(world) == ["base-2", "base-1"]
