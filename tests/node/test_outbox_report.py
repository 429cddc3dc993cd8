"""The outbox as files tell it: types, counts and times, without a replay."""

import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tapestry.errors import ResourceError, VerificationError
from tapestry.protocol.messages import CosignReply, encode_message
from tapestry_node.node_state import NodeState
from tapestry_node.outbox_report import OutboxReport, read_outbox, try_outbox
from tests.support.log_world import World
from tests.support.refusals import refused

START = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(hours=1)
        return self.now


@pytest.fixture
def world() -> World:
    return World().found()


def state(folder: Path) -> NodeState:
    return NodeState(folder / "node.db", clock=Clock())


def mirror(folder: Path, *entries: bytes) -> None:
    """Write what a mirror has of the log, as far as the report looks."""
    from tapestry.tlog.merkle import leaf_hash

    with closing(sqlite3.connect(folder / "view.db")) as made:
        made.execute("CREATE TABLE entry (idx INTEGER PRIMARY KEY, leaf BLOB)")
        for entry in entries:
            made.execute("INSERT INTO entry (leaf) VALUES (?)", (leaf_hash(entry),))
        made.commit()


def test_a_node_that_never_ran_has_nothing_for_the_log(tmp_path: Path) -> None:
    assert read_outbox(tmp_path, name="fr") == OutboxReport()
    assert OutboxReport().count == 0


def test_what_waits_is_told_by_type_with_the_oldest(
    world: World, tmp_path: Path
) -> None:
    own = world.entry(world.declaration("fr"), "fr", "node")
    rotated = world.entry(world.rotation("fr", "witness"), "fr", "root")
    theirs = world.entry(
        world.rotation("es", "node", reason="compromised"), "es", "root"
    )
    with closing(state(tmp_path)) as store:
        for entry in (own, rotated, theirs):
            store.post(entry)
        kept = list(store.reading().outbox.values())
    found = read_outbox(tmp_path, name="fr")
    assert found.kinds == {"data.declared": 1, "key.rotated": 2}
    assert (found.count, found.others) == (3, 1)
    assert found.oldest == kept[0] < kept[1]
    assert found.rotations == {"witness": "routine"}  # of its own alone
    assert found.head is None
    assert not list(tmp_path.glob("*-shm"))


def test_what_was_cleared_or_is_in_the_mirror_waits_no_more(
    world: World, tmp_path: Path
) -> None:
    cleared, logged, late = (
        world.entry(world.rotation("fr", purpose), "fr", "root")
        for purpose in ("witness", "node", "community")
    )
    with closing(state(tmp_path)) as store:
        for entry in (cleared, logged, late):
            store.post(entry)
        store.clear(cleared)
        first, second = store.reading().outbox.values()
    assert read_outbox(tmp_path, name="fr").oldest == first
    mirror(tmp_path, logged)
    found = read_outbox(tmp_path, name="fr")
    assert (found.count, found.oldest) == (1, second)
    assert found.rotations == {"community": "routine"}


def test_the_head_is_as_old_as_the_last_cosignature(
    world: World, tmp_path: Path
) -> None:
    reply = encode_message(CosignReply(lines=("line",), head="head"))
    with closing(state(tmp_path)) as store:
        store.post(world.entry(world.declaration("fr"), "fr", "node"))
        store.record(reply)
        store.record(reply)
        *_, last = store.receipts()
    assert read_outbox(tmp_path, name="fr").head == datetime.fromisoformat(last.time)


@pytest.mark.parametrize("body", [b'{"type":"clear"}', b'x"type":"post"', b"\xff"])
def test_a_row_that_no_node_writes_is_told_and_not_quoted(
    tmp_path: Path, body: bytes
) -> None:
    state(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "node.db")) as made:
        made.execute("INSERT INTO entries VALUES (1, ?)", (body + b'"type":"post"',))
        made.commit()
    with refused(VerificationError, "state-changed") as caught:
        read_outbox(tmp_path, name="fr")
    assert '"type"' not in str(caught.value)
    assert isinstance(try_outbox(tmp_path, name="fr"), VerificationError)


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "node.db").write_bytes(b"nonsense" * 1000)
    with refused(VerificationError, "database-damaged"):
        read_outbox(tmp_path, name="fr")
    (tmp_path / "node.db").unlink()
    (tmp_path / "node.db").mkdir()
    with refused(ResourceError, "database-unavailable"):
        read_outbox(tmp_path, name="fr")


def test_a_long_state_is_read_in_a_moment(world: World, tmp_path: Path) -> None:
    """No row is checked, and most of them are passed over."""
    entry = world.entry(world.declaration("fr"), "fr", "node").hex()
    with closing(state(tmp_path)) as store, store.writing() as replay:
        for number in range(10_000):
            replay.append({"type": "cosigned", "size": number, "root": "0" * 64})
        for _ in range(1000):
            replay.append({"type": "post", "entry": entry})
            replay.append({"type": "clear", "entry": entry})
        replay.append({"type": "post", "entry": entry})
    begun = time.process_time()
    assert read_outbox(tmp_path, name="fr").count == 1
    assert time.process_time() - begun < 0.3
