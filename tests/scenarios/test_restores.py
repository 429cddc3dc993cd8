"""A node is restored from a backup that was taken while it worked."""

import shutil
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from tapestry.errors import QuorumError, RuleError
from tapestry.keys import VerifyKey
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.messages import Kind, Message
from tapestry_coordinator.led_log import open_led_log
from tapestry_coordinator.run import end_without_sum
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import ContributionCommitted, RoundOpened
from tapestry_node.node_backup import back_up, restore
from tapestry_node.node_state import NodeState
from tapestry_node.state_entries import StateReplay
from tests.scenarios.conftest import Found
from tests.scenarios.test_shared_noise import SHARED
from tests.support.deaths import dies
from tests.support.federation import (
    NAMES,
    Deliver,
    Federation,
    Killed,
    lost,
    unanswered,
)
from tests.support.refusals import refused
from tests.support.rotations import rotate
from tests.support.settings_files import NO_NOISE

pytestmark = pytest.mark.slow

NAME = "fr"
ALONE = {"adapter": {"publish": False}}
LATER = timedelta(minutes=10)  # others' lines count from five minutes on


def backs_up(federation: Federation, kind: Kind, *, round_number: int = 1) -> Path:
    """Back the node up while it is asked, before it answers."""
    place = federation.directory / "backup"
    asked: list[str] = []

    def copy(_name: str, request: Message, deliver: Deliver) -> Message:
        asked.append(request.kind)
        if len(asked) == round_number:
            back_up(federation.nodes[NAME].directory, place)
        return deliver(request)

    federation.wire.on(NAME, kind, copy, times=round_number)
    return place


def put_back(federation: Federation, place: Path, *, rotates: bool = True) -> None:
    """Lose the node's folder, and restore it; keys and records come from elsewhere."""
    folder = federation.nodes[NAME].directory
    federation.kill(NAME)
    lost = folder.rename(folder.with_name(f"{NAME}-lost"))
    restore(place, folder)
    for name in ("keys", "data"):
        shutil.copytree(lost / name, folder / name)
    if rotates:
        rotate(federation, NAME, "witness")
    federation.start(NAME)


def go_on(federation: Federation, run_id: str = "second") -> None:
    """Begin another run when the others' cosignatures are new enough."""
    federation.begin_another_run(run_id, rounds=2)
    federation.now = LATER
    federation.run()


def waits(federation: Federation) -> bool:
    """Say whether the node has not settled yet."""
    return federation.nodes[NAME].store.restored is not None


def charged(federation: Federation) -> list[tuple[str, str, int]]:
    """What the ledger has as spent."""
    rows = federation.nodes[NAME].ledger.rows()
    assert all(row.state == "spent" for row in rows)
    return [row.charge.key for row in rows]


def accounted(federation: Federation) -> list[tuple[int, str, int | None]]:
    """Number, run and round of each account of the node in the log."""
    return [
        (event.body.number, event.body.run_id, event.body.round_number)
        for event in federation.logged()
        if event.actor == NAME and isinstance(event.body, DpAccounted)
    ]


def uploaded(federation: Federation) -> list[tuple[str, int]]:
    """Run and round of each upload that the node committed to."""
    said = [e.body for e in federation.logged() if e.actor == NAME]
    committed = [body for body in said if isinstance(body, ContributionCommitted)]
    return [(body.run_id, body.round_number) for body in committed]


def holds(federation: Federation) -> None:
    federation.bundle()
    audit = federation.audit()
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1].detail


@pytest.mark.parametrize(
    "kind",
    [
        Kind.COLLECT_MASKED_INPUTS,
        Kind.ADVERTISE_KEYS,
    ],
    ids=str,
)
def test_a_federation_goes_on_with_a_restored_node(found: Found, kind: Kind) -> None:
    """The backup lacks the charge of the round that it was taken in, and the next."""
    federation = found(coordinator={"rounds": 2})
    place = backs_up(federation, kind)
    federation.run()
    before = charged(federation)
    put_back(federation, place)
    assert waits(federation)
    go_on(federation)
    assert not waits(federation)
    # What was spent, the adapter that it may have trained, and the rounds since it
    # settled, which it did when it was sent the results that it lacks.
    rest = [("adapter", NAME, 1), ("round", "second", 1), ("round", "second", 2)]
    assert charged(federation) == [*before, *rest]
    assert [number for number, _, _ in accounted(federation)] == [1, 2, 3, 4, 5]
    later = [c for c in federation.closed() if c.run_id == "second"]
    assert [NAME in each.included for each in later] == [True, True]
    runs = ("run", "second")
    assert uploaded(federation) == [(run, n) for run in runs for n in (1, 2)]
    holds(federation)


def test_a_restored_node_cosigns_by_a_new_witness_key_alone(found: Found) -> None:
    """It has settled, and may train; what its old key signed it has forgotten."""
    federation = found(coordinator={"rounds": 1}, institution=ALONE)
    place = backs_up(federation, Kind.ADVERTISE_KEYS)
    federation.run()
    put_back(federation, place, rotates=False)
    go_on(federation)
    assert not waits(federation)
    node = federation.nodes[NAME]
    request = federation.wire.replies(Kind.COSIGN)[-1].request
    for _ in range(2):
        assert node.handle(request).kind is Kind.REFUSAL
        assert node.refused is not None
        assert node.refused.code == "witness-not-rotated"
        assert f"node rotate {node.directory} witness" in node.refused.detail
        node = federation.restart(NAME)
    new = rotate(federation, NAME, "witness")
    federation.cosign()  # brings the rotation to the log
    go_on(federation, "third")
    assert node.mirror.state.members[NAME].witness == new
    accepted = node.mirror.accepted
    assert accepted is not None
    assert VerifyKey.parse(new).keyid in {c.key.keyid for c in accepted.cosignatures}
    assert NAME in federation.closed()[-1].included
    holds(federation)


def test_a_restored_node_with_a_rotation_in_its_outbox_cosigns_again(
    found: Found,
) -> None:
    """The key of that rotation is as old as the backup; another takes its place."""
    federation = found(coordinator={"rounds": 1}, institution=ALONE)
    federation.run()
    federation.cosign()
    old = rotate(federation, NAME, "witness")
    place = federation.directory / "backup"
    back_up(federation.nodes[NAME].directory, place)
    put_back(federation, place)
    federation.cosign()
    go_on(federation)
    go_on(federation, "third")
    go_on(federation, "fourth")
    accepted = federation.nodes[NAME].mirror.accepted
    assert accepted is not None
    named = federation.nodes[NAME].mirror.state.members[NAME].witness
    assert named != old
    assert VerifyKey.parse(named).keyid in {c.key.keyid for c in accepted.cosignatures}
    holds(federation)


def loses_account(found: Found) -> tuple[Federation, Path]:
    """A node paid, and neither upload nor account reached the log."""
    federation = found(coordinator={"rounds": 1}, institution=ALONE)
    place = backs_up(federation, Kind.ADVERTISE_KEYS)
    federation.wire.on(NAME, Kind.COLLECT_MASKED_INPUTS, unanswered)
    federation.wire.on(NAME, Kind.COSIGN, unanswered, times=99)
    first_cosignatures(federation)  # the account would have come with the next one
    federation.run()
    assert charged(federation) == [("round", "run", 1)]
    assert accounted(federation) == []
    federation.wire.faults.clear()
    return federation, place


AFTERWARDS = [(1, "run", 1), (2, "second", 1), (3, "second", 2)]


def test_a_charge_that_never_reached_the_log_counts_all_the_same(found: Found) -> None:
    federation, place = loses_account(found)
    put_back(federation, place)
    go_on(federation)
    assert charged(federation) == [("round", run, n) for _, run, n in AFTERWARDS]
    assert accounted(federation) == AFTERWARDS
    holds(federation)


def test_an_account_that_the_coordinator_held_back_is_taken_over(found: Found) -> None:
    federation, place = loses_account(found)
    account = federation.nodes[NAME].store.accounts()["round", "run", 1]
    put_back(federation, place)
    add(federation, account)
    go_on(federation)
    assert account in federation.entries()
    assert federation.nodes[NAME].store.accounts()["round", "run", 1] == account
    assert charged(federation) == [("round", run, n) for _, run, n in AFTERWARDS]
    assert accounted(federation) == AFTERWARDS
    holds(federation)


def test_an_account_that_the_coordinator_held_back_comes_too_late(found: Found) -> None:
    """The restored node has accounted for the round; twice is a rule of the log."""
    federation, place = loses_account(found)
    account = federation.nodes[NAME].store.accounts()["round", "run", 1]
    put_back(federation, place)
    go_on(federation)
    with refused(RuleError, "account-duplicated"):
        add(federation, account)
    assert accounted(federation) == AFTERWARDS


def add(federation: Federation, entry: bytes) -> None:
    """Put an entry into the log, as its coordinator can."""
    log = open_led_log(federation.coordinator, federation.wire, deadline=1)
    with closing(log):
        log.publisher.add(entry)


def first_cosignatures(federation: Federation) -> None:
    """Let the node cosign until it is asked to train."""
    lost = federation.wire.faults.pop((NAME, Kind.COSIGN))

    def begins(_name: str, request: Message, deliver: Deliver) -> None:
        federation.wire.faults[NAME, Kind.COSIGN] = lost
        deliver(request)

    federation.wire.faults[NAME, Kind.COLLECT_MASKED_INPUTS] = [begins]


def test_a_restored_node_does_nothing_before_others_cosigned_anew(
    found: Found,
) -> None:
    """It also restarts meanwhile, with a mirror that knows more than its ledger."""
    federation = found(coordinator={"rounds": 1}, institution=ALONE)
    place = backs_up(federation, Kind.ADVERTISE_KEYS)
    federation.run()
    put_back(federation, place)
    federation.begin_another_run("second", rounds=1)
    federation.run()  # the others' lines are of the same five minutes
    assert federation.refusals()[NAME] == "maintenance"
    node = federation.restart(NAME)
    assert waits(federation)
    assert node.mirror.size > 20
    said = node.handle(federation.wire.replies(Kind.COSIGN)[-1].request)
    assert said.kind is Kind.REFUSAL
    (closed,) = [c for c in federation.closed() if c.run_id == "second"]
    assert NAME not in closed.included
    go_on(federation, "third")
    assert not waits(federation)
    assert ("round", "second", 1) in charged(federation)
    holds(federation)


def test_a_backup_that_is_restored_twice_counts_from_its_own_time(
    found: Found,
) -> None:
    federation = found(coordinator={"rounds": 1}, institution=ALONE)
    place = backs_up(federation, Kind.ADVERTISE_KEYS)
    federation.run()
    put_back(federation, place)
    again = federation.directory / "again"
    back_up(federation.nodes[NAME].directory, again)  # it has not settled
    shutil.rmtree(federation.directory / "nodes" / f"{NAME}-lost")
    put_back(federation, again)
    go_on(federation)
    assert charged(federation)[0] == ("round", "run", 1)
    assert [number for number, _, _ in accounted(federation)] == [1, 2, 3]
    holds(federation)


def test_a_round_without_noise_is_uploaded_for_once(found: Found) -> None:
    federation = found(
        coordinator={"privacy": NO_NOISE, "rounds": 1},
        policy={"noise": ("none",)},
        institution={"policy": {"noise": ["none"]}, **ALONE},
    )
    place = backs_up(federation, Kind.ADVERTISE_KEYS)
    federation.run()
    put_back(federation, place)
    assert federation.nodes[NAME].store.highest("run") == 0
    # Without the results it settles when the next round is open.
    federation.wire.on(NAME, Kind.APPLY_RESULT, lost, times=50)
    with pytest.raises(QuorumError, match="rounds"):  # it is missing to the others
        go_on(federation)
    marks = federation.nodes[NAME].store.reading().uploads
    assert [(m.run, m.round_number) for m in marks][:2] == [("run", 1), ("second", 1)]
    assert marks[0].participants == NAMES
    assert uploaded(federation)[0] == ("run", 1)
    assert ("second", 1) not in uploaded(federation)
    holds(federation)


def test_of_several_attempts_the_dearest_counts(found: Found) -> None:
    """A threshold is that of an attempt, and with it the own share of the noise."""
    federation = found(**SHARED | {"policy": {"noise": ("shared",), "max_attempt": 3}})
    place = backs_up(federation, Kind.ADVERTISE_KEYS)
    federation.run_until_killed(lambda _, request: request.kind is Kind.SHARE_KEYS)
    (opened,) = federation.said(RoundOpened)
    fewest = opened.manifest.threshold
    attempts = [opened.manifest]
    log = open_led_log(federation.coordinator, federation.wire, deadline=1)
    with closing(log):
        for number, threshold in enumerate((fewest + 1, fewest), start=2):
            ended = end_without_sum(attempts[-1], "quorum_missing")
            log.publisher.append_event(ended)
            changes = {"attempt": number, "threshold": threshold}
            attempts.append(attempts[-1].model_copy(update=changes))
            log.publisher.append_event(RoundOpened(manifest=attempts[-1]))
        ended = end_without_sum(attempts[-1], "quorum_missing")
        log.publisher.append_event(ended)
    put_back(federation, place)
    go_on(federation)
    assert not waits(federation)
    replay = federation.nodes[NAME].store.reading()
    marks = [mark for mark in replay.uploads if mark.run == "run"]
    assert [mark.attempt for mark in marks] == [1, 2, 3]
    shares = [cast("NoiseShare", NoiseShare.of(each)) for each in attempts]
    own = replay.rows["round", "run", 1].charge.own_multiplier
    assert own == pytest.approx(shares[1].own_multiplier)
    assert own < shares[0].own_multiplier == shares[2].own_multiplier
    account = federation.nodes[NAME].store.accounts()["round", "run", 1]
    assert account in federation.entries()
    holds(federation)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize(
    "method",
    [(NodeState, "assume_upload"), (StateReplay, "adopt"), (StateReplay, "assume")],
    ids=["upload", "account", "charge"],
)
def test_a_node_that_dies_while_it_settles_counts_nothing_twice(
    found: Found,
    monkeypatch: pytest.MonkeyPatch,
    method: tuple[type[object], str],
    call: int,
    after: bool,
) -> None:
    federation = found(coordinator={"rounds": 2}, institution=ALONE)
    place = backs_up(federation, Kind.ADVERTISE_KEYS)
    federation.run()
    put_back(federation, place)

    def dies_once(name: str, request: Message, deliver: Deliver) -> None:
        dies(monkeypatch, *method, after=after, call=call)
        with suppress(Killed):
            deliver(request)
            raise AssertionError("the node was not killed")
        federation.restart(name)

    federation.wire.on(NAME, Kind.APPLY_RESULT, dies_once)
    go_on(federation)
    keys = [("round", run, number) for run in ("run", "second") for number in (1, 2)]
    assert charged(federation) == keys
    assert [number for number, _, _ in accounted(federation)] == [1, 2, 3, 4]
    holds(federation)
