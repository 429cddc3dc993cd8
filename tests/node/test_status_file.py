"""``status.json``: the words of a running node, whole at any time, and no record."""

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry.protocol.messages import Kind, Message
from tapestry.storage import durable_files
from tapestry_governance.events.envelope import open_entry
from tapestry_node import status_file
from tapestry_node.availability import pause
from tapestry_node.status_file import (
    LOCK,
    StatusFile,
    Told,
    ToldLog,
    is_served,
    read_told,
    telling_the_end,
)
from tapestry_node.submission import submit
from tests.support.federation import NAMES, Federation
from tests.support.federation_fixtures import Found
from tests.support.rotations import signed_rotation

ENDS = datetime(2030, 1, 1, tzinfo=UTC)
NAME = NAMES[0]
AWAY = ResourceError("no SuperLink listens", code="superlink-away")


def told_of(folder: Path) -> Told:
    found = read_told(folder)
    assert found is not None
    return found


def watched(federation: Federation) -> Callable[[], Told]:
    """Let a node of a federation tell its status; returns how to read it."""
    node = federation.nodes[NAME]
    handle = StatusFile(node.directory, superlink="there:1").watching(node, node.handle)
    federation.wire.handlers[NAME] = lambda message: handle(message, NAME)
    return lambda: told_of(node.directory)


def test_a_connection_is_told_with_its_beginning_and_what_it_waits_for(
    tmp_path: Path,
) -> None:
    status = StatusFile(tmp_path, superlink="there:1")
    assert read_told(tmp_path) is None  # nothing was written yet
    status.starting()
    assert told_of(tmp_path).state == "starting"
    status.connection(AWAY, datetime.max.replace(tzinfo=UTC))
    waiting = told_of(tmp_path)
    assert (waiting.state, waiting.code) == ("waiting", "superlink-away")
    assert waiting.words == str(AWAY)
    assert waiting.certificate_ends is None
    status.connection(None, ENDS)
    found = told_of(tmp_path)
    assert (found.state, found.superlink) == ("connected", "there:1")
    assert (found.words, found.certificate_ends) == (None, ENDS.isoformat())
    status.connection(AWAY, ENDS)
    assert told_of(tmp_path).certificate_ends == ENDS.isoformat()
    assert (tmp_path / "status.json").stat().st_mode & 0o777 == 0o600


def test_the_same_failure_again_writes_nothing(tmp_path: Path) -> None:
    status = StatusFile(tmp_path, superlink="there:1")
    status.connection(AWAY, ENDS)
    before = (tmp_path / "status.json").stat().st_ino
    status.connection(ResourceError("in other words", code=AWAY.code), ENDS)
    assert (tmp_path / "status.json").stat().st_ino == before


def test_no_write_waits_for_the_disk_and_no_fault_of_the_disk_reaches_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("tapestry.storage.durable_files.os.fsync", synced.append)
    status = StatusFile(tmp_path, superlink="there:1")
    status.connection(AWAY, ENDS)
    assert synced == []
    durable_files.replace_file(tmp_path / "other", b"")
    assert synced != []

    def full(*_: Any, **__: Any) -> None:
        raise ResourceError("disk full", code="disk-full")

    monkeypatch.setattr(durable_files, "replace_file", full)
    status.connection(None, ENDS)
    assert told_of(tmp_path).state == "waiting"


def test_a_reader_finds_a_whole_file_at_any_time(tmp_path: Path) -> None:
    status, done = StatusFile(tmp_path, superlink="there:1"), threading.Event()
    status.starting()
    seen: list[Told | None] = []

    def read() -> None:
        while not done.is_set():
            seen.append(read_told(tmp_path))

    thread = threading.Thread(target=read)
    thread.start()
    written = 0
    while written < 300 or len(seen) < 300:
        said = "x" * (written % 300)
        status.connection(ResourceError(said, code=f"code-{written}"), ENDS)
        written += 1
    done.set()
    thread.join()
    assert None not in seen


DAMAGED = (
    *("", "{", "[]", '{"state": "flying", "since": ""}'),
    '{"state": "stopped", "since": "yesterday"}',
    '{"state": "stopped", "since": "2026-11-30T08:00:00"}',
    '{"state": "stopped", "since": "9999-12-31T23:59:59-23:59"}',
    '{"state": "stopped", "since": "", "certificate_ends": ""}',
)


@pytest.mark.parametrize("text", DAMAGED)
def test_a_file_that_is_none_tells_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text)
    assert read_told(tmp_path) is None
    StatusFile(tmp_path).starting()
    assert told_of(tmp_path).state == "starting"


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "status.json")
    assert read_told(tmp_path) is None


def test_a_round_is_told_stage_by_stage_and_what_it_cost(found: Found) -> None:
    federation = found(train=True)
    read = watched(federation)
    before = read()
    assert before.work is None
    assert before.budget is not None
    assert (before.budget.spent, before.budget.rounds_left) == (0.0, None)
    stages: list[tuple[str | None, int | None, str]] = []

    def look(name: str, _: Message) -> None:
        if name == NAME and (work := read().work) is not None:
            stages.append((work.run, work.round, work.stage))

    federation.wire.before = look
    federation.run()
    assert {(run, number) for run, number, _ in stages} == {("run", 1)}
    assert list(dict.fromkeys(stage for _, _, stage in stages)) == [
        *("advertise_keys", "share_keys", "collect_masked_inputs"),
        *("check_consistency", "unmask"),
    ]
    after = read()
    node = federation.nodes[NAME]
    assert (after.work, after.refusal) == (None, None)  # the result was taken
    assert after.budget is not None
    assert after.budget.spent == node.ledger.balance().spent > 0
    assert after.budget.rounds_left is not None
    assert after.log is not None
    assert after.log.entries == node.mirror.size
    assert after.log.cosigned is not None
    assert abs(after.log.cosigned - datetime.now(UTC).timestamp()) < 600


def test_a_training_tells_its_steps_and_not_each_of_them(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    node = federation.nodes[NAME]
    status = StatusFile(node.directory, superlink="there:1")
    status.watching(node, node.handle)
    status._begin(node, Kind.COLLECT_MASKED_INPUTS)  # noqa: SLF001
    writes: list[bytes] = []
    real = durable_files.replace_file

    def count(path: Path, *chunks: bytes, **rest: Any) -> None:
        writes.append(chunks[0])
        real(path, *chunks, **rest)

    monkeypatch.setattr(durable_files, "replace_file", count)
    monkeypatch.setattr(status_file, "_PATIENCE", 60.0)
    for step in range(1, 101):
        status.progress({"done": step, "total": 100})
    assert 1 <= len(writes) <= 2
    work = told_of(node.directory).work
    assert work is not None
    assert (work.done, work.total) == (100, 100)


def test_a_refusal_stands_until_such_a_request_is_answered(found: Found) -> None:
    federation = found(coordinator={"rounds": 1})
    read = watched(federation)
    folder = federation.nodes[NAME].directory

    def look(name: str, message: Message) -> None:
        if name == NAME and message.kind is Kind.ADVERTISE_KEYS:
            pause(folder, now=datetime.now(UTC))

    federation.wire.before = look
    federation.run()
    refusal = read().refusal
    assert refusal is not None
    assert (refusal.kind, refusal.code) == ("advertise_keys", "node-paused")
    assert refusal.words.startswith("paused since ")
    (folder / "paused").unlink()
    federation.wire.before = lambda _name, _message: None
    federation.begin_another_run("next")
    federation.run()
    assert read().refusal is None
    assert [set(e.included) for e in federation.closed()][1] == {*NAMES}


def test_an_error_that_is_not_ours_tells_its_type_and_no_text(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    node = federation.nodes[NAME]

    def fail(*_: Any) -> None:
        raise KeyError("a record of patient 17")

    monkeypatch.setattr(node, "_accept", fail)
    handle = StatusFile(node.directory, superlink="there:1").watching(node, node.handle)
    request = Message(
        kind=Kind.ADVERTISE_KEYS, body=b'{"checkpoint":"x"}', attachments=[]
    )
    handle(request, "1")
    text = (node.directory / "status.json").read_text()
    assert "internal error: KeyError" in text
    assert "patient" not in text


def test_a_start_that_fails_leaves_behind_why(idle: Path) -> None:
    def fail() -> None:
        assert told_of(idle).state == "starting"
        raise ConfigError("data was changed", code="dataset-differs")

    with pytest.raises(ConfigError), telling_the_end(idle):
        fail()
    found = told_of(idle)
    assert (found.state, found.code) == ("failed", "dataset-differs")
    with pytest.raises(KeyError), telling_the_end(idle):
        raise KeyError("a record")
    assert "record" not in (idle / "status.json").read_text()
    with telling_the_end(idle):
        pass
    assert told_of(idle).state == "stopped"
    assert told_of(idle).words is None


def test_a_second_process_leaves_the_file_to_the_first(idle: Path) -> None:
    with telling_the_end(idle):
        StatusFile(idle, superlink="there:1").connection(None, ENDS)
        assert is_served(idle)
        with pytest.raises(ConfigError), telling_the_end(idle):
            raise ConfigError("another process serves it", code="folder-in-use")
        assert told_of(idle).state == "connected"
        assert is_served(idle)
    assert not is_served(idle)
    assert told_of(idle).state == "stopped"


def test_a_lock_that_cannot_be_had_ends_nothing(idle: Path) -> None:
    (idle / LOCK).mkdir()
    with telling_the_end(idle):
        pass
    assert read_told(idle) is None


def test_no_folder_is_made_for_a_status(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), telling_the_end(tmp_path / "nowhere"):
        raise ConfigError("no node.toml", code="file-missing")
    assert not (tmp_path / "nowhere").exists()


def test_a_key_on_its_way_and_the_newest_release_are_told(found: Found) -> None:
    """Of two witnesses at most one may change at a time, so the second key waits."""
    federation = found()
    federation.run()
    told = watched(federation)

    def log() -> ToldLog:
        found = told().log
        assert found is not None
        return found

    assert (log().release or "").startswith("base-1: candidate; 0 yes, 3 are needed")
    assert log().rotations == ()
    entries = [
        signed_rotation(federation, name, "witness")[1] for name in (NAMES[1], NAME)
    ]
    submit(federation.directory / "nodes" / NAMES[1], entries)
    federation.cosign()
    (rotation,) = log().rotations
    event = open_entry(federation.entries()[rotation.entry]).event
    assert (rotation.purpose, event.type, event.actor) == (
        "witness",
        "key.rotated",
        NAME,
    )
    federation.submit(NAMES[1], signed_rotation(federation, NAMES[1], "node")[1])
    for _ in range(2):
        federation.cosign()
    assert log().rotations == ()
    federation.approve()
    for _ in range(2):
        federation.cosign()
    assert (log().release or "").startswith("base-1: approved by entry ")
