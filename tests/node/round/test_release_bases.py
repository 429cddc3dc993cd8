"""A run begins with the release that members approved, not only with the newest."""

from pathlib import Path

import pytest

from tapestry.errors import PolicyError
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.member_events import Withdrawal
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.rules import kept_releases
from tapestry_node.round.base_snapshots import FOLDER
from tapestry_node.round.release_bases import ends_of_releases
from tests.support.federation import NAMES, Federation
from tests.support.federation_fixtures import Found, base, found
from tests.support.log_world import World
from tests.support.refusals import refused

__all__ = ["Found", "base", "found"]


def test_the_ends_are_those_of_approved_releases_and_candidates() -> None:
    world = World().found()
    assert ends_of_releases(world.folded) == []
    ends = []
    for number in (1, 2, 3):
        world.run_round(number)
        ends.append(len(world.entries) - 1)
        world.add(world.release(number))
    assert ends_of_releases(world.settled) == [ends[2]]  # one run, the last of three
    world.approve("base-1")
    assert ends_of_releases(world.settled) == [ends[2], ends[0]]
    world.approve("base-2")
    assert ends_of_releases(world.settled) == [ends[2], ends[1], ends[0]]
    withdrawn = Withdrawal(
        kind="withdraw",
        subject=world.release(2).manifest_digest,
        name="base-2",
        reason="quality",
    )
    world.decide(withdrawn)
    assert world.settled.standing_of("base-2") == "withdrawn"
    assert ends_of_releases(world.settled) == [ends[2], ends[0]]


def snapshots(federation: Federation, name: str) -> list[Path]:
    folder = federation.directory / "nodes" / name / FOLDER
    return sorted(folder.glob("*"), key=lambda path: int(path.stem))


@pytest.mark.slow
@pytest.mark.parametrize(("most", "kept"), [(4, 5), (1, 4)])
def test_runs_begin_with_an_approved_release_whatever_came_after_it(
    found: Found, monkeypatch: pytest.MonkeyPatch, most: int, kept: int
) -> None:
    """The second run's release stays a candidate; ``fr`` is started again in between.

    A third and a fourth run begin where the second one did.
    """
    monkeypatch.setattr(kept_releases, "_MOST_CANDIDATES", most)
    federation = found(coordinator={"rounds": 2})
    federation.run()
    federation.approve()
    release = str(federation.coordinator / "releases" / "base-1")
    for run_id in ("second", "third", "fourth"):
        federation.begin_another_run(run_id, base=release)
        if run_id == "third":
            federation.restart("fr")
        federation.run()
    first = federation.said(ReleasePublished)[0]
    rounds = federation.closed()
    assert [each.outcome for each in rounds] == ["applied"] * 8
    assert {each.base_before for each in rounds[2::2]} == {first.model_digest}
    assert federation.refusals() == {}
    for name in NAMES:
        # base-1, the candidates of two runs, or of one, and the last two bases.
        assert len(snapshots(federation, name)) == kept
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


@pytest.mark.slow
def test_a_node_that_lost_the_snapshot_of_a_release_says_so_and_takes_its_run_again(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses the round in which it finds that out, and follows it afterwards."""
    federation = found(coordinator={"rounds": 1})
    federation.run()
    federation.approve()
    release = str(federation.coordinator / "releases" / "base-1")
    federation.begin_another_run("second", base=release)
    federation.run()
    oldest = snapshots(federation, "fr")[0]
    oldest.write_bytes(oldest.read_bytes()[:-1])
    federation.begin_another_run("third", base=release)
    federation.run()
    assert set(federation.refusals()) == {"fr"}
    assert "the base of base-1 is not here" in caplog.text
    assert "[base-differs]" in caplog.text
    assert federation.closed()[-1].included == tuple(n for n in NAMES if n != "fr")
    assert set(federation.digests().values()) == {federation.closed()[-1].base_after}


@pytest.mark.slow
def test_a_run_that_waited_while_newer_releases_were_approved_has_its_base(
    found: Found,
) -> None:
    federation = found(coordinator={"rounds": 1})
    federation.run()
    federation.approve()
    release = str(federation.coordinator / "releases" / "base-1")
    for run_id in ("second", "third", "fourth"):
        federation.begin_another_run(run_id, base=release)
        if run_id == "third":  # base-2 is approved while this one goes on
            federation.approve()
        federation.run()
    assert federation.refusals() == {}
    assert [each.outcome for each in federation.closed()] == ["applied"] * 4


@pytest.mark.slow
def test_a_run_whose_base_no_member_keeps_ends_at_once_and_says_so(
    found: Found,
) -> None:
    federation = found(coordinator={"rounds": 1})
    federation.run()
    federation.approve()
    release = str(federation.coordinator / "releases" / "base-1")
    federation.begin_another_run("second", base=release)
    federation.run()
    for name in NAMES:
        snapshots(federation, name)[0].unlink()
    federation.begin_another_run("third", base=release)
    with refused(
        PolicyError, "plan-refused", match=f"keeps its base, {release} .*plan another"
    ):
        federation.run()
    assert set(federation.refusals().values()) == {"base_mismatch"}
    assert len(federation.aborted()) == 1
