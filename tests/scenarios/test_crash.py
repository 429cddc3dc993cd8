"""Anybody is killed at any instant and started again: nothing is lost or done twice."""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import TapestryError, VerificationError
from tapestry.protocol.messages import Kind, Message
from tapestry.tlog.checkpoint import read_claim
from tapestry_coordinator import round_plan, run, service
from tapestry_coordinator.journal import Journal
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.log.writer import Log
from tapestry_node.budget.ledger import Ledger
from tapestry_node.node_state import NodeState
from tapestry_node.state_entries import StateReplay
from tests.scenarios.conftest import Found
from tests.support.deaths import dies
from tests.support.federation import NAMES, Deliver, Federation, Killed
from tests.support.log_world import renamed
from tests.support.refusals import refused
from tests.support.settings_files import NO_NOISE


def check(federation: Federation, *, rounds: int = 1) -> None:
    """The run is complete, the log holds, and everybody agrees with it."""
    closed = federation.closed()
    assert len(closed) == rounds
    assert set(federation.digests().values()) == {closed[-1].base_after}
    assert set(federation.uploads().values()) <= {1}
    assert set(federation.committed().values()) <= {1}
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS
    check_ledgers(federation)


def check_ledgers(federation: Federation) -> None:
    """What left is in the log, and what the log says is spent.

    A node that dies between spending and saying so has spent for nothing: that is in
    its ledger alone, and nothing left.
    """
    accounted: dict[str, set[int]] = {name: set() for name in NAMES}
    for event in federation.logged():
        if isinstance(event.body, DpAccounted) and event.body.round_number:
            accounted[event.actor].add(event.body.round_number)
    for name, node in federation.nodes.items():
        rows = [r for r in node.ledger.rows() if r.charge.purpose == "round"]
        assert accounted[name] <= {r.charge.number for r in rows}
        assert all(row.state == "spent" for row in rows)
        uploaded = {number for who, number in federation.uploads() if who == name}
        assert uploaded <= accounted[name]


def nth(kind: Kind, count: int) -> Callable[[str, Message], bool]:
    """Say when the so many-th request of a kind is about to be sent, from 1."""
    seen = {"count": 0}

    def when(_name: str, message: Message) -> bool:
        seen["count"] += message.kind is kind
        return seen["count"] == count

    return when


def _slow(kind: Kind, count: int, name: str) -> Any:
    return pytest.param(kind, count, id=name, marks=pytest.mark.slow)


STAGES = [
    _slow(Kind.HELLO, 2, "at the roll call"),
    pytest.param(Kind.COSIGN, 2, id="before the first checkpoint"),
    _slow(Kind.COSIGN, 10, "before the round is cosigned"),
    pytest.param(Kind.ADVERTISE_KEYS, 3, id="in the middle of the offers"),
    _slow(Kind.SHARE_KEYS, 3, "in the middle of the keys"),
    _slow(Kind.COLLECT_MASKED_INPUTS, 1, "before the first upload"),
    pytest.param(Kind.COLLECT_MASKED_INPUTS, 4, id="before the last upload"),
    _slow(Kind.CHECK_CONSISTENCY, 3, "in the middle of the survivors"),
    pytest.param(Kind.UNMASK, 3, id="in the middle of the consents"),
    pytest.param(Kind.COSIGN, 14, id="before its end is cosigned"),
    pytest.param(Kind.APPLY_RESULT, 3, id="in the middle of the results"),
]


@pytest.mark.parametrize(("kind", "count"), STAGES)
def test_a_coordinator_that_dies_in_a_round_goes_on_with_the_run(
    found: Found, kind: Kind, count: int
) -> None:
    federation = found()
    federation.run_until_killed(nth(kind, count))
    federation.run()
    check(federation)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "method",
    [
        "open_round",
        pytest.param("store_sum", marks=pytest.mark.slow),
        "store_result",
    ],
)
def test_a_coordinator_that_dies_at_its_journal_goes_on_with_the_run(
    found: Found, monkeypatch: pytest.MonkeyPatch, method: str, after: bool
) -> None:
    federation = found()
    dies(monkeypatch, Journal, method, after=after)
    with pytest.raises(Killed):
        federation.run()
    federation.run()
    check(federation)


def test_a_coordinator_that_dies_before_the_round_is_settled_keeps_the_sum(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has closed the round; the journal learns it from there."""
    federation = found()
    dies(monkeypatch, Journal, "settle", after=False)
    with pytest.raises(Killed):
        federation.run()
    assert len(federation.closed()) == 1
    federation.run()
    check(federation)
    assert federation.aborted() == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_coordinator_that_dies_while_publishing_publishes_again(
    found: Found, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    federation = found()
    dies(monkeypatch, Log, "publish", after=after)
    with pytest.raises(Killed):
        federation.run()
    federation.run()
    check(federation)


@pytest.mark.slow
def test_a_release_that_was_due_when_the_coordinator_died_is_made(
    found: Found,
) -> None:
    federation = found(coordinator={"rounds": 2, "release_every": 1})
    federation.run_until_killed(nth(Kind.APPLY_RESULT, 4))
    federation.run()
    check(federation, rounds=2)
    releases = federation.said(ReleasePublished)
    assert {r.name: r.round_number for r in releases} == {"base-1": 1, "base-2": 2}


@pytest.mark.slow
def test_adapters_that_were_not_collected_are_asked_for_again(found: Found) -> None:
    federation = found(coordinator={"adapters": True})
    federation.run_until_killed(nth(Kind.PUBLISH_ADAPTER, 3))
    federation.run()
    check(federation)
    folder = federation.coordinator / "adapters"
    assert sorted(path.name for path in folder.iterdir()) == list(NAMES)
    for node in federation.nodes.values():
        charges = [row.charge.purpose for row in node.ledger.rows()]
        assert charges == ["round", "adapter"]


@pytest.mark.slow
def test_a_coordinator_may_die_again_and_again(found: Found) -> None:
    federation = found()
    for kind in (Kind.ADVERTISE_KEYS, Kind.COLLECT_MASKED_INPUTS, Kind.UNMASK):
        federation.run_until_killed(nth(kind, 2))
    federation.run()
    assert len(federation.aborted()) == 3
    check(federation)


@pytest.mark.slow
@pytest.mark.parametrize("count", range(1, 66, 2))
def test_a_coordinator_killed_before_any_message_completes_the_run(
    found: Found, count: int
) -> None:
    federation = found(coordinator={"adapters": True})
    seen = {"count": 0}

    def when(_name: str, _message: Message) -> bool:
        seen["count"] += 1
        return seen["count"] == count

    federation.run_until_killed(when)
    federation.run()
    check(federation)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("place", "method"),
    [
        pytest.param(Ledger, "reserve", id="reserve", marks=pytest.mark.slow),
        pytest.param(StateReplay, "spend", id="spend", marks=pytest.mark.slow),
        pytest.param(NodeState, "take_upload", id="mark"),
        pytest.param(StateReplay, "account", id="account", marks=pytest.mark.slow),
    ],
)
def test_a_node_that_dies_around_its_upload_never_uploads_twice(
    found: Found,
    monkeypatch: pytest.MonkeyPatch,
    place: type[Any],
    method: str,
    after: bool,
) -> None:
    """What is spent is spent and gets into the log; the rest is as if never asked."""
    federation = found(coordinator={"rounds": 2})

    def dies_once(name: str, request: Message, deliver: Deliver) -> None:
        dies(monkeypatch, place, method, after=after)
        with suppress(Killed):
            deliver(request)
            raise AssertionError("the node was not killed")
        federation.restart(name)

    kind = Kind.ADVERTISE_KEYS if method == "reserve" else Kind.COLLECT_MASKED_INPUTS
    federation.wire.on("fr", kind, dies_once)
    federation.run()
    assert federation.closed()[0].included == tuple(n for n in NAMES if n != "fr")
    assert federation.closed()[1].included == NAMES
    check(federation, rounds=2)


@pytest.mark.slow
def test_all_nodes_are_started_again_between_two_rounds(found: Found) -> None:
    federation = found(coordinator={"rounds": 2})
    federation.run_until_killed(nth(Kind.APPLY_RESULT, 4))
    for name in NAMES:
        federation.restart(name)
    federation.run()
    check(federation, rounds=2)
    assert federation.aborted() == []


def test_a_restored_log_is_noticed_by_those_who_saw_more(
    found: Found, tmp_path: Any
) -> None:
    """A coordinator's backup from before the run: no node cosigns over it."""
    federation = found()
    federation.run_until_killed(nth(Kind.ADVERTISE_KEYS, 1))
    shutil.copytree(federation.coordinator, tmp_path / "backup")
    federation.run()
    shutil.rmtree(federation.coordinator)
    shutil.copytree(tmp_path / "backup", federation.coordinator)
    with refused(TapestryError, "log-restored"):
        federation.run()
    assert set(federation.uploads().values()) == {1}


def test_a_node_restored_from_a_backup_spends_nothing_twice(found: Found) -> None:
    federation = found(coordinator={"rounds": 2, "adapters": False})
    name = NAMES[0]
    folder = federation.directory / "nodes" / name
    backup = federation.directory / "backup"
    shutil.copytree(folder, backup)  # before it has spent anything
    federation.run_until_killed(nth(Kind.APPLY_RESULT, 4))
    federation.kill(name)
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    federation.start(name)
    federation.run()
    assert federation.refusals()[name] == "not_in_log"
    assert name not in federation.closed()[-1].included
    assert federation.committed()[name, 1] == 1


def test_a_ledger_restored_under_a_running_node_spends_nothing_twice(
    found: Found,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also where the node logged nothing since it compared log and ledger last."""
    federation = found(coordinator={"rounds": 2})
    folder = federation.nodes["fr"].directory
    before = {path: path.read_bytes() for path in folder.glob("node.db*")}
    asked: list[str] = []

    def in_round_2(name: str, message: Message) -> bool:
        asked.extend([name] if message.kind is Kind.SHARE_KEYS else [])
        return len(asked) == len(NAMES) + 1

    federation.run_until_killed(in_round_2)
    for path in folder.glob("node.db*"):
        path.unlink()
    for path, data in before.items():
        path.write_bytes(data)
    federation.run()
    assert "fr" not in federation.closed()[-1].included
    said = "fr: refused cosign: .* \\[state-restored\\]; the reply says not_in_log"
    assert re.search(said, caplog.text)
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_a_ledger_restored_under_a_running_node_trains_no_adapter(
    found: Found,
) -> None:
    federation = found(coordinator={"adapters": True, "release_every": 1})
    node = federation.nodes["fr"]
    before = {path: path.read_bytes() for path in node.directory.glob("node.db*")}
    federation.run_until_killed(lambda _, message: message.kind is Kind.PUBLISH_ADAPTER)
    for path in node.directory.glob("node.db*"):
        path.unlink()
    for path, data in before.items():
        path.write_bytes(data)
    federation.run()
    published = {each.name for each in federation.said(AdapterPublished)}
    assert len(published) == len(NAMES) - 1
    with refused(VerificationError, "state-restored", match="was replaced while"):
        node.ledger.rows()


def test_a_node_restored_from_a_backup_uploads_for_no_round_of_the_log_again(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise no budget stops it, and its own mark is gone: the log knows."""
    federation = found(
        coordinator={"privacy": NO_NOISE},
        policy={"noise": ("none",), "max_attempt": 2},
        institution={"policy": {"noise": ["none"]}},
    )
    name = "fr"
    folder = federation.directory / "nodes" / name
    backup = federation.directory / "backup"
    shutil.copytree(folder, backup)
    federation.run_until_killed(nth(Kind.CHECK_CONSISTENCY, 1))
    assert federation.committed()[name, 1] == 1
    federation.kill(name)
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    node = federation.start(name)
    assert (node.store.highest("run"), node.ledger.rows()) == (0, [])
    _attempt_again(monkeypatch)
    with refused(TapestryError, "round-not-next"):
        federation.run()
    manifest = federation.said(RoundOpened)[-1].manifest
    assert (manifest.round_number, manifest.attempt) == (1, 2)
    assert federation.refusals()[name] == "not_in_log"  # it contradicts the log
    assert node.store.highest("run") == 0
    assert federation.uploads()[name, 1] == federation.committed()[name, 1] == 1


def _attempt_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator opens a second attempt where an honest one goes on."""
    honest = round_plan.plan_round

    def plan(*arguments: Any, round_number: int, **rest: Any) -> Any:
        number = max(round_number - 1, 1)
        manifest = honest(*arguments, round_number=number, **rest)
        return renamed(manifest, attempt=2)

    monkeypatch.setattr(run, "plan_round", plan)


def test_of_two_coordinators_on_one_log_key_one_gets_a_quorum(
    found: Found, tmp_path: Path
) -> None:  # [15]
    """A copy of the folder on another machine, where no lock is in the way."""
    federation = found()
    federation.cosign()
    first, second = federation.coordinator, tmp_path / "second"
    shutil.copytree(first, second)
    kept = federation.entries()
    federation.run()
    notes = {name: node.mirror.seen for name, node in federation.nodes.items()}
    with refused(TapestryError, "log-restored"):
        service.cosign_once(second, federation.wire)
    public = read_claim((second / "log" / "public" / "checkpoint").read_bytes())
    assert public.size == len(kept)
    assert {name: node.mirror.seen for name, node in federation.nodes.items()} == notes
    federation.cosign()
