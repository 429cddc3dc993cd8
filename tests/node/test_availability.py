"""When a node begins nothing new: paused, out of hours, short of disk, leaving."""

import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from tapestry.errors import ConfigError, QuorumError, VerificationError
from tapestry_governance.events.member_events import MemberLeft
from tapestry_governance.events.round_events import ContributionRefused, RoundOpened
from tapestry_node.availability import (
    GIB,
    exit_obstacle,
    find_exit,
    obstacles,
    pause,
    paused_since,
    resume,
)
from tapestry_node.settings import Hours, NodeSettings
from tests.support.federation import NAMES
from tests.support.federation_fixtures import Found
from tests.support.log_world import World
from tests.support.node_folders import change
from tests.support.refusals import refused

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)  # a Monday, 13:00 in Prague
PRAGUE = ZoneInfo("Europe/Prague")
NIGHTS = {
    "days": ("mon", "tue", "wed", "thu", "fri"),
    "from": "20:00",
    "to": "06:00",
    "timezone": "Europe/Prague",
}
ALWAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def hours(**changes: Any) -> Hours:
    return Hours.model_validate({**NIGHTS, **changes})


def local(text: str, *, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=PRAGUE, fold=fold)


@pytest.mark.parametrize(
    ("when", "is_open"),
    [
        ("2026-11-30 19:59", False),  # Monday
        ("2026-11-30 20:00", True),
        ("2026-12-01 05:59", True),
        ("2026-12-01 06:00", False),
        ("2026-12-05 05:59", True),  # Saturday: Friday's night
        ("2026-12-05 20:00", False),
        ("2026-12-07 05:59", False),  # Monday: Sunday has no night
    ],
)
def test_hours_across_midnight_are_of_the_day_on_which_they_begin(
    when: str, is_open: bool
) -> None:
    assert hours().is_open(local(when)) is is_open
    assert hours().is_open(local(when).astimezone(UTC)) is is_open


def test_hours_within_a_day_and_around_the_clock() -> None:
    day = hours(**{"from": "08:00", "to": "17:30"})
    assert [day.is_open(local(f"2026-11-30 {t}")) for t in ("07:59", "08:00")] == [
        False,
        True,
    ]
    assert not day.is_open(local("2026-11-30 17:30"))
    whole = hours(**{"days": ("sat",), "from": "00:00", "to": "00:00"})
    assert not whole.is_open(local("2026-12-04 23:59"))
    assert whole.is_open(local("2026-12-05 00:00"))
    assert whole.is_open(local("2026-12-05 23:59"))
    assert not whole.is_open(local("2026-12-06 00:00"))
    assert hours(**{"days": ALWAYS, "from": "03:00", "to": "03:00"}).turn(NOW) is None


def test_the_turn_is_the_next_minute_at_which_hours_open_or_close() -> None:
    assert hours().turn(NOW) == local("2026-11-30 20:00")
    assert hours().turn(local("2026-11-30 23:10")) == local("2026-12-01 06:00")
    assert hours().turn(local("2026-12-05 06:00")) == local("2026-12-07 20:00")


def test_the_hour_that_the_clock_skips_in_spring_is_none() -> None:
    """On 2027-03-28 the clock goes from 01:59 to 03:00."""
    small = hours(**{"days": ("sun",), "from": "02:15", "to": "02:45"})
    assert small.turn(local("2027-03-28 01:00")) == local("2027-04-04 02:15")
    night = hours(**{"days": ("sun",), "from": "02:15", "to": "04:00"})
    assert night.turn(local("2027-03-28 01:00")) == local("2027-03-28 03:00")
    assert night.is_open(local("2027-03-28 03:00"))


def test_the_hour_that_the_clock_repeats_in_autumn_counts_twice() -> None:
    """On 2026-10-25 the clock goes from 02:59 back to 02:00."""
    small = hours(**{"days": ("sun",), "from": "02:15", "to": "02:45"})
    for fold in (0, 1):
        assert small.is_open(local("2026-10-25 02:30", fold=fold))
        assert not small.is_open(local("2026-10-25 02:45", fold=fold))
    first = local("2026-10-25 02:15", fold=0).astimezone(UTC)
    assert small.turn(first) == local("2026-10-25 02:45", fold=0)
    assert small.turn(local("2026-10-25 02:45")) == local("2026-10-25 02:15", fold=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"from": "24:00"}, "is no time of day"),
        ({"to": "6:00"}, "is no time of day"),
        ({"to": 600}, "is no time of day"),
        ({"timezone": "Europe/Atlantis"}, "no time zone that this machine knows"),
        ({"timezone": "../../../etc/passwd"}, "no time zone that this machine knows"),
        ({"timezone": "Europe"}, "no time zone that this machine knows"),
        ({"days": ()}, "days"),
        ({"days": ("monday",)}, "'mon', 'tue'"),
    ],
    ids=str,
)
def test_hours_that_are_none_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        hours(**changes)


def test_a_fault_of_the_hours_is_told_with_its_key(idle: Path) -> None:
    change(idle, {"hours": NIGHTS})
    assert str(NodeSettings.read(idle / "node.toml").hours) == str(hours())
    change(idle, {"limits": {"disk_free_gib": 1}})  # the file keeps "from"
    path = idle / "node.toml"
    text = path.read_text()
    path.write_text(text.replace('"20:00"', '"20 h"'))
    with refused(
        ConfigError,
        "setting-invalid",
        match='hours.from: .* write, for example, from = "20:00"',
    ):
        NodeSettings.read(path)
    path.write_text(text.replace('from = "20:00"', 'form = "20:00"'))
    with refused(ConfigError, "setting-invalid", match="hours.form: .* is from meant"):
        NodeSettings.read(path)


def test_a_pause_lasts_until_it_is_lifted_and_begins_once(tmp_path: Path) -> None:
    assert paused_since(tmp_path) is None
    assert pause(tmp_path, now=NOW) is None
    assert pause(tmp_path, now=NOW.replace(hour=14)) == "2026-11-30 12:00 UTC"
    assert (tmp_path / "paused").stat().st_mode & 0o777 == 0o600
    assert resume(tmp_path) == "2026-11-30 12:00 UTC"
    assert resume(tmp_path) is None
    assert paused_since(tmp_path) is None


def test_whatever_lies_in_the_place_of_the_pause_pauses(tmp_path: Path) -> None:
    path = tmp_path / "paused"
    path.touch()
    assert "does not say" in (paused_since(tmp_path) or "")
    path.unlink()
    path.symlink_to("/nowhere")
    with pytest.raises((VerificationError, OSError)):
        paused_since(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with refused(VerificationError, "file-not-plain"):
        paused_since(tmp_path)


def test_each_obstacle_is_named_with_what_ends_it(
    idle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(idle, {"hours": NIGHTS, "limits": {"disk_free_gib": 2}})
    usage = SimpleNamespace(free=2 * GIB)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    settings = NodeSettings.read(idle / "node.toml")
    night = local("2026-11-30 23:00")
    assert list(obstacles(idle, settings, night)) == []
    usage.free -= 1
    pause(idle, now=NOW)
    found = {each.code: each for each in obstacles(idle, settings, NOW)}
    assert list(found) == ["node-paused", "outside-hours", "disk-free-low"]
    assert {each.reason.value for each in found.values()} == {"maintenance"}
    assert "closed until Mon 2026-11-30 20:00 CET" in found["outside-hours"].detail
    assert "limits.disk_free_gib is 2" in found["disk-free-low"].detail


PAUSED = NAMES[0]


@pytest.mark.parametrize("what", ["paused", "hours", "disk", "unreadable"])
def test_a_node_that_rests_is_offered_no_round_and_cosigns(
    found: Found, what: str
) -> None:
    closed = {**NIGHTS, "days": ("sun",), "timezone": "UTC"}
    changes: dict[str, dict[str, Any]] = {
        "hours": {"hours": closed},
        "disk": {"limits": {"disk_free_gib": 1_000_000}},
    }
    federation = found(institutions={PAUSED: changes.get(what, {})})
    node = federation.nodes[PAUSED]
    if what == "paused":
        pause(node.directory, now=NOW)
    if what == "unreadable":
        (node.directory / "paused").mkdir()
    if what == "hours":
        clock = datetime(2026, 12, 3, 12, tzinfo=UTC)  # a Thursday
        federation.now = clock - datetime.now(UTC)
    federation.run()
    (closed_round,) = federation.closed()
    assert set(closed_round.included) == {*NAMES} - {PAUSED}
    assert federation.refusals() == {}  # it was not asked
    assert not node.ledger.rows()
    assert node.mirror.size == federation.nodes[NAMES[1]].mirror.size  # it cosigned
    assert node.replica.digest == federation.nodes[NAMES[1]].replica.digest


def test_a_coordinator_that_offers_a_round_all_the_same_is_refused(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    """The word of a greeting binds nobody: the node decides at the offer."""
    federation = found()
    node = federation.nodes[PAUSED]

    def look(name: str, message: Any) -> None:
        if name == PAUSED and message.kind.value == "advertise_keys":
            pause(node.directory, now=NOW)

    federation.wire.before = look
    federation.run()
    (closed_round,) = federation.closed()
    assert set(closed_round.included) == {*NAMES} - {PAUSED}
    assert federation.refusals() == {PAUSED: "maintenance"}
    assert len(federation.said(ContributionRefused)) == 1
    assert "[node-paused]; the reply says maintenance" in caplog.text
    assert not node.ledger.rows()


def test_a_run_waits_for_nodes_that_rest_and_opens_no_round_without_them(
    found: Found,
) -> None:
    federation = found()
    for node in federation.nodes.values():
        pause(node.directory, now=NOW)
    with refused(QuorumError, "nodes-too-few", match="0 members .* do not rest"):
        federation.run()
    assert federation.said(RoundOpened) == []
    for node in federation.nodes.values():
        resume(node.directory)
    federation.run()
    assert [set(each.included) for each in federation.closed()] == [{*NAMES}]


def test_a_pause_amid_a_round_lets_it_end_and_the_next_begin_without_the_node(
    found: Found,
) -> None:
    federation = found(coordinator={"rounds": 2})
    folder = federation.nodes[PAUSED].directory

    def look(name: str, message: Any) -> None:
        if name == PAUSED and message.kind.value == "share_keys":
            pause(folder, now=NOW)

    federation.wire.before = look
    federation.run()
    first, second = federation.closed()
    assert PAUSED in first.included
    assert PAUSED not in second.included


def test_a_paused_node_trains_no_adapter(found: Found) -> None:
    federation = found(
        coordinator={"adapters": True}, institution={"adapter": {"publish": True}}
    )

    def look(_: str, message: Any) -> None:
        if message.kind.value == "unmask":
            pause(federation.nodes[PAUSED].directory, now=NOW)

    federation.wire.before = look
    federation.run()
    published = {e.actor for e in federation.logged() if e.type == "adapter.published"}
    assert published == {*NAMES} - {PAUSED}


def test_the_exit_of_another_member_in_the_outbox_is_no_exit_of_this_one() -> None:
    world = World().found()
    entry = world.entry(MemberLeft(), "fr", "root")
    assert find_exit([entry], "fr") == entry
    assert find_exit([entry], "es") is None
    assert exit_obstacle("es", world.folded, [entry]) is None
    assert exit_obstacle("fr", world.folded, [entry]) is not None
