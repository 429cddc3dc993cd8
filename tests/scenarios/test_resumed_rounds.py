"""A node that is started again in a round goes on with it, and takes no step twice."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tapestry.protocol.messages import Kind, Message, encode_message, expect_body
from tapestry.protocol.secagg_messages import SurvivorList
from tapestry.protocol.stages import RoundStage
from tapestry.secagg.client_states import SharesRevealed
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.round_events import RoundOpened
from tapestry_node.node import Node
from tapestry_node.node_state import NodeState
from tapestry_node.round.session_files import FOLDER, SessionFiles
from tests.scenarios.conftest import Found
from tests.scenarios.test_crash import check
from tests.support.deaths import dies
from tests.support.federation import (
    NAMES,
    Deliver,
    Fault,
    Federation,
    Killed,
    RecordingTrainer,
    lost,
)
from tests.support.settings_files import NO_NOISE

pytestmark = pytest.mark.slow

OTHERS = tuple(name for name in NAMES if name != "fr")
KINDS = (
    Kind.ADVERTISE_KEYS,
    Kind.SHARE_KEYS,
    Kind.COLLECT_MASKED_INPUTS,
    Kind.CHECK_CONSISTENCY,
    Kind.UNMASK,
)
WITHOUT_NOISE: dict[str, Any] = {
    "coordinator": {"privacy": NO_NOISE},
    "policy": {"noise": ("none",)},
    "institution": {"policy": {"noise": ["none"]}},
}
DAY = 24 * 3600  # seconds
UNMASK = Kind.UNMASK
COLLECT = RoundStage.COLLECT_MASKED_INPUTS


def folder_of(federation: Federation) -> Path:
    return federation.directory / "nodes" / "fr"


def files(federation: Federation) -> set[str]:
    return {path.name for path in (folder_of(federation) / FOLDER).glob("*")}


def states(federation: Federation) -> list[str]:
    return [row.state for row in federation.nodes["fr"].ledger.rows()]


def same(one: Message, other: Message) -> bool:
    return (one.kind, one.body, [bytes(a) for a in one.attachments]) == (
        *(other.kind, other.body, [bytes(a) for a in other.attachments]),
    )


def again(name: str, federation: Federation, request: Message) -> Message:
    """Start the node again, and send it the request again, as the transport does."""
    return federation.restart(name).handle(request, name)


def holds(federation: Federation) -> None:
    """All are in the sum, nothing was charged or uploaded twice, the audit agrees."""
    (closed,) = federation.closed()
    assert closed.included == NAMES
    assert closed.dropped == ()
    check(federation)
    assert states(federation) == ["spent"]
    assert files(federation) == set()


# Killed at the worst moment of a step


def deaths() -> list[Any]:
    places: list[tuple[object, str]] = [
        (SessionFiles, "write"),
        (NodeState, "keep_session"),
        (SessionFiles, "keep_only"),
        (NodeState, "record"),
    ]
    found = [(k, *place, after) for k in KINDS for place in places for after in (0, 1)]
    collect = Kind.COLLECT_MASKED_INPUTS
    found += [(collect, RecordingTrainer, "update", after) for after in (0, 1)]
    found += [(collect, NodeState, "take_upload", 0)]
    late = (SessionFiles, "write"), (NodeState, "keep_session")
    paid = {(collect, *late[0], 0), (collect, *late[0], 1), (collect, *late[1], 0)}
    return [
        pytest.param(
            *(kind, owner, method, bool(after)),
            id=f"{kind.value}-{'after' if after else 'before'}-{method}",
            marks=[] if (method, after) == ("record", 0) else pytest.mark.slow,
        )
        for kind, owner, method, after in found
        if (kind, owner, method, after) not in paid
    ]


@pytest.mark.parametrize(("kind", "owner", "method", "after"), deaths())
def test_a_node_that_is_killed_in_a_step_and_started_again_is_in_the_sum(
    found: Found,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    owner: object,
    method: str,
    after: bool,
) -> None:
    federation = found()

    def killed(name: str, request: Message, deliver: Deliver) -> Message:
        dies(monkeypatch, owner, method, after=after)
        with suppress(Killed):
            deliver(request)
            raise AssertionError("the node was not killed")
        return again(name, federation, request)

    federation.wire.on("fr", kind, killed)
    federation.run()
    holds(federation)


@pytest.mark.parametrize(
    ("owner", "method", "after"),
    [
        (NodeState, "take_upload", True),
        (SessionFiles, "write_upload", False),
        (SessionFiles, "write_upload", True),
        (SessionFiles, "write", True),
        (NodeState, "keep_session", False),
    ],
)
def test_a_node_killed_between_paying_and_its_masked_vector_masks_no_other(
    found: Found,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: object,
    method: str,
    after: bool,
) -> None:
    """It is left out, and has paid: a second training gets none of these masks."""
    federation = found(coordinator={"rounds": 2})

    def killed(name: str, request: Message, deliver: Deliver) -> Message:
        dies(monkeypatch, owner, method, after=after)
        with suppress(Killed):
            deliver(request)
            raise AssertionError("the node was not killed")
        reply = again(name, federation, request)
        assert reply.kind is Kind.REFUSAL
        assert files(federation) == set()
        assert states(federation) == ["spent"]
        return reply

    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, killed)
    federation.run()
    assert "[session-behind-marks]" in caplog.text
    first, second = federation.closed()
    assert (first.included, second.included) == (OTHERS, NAMES)
    check(federation, rounds=2)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS], ids=str
)
def test_a_request_that_comes_again_after_a_restart_gets_the_same_bytes(
    found: Found, kind: Kind
) -> None:
    federation = found()

    def twice(name: str, request: Message, deliver: Deliver) -> Message:
        first = deliver(request)
        assert first.kind is not Kind.REFUSAL
        kept = Message(
            kind=first.kind,
            body=first.body,
            attachments=[bytes(each) for each in first.attachments],
        )
        for _ in range(2):
            assert same(again(name, federation, request), kept)
        return kept

    federation.wire.on("fr", kind, twice)
    federation.run()
    holds(federation)


@pytest.mark.parametrize("settings", [{}, WITHOUT_NOISE], ids=["noise", "none"])
def test_nodes_that_are_started_again_before_every_request_are_in_the_sum(
    found: Found, settings: dict[str, Any]
) -> None:
    federation = found(**settings)
    for name in NAMES:
        for kind in (*KINDS, Kind.APPLY_RESULT):
            federation.wire.on(name, kind, lambda n, r, _: again(n, federation, r))
    federation.run()
    (closed,) = federation.closed()
    assert closed.included == NAMES
    assert set(federation.uploads().values()) == {1}
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_a_killed_training_has_spent_nothing_and_is_done_again(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()

    def killed(name: str, request: Message, deliver: Deliver) -> Message:
        dies(monkeypatch, RecordingTrainer, "update", after=True)
        with suppress(Killed):
            deliver(request)
            raise AssertionError("the node was not killed")
        node = federation.restart(name)
        assert states(federation) == ["reserved"]  # for the round that goes on
        assert node.store.highest("run") == 0
        return node.handle(request, name)

    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, killed)
    federation.run()
    holds(federation)


def test_a_round_whose_training_takes_two_days_is_closed(found: Found) -> None:
    """Checkpoints that were new at the offer are old at its end, and that is no bar."""
    federation = found(
        coordinator={"deadlines": {"collect_masked_inputs": 2 * DAY}},
        institution={"policy": {"max_checkpoint_age": 3600}},
    )

    def trains(name: str, request: Message, _deliver: Deliver) -> Message:
        federation.now += timedelta(seconds=DAY)
        return again(name, federation, request)

    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, trains)
    federation.wire.on("sw", Kind.COLLECT_MASKED_INPUTS, trains)
    federation.run()
    holds(federation)
    (opened,) = federation.said(RoundOpened)
    assert opened.manifest.deadlines.of(COLLECT) == 2 * DAY


# Away for too long


def at_the_end(federation: Federation, fault: Fault) -> None:
    """Let ``fr`` meet a fault when it is shown the end of its first round."""
    waiting = [fault]

    def look(name: str, message: Message) -> None:
        asked = {each.request.kind for each in federation.wire.log}
        if waiting and (name, message.kind) == ("fr", Kind.COSIGN) and UNMASK in asked:
            federation.wire.on(name, Kind.COSIGN, waiting.pop())

    federation.wire.before = look


def test_a_node_that_comes_back_too_late_is_left_out_and_has_spent_nothing(
    found: Found,
) -> None:
    federation = found(coordinator={"rounds": 2})
    happened: list[list[str]] = []

    def restarts(name: str, request: Message, _deliver: Deliver) -> Message:
        node = federation.restart(name)
        assert node.store.session() is not None
        happened.append(states(federation))
        reply = node.handle(request, name)
        happened.append(states(federation))
        assert node.session is None
        assert files(federation) == set()
        return reply

    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, lost)
    at_the_end(federation, restarts)
    federation.run()
    assert happened == [["reserved"], []]
    first, second = federation.closed()
    assert [(d.name, d.stage) for d in first.dropped] == [("fr", COLLECT)]
    assert (first.included, second.included) == (OTHERS, NAMES)
    check(federation, rounds=2)


def test_a_round_that_the_log_has_ended_is_not_gone_on_with(
    found: Found, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    federation = found()

    def killed(name: str, request: Message, deliver: Deliver) -> Message:
        dies(monkeypatch, Node, "_leave_ended", after=False)
        with suppress(Killed):
            deliver(request)
            raise AssertionError("the node was not killed")
        assert files(federation) == {RoundStage.SHARE_KEYS}
        reply = again(name, federation, request)
        assert federation.nodes[name].session is None
        assert files(federation) == set()
        assert states(federation) == []
        return reply

    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, lost)
    at_the_end(federation, killed)
    federation.run()
    assert "[round-not-open]" in caplog.text
    assert federation.closed()[0].included == OTHERS
    check(federation)


def test_what_a_node_agreed_to_is_compared_with_the_result_after_a_restart(
    found: Found,
) -> None:
    federation = found()
    done: list[object] = []

    def restarts(name: str, request: Message, _deliver: Deliver) -> Message:
        session = federation.restart(name).session
        done.append(session and session.done)
        return federation.nodes[name].handle(request, name)

    federation.wire.on("fr", Kind.APPLY_RESULT, restarts)
    federation.run()
    (state,) = done
    assert isinstance(state, SharesRevealed)
    assert state.survivors.names == NAMES
    holds(federation)


# What must not come back


def test_another_survivor_list_is_refused_after_a_restart_as_before_it(
    found: Found,
) -> None:
    federation = found()

    def two_lists(name: str, request: Message, deliver: Deliver) -> Message:
        first = deliver(request)
        body = expect_body(request, SurvivorList)
        fewer = [s for s in body.survivors if s.node != "sw"]
        other = encode_message(body.model_copy(update={"survivors": tuple(fewer)}))
        node = federation.restart(name)
        for _ in range(2):
            assert node.handle(other, name).kind is Kind.REFUSAL
        assert same(node.handle(request, name), first)
        return first

    federation.wire.on("fr", Kind.CHECK_CONSISTENCY, two_lists)
    federation.run()
    holds(federation)


def test_an_upload_is_not_made_again_for_other_heads_after_a_restart(
    found: Found,
) -> None:
    federation = found()

    def two_heads(name: str, request: Message, deliver: Deliver) -> Message:
        first = deliver(request)
        trained = dict(federation.updates)
        node = federation.restart(name)
        other = replace(request, attachments=[b"", *request.attachments, b"\0"])
        assert node.handle(other, name).kind is Kind.REFUSAL
        assert same(node.handle(request, name), first)
        assert federation.updates.keys() == trained.keys()
        assert federation.updates[name, 1] is trained[name, 1]  # not trained again
        return first

    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, two_heads)
    federation.run()
    holds(federation)


def _older_session(folder: Path, kept: Path) -> None:
    shutil.rmtree(folder / FOLDER)
    shutil.copytree(kept / FOLDER, folder / FOLDER)


def _older_folder(folder: Path, kept: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


def _copied_in_place(folder: Path, _kept: Path) -> None:
    """The newest file, as a backup taken this minute would put it back."""
    for path in (folder / FOLDER).iterdir():
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)


def _another_members(folder: Path, _kept: Path) -> None:
    for path in (folder / FOLDER).iterdir():
        shutil.copy(folder.parent / "id" / FOLDER / path.name, path)


def _without_files(folder: Path, _kept: Path) -> None:
    shutil.rmtree(folder / FOLDER)


ROLLBACKS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "an older session": (_older_session, "file-unreadable"),
    "an older folder, state and mirror and all": (_older_folder, "session-replaced"),
    "a copy of the newest file": (_copied_in_place, "session-replaced"),
    "another member's session": (_another_members, "session-replaced"),
    "no files": (_without_files, "file-unreadable"),
}


@pytest.mark.parametrize("attack", list(ROLLBACKS))
@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (Kind.COLLECT_MASKED_INPUTS, Kind.CHECK_CONSISTENCY),
        (Kind.CHECK_CONSISTENCY, Kind.UNMASK),
    ],
    ids=["a second upload", "a second consent"],
)
def test_no_older_copy_brings_a_step_back(
    found: Found,
    caplog: pytest.LogCaptureFixture,
    attack: str,
    earlier: Kind,
    later: Kind,
) -> None:
    federation = found()
    kept, asked = federation.directory / "kept", list[Message]()
    change, code = ROLLBACKS[attack]

    def keeps(_name: str, request: Message, deliver: Deliver) -> Message:
        shutil.copytree(folder_of(federation), kept)
        asked.append(request)
        return deliver(request)

    def puts_back(name: str, request: Message, _deliver: Deliver) -> Message:
        federation.kill(name)
        change(folder_of(federation), kept)
        node = federation.start(name)
        assert node.session is None
        assert f"[{code}]" in caplog.text
        assert files(federation) == set()
        assert node.handle(asked[0], name).kind is Kind.REFUSAL
        return node.handle(request, name)

    federation.wire.on("fr", earlier, keeps)
    federation.wire.on("fr", later, puts_back)
    federation.run()
    assert federation.uploads()["fr", 1] == 1
    (closed,) = federation.closed()
    assert closed.included == NAMES  # three are enough to open what it uploaded


def test_an_upload_that_was_changed_on_the_disk_does_not_leave(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    federation = found()

    def changes(name: str, request: Message, deliver: Deliver) -> Message:
        deliver(request)
        path = folder_of(federation) / FOLDER / "upload"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        reply = again(name, federation, request)
        assert reply.kind is Kind.REFUSAL
        return reply

    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, changes)
    federation.run()
    assert "[session-upload-differs]" in caplog.text
    assert federation.closed()[0].included == OTHERS


def test_a_node_whose_rules_changed_meanwhile_is_left_out_before_it_trains(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    federation = found()

    def changes(name: str, request: Message, _deliver: Deliver) -> Message:
        path = folder_of(federation) / "node.toml"
        federation.kill(name)
        text = path.read_text("utf-8")
        stricter = text.replace("max_colluding = 1", "max_colluding = 2")
        assert stricter != text
        path.write_text(stricter, "utf-8")
        reply = federation.start(name).handle(request, name)
        assert reply.kind is Kind.REFUSAL
        assert states(federation) == []
        return reply

    federation.wire.on("fr", Kind.COLLECT_MASKED_INPUTS, changes)
    federation.run()
    assert "[max-colluding-too-small]" in caplog.text
    assert federation.closed()[0].included == OTHERS
