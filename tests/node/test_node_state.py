"""What a node must not forget, over restarts and under tampering."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry import storage
from tapestry.encoding import decode_json, digest
from tapestry.errors import (
    ConfigError,
    PolicyError,
    ProtocolError,
    ResourceError,
    VerificationError,
)
from tapestry.protocol.messages import Kind, Message
from tapestry.protocol.stages import SECAGG_STAGES, RoundStage
from tapestry_node import state_entries
from tapestry_node.budget.ledger import Ledger
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused
from tapestry_node.round.session_marks import SessionMark
from tapestry_node.round.survivor_marks import ConsentMark, UploadMark
from tests.node.budget.test_ledger import TERMS, charge, open_ledger
from tests.node.test_state_entries import stored
from tests.support.kills import dies
from tests.support.refusals import refused
from tests.support.unsigned_accounts import unsigned


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


def mark(number: int, *, run: str = "run", noise: str = "none") -> UploadMark:
    """Mark a round of a run."""
    return UploadMark(
        run=run,
        round_number=number,
        attempt=1,
        base=digest(b"base"),
        names=(),
        plan=digest(b"plan"),
        noise=noise,
        participants=("fi", "fr", "id", "sw"),
        threshold=3,
        max_colluding=1,
    )


def consent(number: int, *names: str) -> ConsentMark:
    """Mark the survivors of a round of the same run, on a base of its own."""
    return ConsentMark(
        run="run",
        round_number=number,
        attempt=1,
        base=digest(b"%d" % number),
        names=(),
        plan=digest(b"plan"),
        survivors=names or ("fi", "fr", "id", "sw"),
    )


def take(store: NodeState, number: int, *, run: str = "run") -> None:
    """Take the upload of a round without noise."""
    store.take_upload(mark(number, run=run), charge=None, sign=unsigned)


def spoil(path: Path, table: str, change: str) -> None:
    """Change rows as damage does, past the types that their table declares."""
    write = "UPDATE sqlite_master SET sql = ? WHERE name = ?"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        query = "SELECT sql FROM sqlite_master WHERE name = ?"
        ((strict,),) = database.execute(query, (table,)).fetchall()
        database.execute("PRAGMA writable_schema = ON")
        database.execute(write, (strict.replace(" STRICT", ""), table))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(change)
        database.execute("PRAGMA writable_schema = ON")
        database.execute(write, (strict, table))


def test_a_round_is_uploaded_for_once_ever(path: Path) -> None:
    store = NodeState(path)
    assert store.highest("run") == 0
    take(store, 3)
    for number in (3, 2, 1):
        with refused(ProtocolError, "round-already-uploaded"):
            take(store, number)
    store.close()
    store = NodeState(path)
    assert store.highest("run") == 3
    with refused(ProtocolError, "round-already-uploaded"):
        take(store, 3)
    take(store, 4)
    take(store, 1, run="other")
    assert (store.highest("run"), store.highest("other")) == (4, 1)
    store.close()


@given(st.lists(st.integers(1, 9), max_size=12))
def test_an_upload_of_an_earlier_round_or_of_the_same_is_refused(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int]
) -> None:
    store = NodeState(tmp_path_factory.mktemp("node") / "node.db")
    highest = 0
    for number in numbers:
        if number > highest:
            take(store, number)
            highest = number
        else:
            with refused(ProtocolError, "round-already-uploaded"):
                take(store, number)
        assert store.highest("run") == highest
    store.close()


def test_an_upload_and_its_charge_are_one_write(path: Path) -> None:
    ledger, store = open_ledger(path, TERMS), NodeState(path)
    noised = mark(1, run="run-1", noise="local")
    with refused(PolicyError, "charge-not-reserved"):
        store.take_upload(noised, charge=charge(1), sign=unsigned)
    assert store.highest("run-1") == 0
    ledger.reserve(charge(1))
    store.take_upload(noised, charge=charge(1), sign=unsigned)
    assert [row.state for row in ledger.rows()] == ["spent"]
    assert store.highest("run-1") == 1
    upload = decode_json(stored(path)[-1])
    assert (upload["type"], upload["charge"]) == ("upload", len(stored(path)) - 2)
    account = store.accounts()["round", "run-1", 1]
    assert (account, store.outbox()) == (b"account 1 of 1", [account])


@pytest.mark.parametrize("noise", ["local", "shared"])
def test_an_upload_with_noise_without_a_charge_is_not_taken(
    path: Path, noise: str
) -> None:
    store = NodeState(path)
    with refused(ProtocolError, "upload-not-charged", match="spent is None"):
        store.take_upload(mark(1, noise=noise), charge=None, sign=unsigned)
    assert (store.highest("run"), stored(path)) == (0, [])


def test_a_round_that_was_paid_for_is_never_taken(path: Path) -> None:
    """A training that failed, or died before its upload, is not repeated free."""
    ledger, store = open_ledger(path, TERMS), NodeState(path)
    ledger.reserve(charge(2))
    ledger.spend(charge(2), unsigned)
    assert store.highest("run-1") == 2
    for number in (1, 2):
        with refused(ProtocolError, "round-already-uploaded"):
            store.take_upload(mark(number, run="run-1"), charge=None, sign=unsigned)


@pytest.mark.parametrize("stride", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_a_node_killed_at_any_line_has_both_charge_and_mark_or_neither(
    tmp_path: Path, stride: int
) -> None:
    code = (
        str(Path(state_entries.__file__).parent),
        str(Path(storage.__file__).parent),
    )
    found: list[tuple[str, int]] = []
    for line in range(1, 2000, stride):
        path = tmp_path / str(line) / "node.db"
        path.parent.mkdir()
        ledger = open_ledger(path, TERMS)
        ledger.reserve(charge(1))

        def act(path: Path = path) -> None:
            noised = mark(1, run="run-1", noise="local")
            NodeState(path).take_upload(noised, charge=charge(1), sign=unsigned)

        died = dies(act, line, code)
        ledger = open_ledger(path, TERMS)
        found.append((ledger.rows()[0].state, NodeState(path).highest("run-1")))
        if not died:
            break
    assert found[-1] == ("spent", 1)
    assert set(found) == {("reserved", 0), ("spent", 1)}
    assert len(found) > 150 / stride


def test_a_survivor_set_is_remembered_and_another_is_refused(path: Path) -> None:
    NodeState(path).take_consent(consent(1))
    store = NodeState(path)
    store.take_consent(consent(1))
    store.take_consent(consent(2))
    assert store.reading().consents == [consent(1), consent(2)]
    other = consent(2, "fi", "fr", "id")
    with refused(Refused, "survivors-vary", match="would show sw alone"):
        store.take_consent(other)
    with refused(Refused, "survivors-vary"):  # also where only the log knows
        NodeState(path.with_name("new.db")).take_consent(other, logged=[consent(1)])
    store.take_consent(other, named=[other.plan, other.exception(other.survivors)])


def session(stage: str, *, number: int = 1, attempt: int = 1) -> SessionMark:
    """Mark a step of a round of the same run."""
    return SessionMark(
        run="run",
        round_number=number,
        attempt=attempt,
        stage=stage,
        digest=digest(stage.encode()),
        changed="7",
    )


def go_to(store: NodeState, stage: str) -> None:
    """Take all steps of a round up to one."""
    for step in SECAGG_STAGES[: SECAGG_STAGES.index(RoundStage(stage)) + 1]:
        if step is RoundStage.COLLECT_MASKED_INPUTS:
            take(store, 1)
        store.keep_session(session(step.value))


@pytest.mark.parametrize("stage", SECAGG_STAGES)
def test_a_session_goes_one_step_on_or_ends(path: Path, stage: str) -> None:
    store = NodeState(path)
    go_to(store, stage)
    held, following = session(stage), SECAGG_STAGES.index(RoundStage(stage)) + 1
    for step in (*SECAGG_STAGES[:following], *SECAGG_STAGES[following + 1 :]):
        with refused(ProtocolError, "session-out-of-order"):
            store.keep_session(session(step.value))
    for step in SECAGG_STAGES:  # nor in another round, before this one ended
        for other in (session(step, number=2), session(step, attempt=2)):
            with refused(ProtocolError, "session-out-of-order"):
                store.keep_session(other)
    assert store.session() == held
    assert NodeState(path).session() == held
    number = store.reading().number
    for _ in range(2):
        store.end_session()
    assert store.session() is None
    assert store.reading().number == number + 1
    store.keep_session(session("advertise_keys", number=2))


def test_a_session_and_the_upload_of_its_round_belong_together(path: Path) -> None:
    store = NodeState(path)
    go_to(store, "share_keys")
    with refused(ProtocolError, "session-out-of-order"):  # without the mark
        store.keep_session(session("collect_masked_inputs"))
    take(store, 1)
    for reader in (store, NodeState(path)):
        with refused(VerificationError, "session-behind-marks"):
            reader.session()
    store.keep_session(session("collect_masked_inputs"))
    assert store.session() == session("collect_masked_inputs")


def test_a_consent_and_its_session_are_one_write(path: Path) -> None:
    store = NodeState(path)
    go_to(store, "collect_masked_inputs")
    with refused(ProtocolError, "session-out-of-order"):
        store.take_consent(consent(1), session=session("unmask"))
    assert store.reading().consents == []
    store.take_consent(consent(1), session=session("check_consistency"))
    number = store.reading().number
    with refused(Refused, "survivors-vary"):
        store.take_consent(consent(1, "fi", "fr", "id"), session=session("unmask"))
    assert store.session() == session("check_consistency")
    assert store.reading().number == number


def test_an_upload_to_a_cohort_too_far_away_is_not_taken(path: Path) -> None:
    store = NodeState(path)
    take(store, 1)
    apart = replace(mark(2), participants=("fi", "xa", "xb"))
    take_upload = partial(store.take_upload, sign=unsigned)
    for work in (store.check_upload, partial(take_upload, charge=None)):
        with refused(Refused, "cohorts-apart"):
            work(apart, named=())
    assert store.highest("run") == 1


OBLIGATIONS: dict[str, Callable[[NodeState], object]] = {
    "mark": lambda store: take(store, 2),
    "account": lambda store: store.account(("adapter", "run", 2), unsigned),
    "consent": lambda store: store.take_consent(consent(2)),
    "base": lambda store: store.keep_base("run", 2, gives="sha256:b"),
    "rebuilt": lambda store: store.keep_rebuilt("run", 1, manifest="sha256:m"),
    "draw": lambda store: store.keep_spots("run", 2, chunks=[0, 1]),
    "seen": lambda store: store.mark_verified("run", 1, chunk=3),
    "dispute": lambda store: store.dispute_spot("run", 1, chunk=3),
    "gate": lambda store: store.dispute_gate("run", 1, entry=b"three"),
    "outbox": lambda store: store.post(b"two"),
    "secret": lambda store: store.secret("other", b"s"),
}


def _with_obligations(path: Path) -> NodeState:
    store = NodeState(path)
    Ledger.open(store, TERMS).reserve(charge(1))
    _fill(store)
    take(store, 1)
    store.keep_base("run", 1, gives="sha256:a")
    store.keep_spots("run", 1, chunks=[3])
    store.post(b"one")
    return store


@pytest.mark.parametrize("work", list(OBLIGATIONS.values()), ids=list(OBLIGATIONS))
def test_a_database_from_before_any_obligation_is_refused(
    path: Path, work: Callable[[NodeState], object]
) -> None:
    _with_obligations(path).close()
    older = path.read_bytes()
    store = NodeState(path)
    work(store)
    store.close()
    path.write_bytes(older)
    for readonly in (False, True):
        with refused(VerificationError, "state-restored", match="its mirror saw"):
            NodeState(path, readonly=readonly)


@pytest.mark.parametrize("name", sorted(OBLIGATIONS.keys() - {"mark"}))
def test_what_a_peer_shows_again_adds_no_entry(path: Path, name: str) -> None:
    store = _with_obligations(path)
    OBLIGATIONS[name](store)
    number = store.reading().number
    OBLIGATIONS[name](store)
    assert store.reading().number == number


def test_old_marks_beside_new_charges_are_refused(path: Path) -> None:
    """Marks had a file of their own once: put back, it gave a second upload free."""
    store = _with_obligations(path)
    before, ledger = stored(path), Ledger.open(store, TERMS)
    ledger.spend(charge(1), unsigned)
    take(store, 2)
    store.close()
    newer = stored(path)
    kept = [body for body in newer if body in before or b'"type":"upload"' not in body]
    assert len(kept) == len(newer) - 1
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DELETE FROM entries")
        for row in enumerate(kept, 1):
            database.execute("INSERT INTO entries VALUES (?, ?)", row)
    with refused(VerificationError, "state-restored"):
        NodeState(path)


def test_a_mirror_from_before_is_refused(path: Path) -> None:
    store = _with_obligations(path)
    mirror = path.with_name("node.db.mirror")
    older = mirror.read_bytes()
    take(store, 2)
    store.post(b"two")
    store.post(b"three")
    store.close()
    mirror.write_bytes(older)
    with refused(VerificationError, "state-head-restored"):
        NodeState(path)


def test_receipts_from_before_the_last_upload_are_refused(path: Path) -> None:
    _with_obligations(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DELETE FROM egress WHERE number = 3")
    with refused(VerificationError, "receipt-changed", match="receipt 3"):
        NodeState(path)


def test_a_database_replaced_under_a_node_takes_nothing_any_more(path: Path) -> None:
    store = _with_obligations(path)
    copy = path.read_bytes()
    path.unlink()
    path.write_bytes(copy)
    for work in OBLIGATIONS.values():
        with refused(VerificationError, "state-restored", match="was replaced while"):
            work(store)
    store.close()


def test_a_mark_behind_what_the_log_knows_is_an_older_copy(path: Path) -> None:
    store = NodeState(path)
    take(store, 2)
    store.require({"run": 2, "other": 0})
    for run, number in (("run", 3), ("other", 1)):
        with refused(
            VerificationError, "state-restored", match=rf"round {number} of '{run}'"
        ):
            store.require({"run": 1, run: number})
    store.close()


def test_two_processes_cannot_both_take_a_round(path: Path) -> None:
    one, other = NodeState(path), NodeState(path)
    take(one, 1)
    with refused(ProtocolError, "round-already-uploaded"):
        take(other, 1)
    one.close()
    other.close()


def test_one_process_serves_and_others_only_read(path: Path) -> None:
    serving = NodeState(path, exclusive=True)
    with refused(ConfigError, "folder-in-use"):
        NodeState(path, exclusive=True)
    reading = NodeState(path)
    assert list(reading.receipts()) == []
    reading.close()
    serving.close()
    NodeState(path, exclusive=True).close()


def test_a_reader_changes_nothing(path: Path) -> None:
    with refused(ResourceError, "database-unavailable", match="unable to open"):
        NodeState(path, readonly=True)
    assert not path.exists()
    serving = NodeState(path, exclusive=True)
    take(serving, 1)
    reading = NodeState(path, readonly=True)
    assert reading.highest("run") == 1
    with refused(ResourceError, "database-unavailable"):
        take(reading, 2)
    reading.close()
    serving.close()


def test_a_lock_that_is_a_link_is_not_followed(path: Path) -> None:
    path.with_suffix(".lock").symlink_to(path.with_name("made"))
    with refused(ResourceError, "lock-unavailable"):
        NodeState(path, exclusive=True)
    assert not path.with_name("made").exists()


def test_entries_wait_in_order_until_the_log_has_them(path: Path) -> None:
    store = NodeState(path)
    store.post(b"one")
    store.post(b"two")
    store.close()
    store = NodeState(path)
    assert store.outbox() == [b"one", b"two"]
    store.clear(b"one")
    store.clear(b"nothing")
    assert store.outbox() == [b"two"]
    store.close()


def test_how_long_entries_are_submitted_is_kept_until_they_are_no_more(
    path: Path,
) -> None:
    one, two = b"1" * 32, b"2" * 32
    store = NodeState(path)
    assert store.submit([one], size=3) == {one: 3}
    store.close()
    store = NodeState(path)
    assert store.submit([one, two], size=5) == {one: 3, two: 5}
    number = store.reading().number
    assert store.submit([two, one], size=8) == {two: 5, one: 3}
    assert store.reading().number == number  # nothing new, nothing written
    assert store.submit([two], size=9) == {two: 5}
    assert store.submit([one], size=11) == {one: 11}
    store.close()


def test_a_secret_is_drawn_once(path: Path) -> None:
    store = NodeState(path)
    assert store.secret("salt", b"first") == b"first"
    assert store.secret("salt", b"second") == b"first"
    assert store.secret("other", b"third") == b"third"
    store.close()


def _fill(store: NodeState) -> None:
    store.record(Message(kind=Kind.IDENTITY, body=b'{"name":"fr"}'))
    store.record(
        Message(kind=Kind.MASKED_INPUT, attachments=[b"abc", memoryview(b"de")])
    )
    store.record(Message(kind=Kind.REFUSAL, body=b'{"reason":"internal"}'))


def test_a_receipt_names_kind_size_and_content(path: Path) -> None:
    store = NodeState(path)
    _fill(store)
    found = list(store.receipts())
    assert [r.kind for r in found] == ["identity", "masked_input", "refusal"]
    assert found[1].bytes == len(b"{}abcde")
    assert found[1].content == digest(b"{}abcde")
    assert [r.number for r in found] == [1, 2, 3]
    assert len({r.chain for r in found}) == 3
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE egress SET bytes = bytes + 1 WHERE number = 2",
        "UPDATE egress SET kind = 'receipt' WHERE number = 2",
        "UPDATE egress SET time = '2026-01-01T00:00:00Z' WHERE number = 1",
        "UPDATE egress SET content = chain WHERE number = 3",
        "DELETE FROM egress WHERE number = 2",
        "DELETE FROM egress WHERE number = 1",
        "UPDATE egress SET number = 9 WHERE number = 3",
        "INSERT INTO egress VALUES (4, '2026-01-01', 'receipt', 2, 'x', 'y')",
    ],
)
def test_a_receipt_that_was_changed_is_noticed(path: Path, change: str) -> None:
    store = NodeState(path)
    _fill(store)
    store.close()
    with sqlite3.connect(path) as database:
        database.execute(change)
    database.close()
    store = NodeState(path)
    with refused(VerificationError, "receipt-changed"):
        list(store.receipts())
    store.close()


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for exclusive, code in (
        (False, "database-unavailable"),
        (True, "lock-unavailable"),
    ):
        with refused(ResourceError, code, match=r"^[^\n]+$"):
            NodeState(tmp_path / "no" / "node.db", exclusive=exclusive)


def test_a_file_that_is_no_database_is_one_line(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to look at" * 30)
    with refused(ResourceError, "database-damaged"):
        NodeState(path)


@pytest.mark.parametrize("readonly", [False, True])
def test_a_row_that_lost_its_types_is_damage(path: Path, *, readonly: bool) -> None:
    store = NodeState(path)
    take(store, 1)
    store.close()
    spoil(path, "entries", "UPDATE entries SET body = 'x'")
    with refused(ResourceError, "database-damaged"):
        NodeState(path, readonly=readonly)


def test_an_entry_that_waits_is_not_posted_twice(path: Path) -> None:
    store = NodeState(path)
    for entry in (b"one", b"two", b"one"):
        store.post(entry)
    assert store.outbox() == [b"one", b"two"]
    store.close()


def test_what_a_round_gave_is_remembered(path: Path) -> None:
    store = NodeState(path)
    store.keep_base("run", 1, gives="sha256:a")
    store.keep_base("run", 2, gives="sha256:b")
    store.keep_base("run", 2, gives="sha256:c")
    store.close()
    store = NodeState(path)
    assert store.base("run", 1) == "sha256:a"
    assert store.base("run", 2) == "sha256:c"
    assert store.base("run", 3) is None
    assert store.base("other", 1) is None
    store.close()


WORK: dict[str, Callable[[NodeState], object]] = {
    "highest": lambda store: store.highest("run"),
    "take_upload": lambda store: take(store, 1),
    "post": lambda store: store.post(b"one"),
    "outbox": lambda store: store.outbox(),
    "clear": lambda store: store.clear(b"one"),
    "keep_base": lambda store: store.keep_base("run", 1, gives="sha256:a"),
    "base": lambda store: store.base("run", 1),
    "disputed_sums": lambda store: store.disputed_sums(),
    "secret": lambda store: store.secret("salt", b"one"),
    "record": lambda store: store.record(Message(kind=Kind.RECEIPT)),
    "receipts": lambda store: list(store.receipts()),
}


@pytest.mark.parametrize("work", list(WORK.values()), ids=list(WORK))
def test_a_disk_that_fails_is_an_error_of_ours(
    path: Path, work: Callable[[NodeState], object]
) -> None:
    store = NodeState(path)
    with sqlite3.connect(path) as database:
        for table in ("entries", "egress"):
            database.execute(f"DROP TABLE {table}")
    database.close()
    with refused(
        ResourceError,
        "database-unavailable",
        match=r"^cannot use \S+node\.db: [^\n]+$",
    ):
        work(store)
    store.close()
