"""The log keeps what it acknowledged, and does not open if it contradicts itself."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapestry.errors import (
    ConfigError,
    IncompleteError,
    InconsistentLog,
    ProtocolError,
    QuorumError,
    ResourceError,
    TapestryError,
    VerificationError,
)
from tapestry.keys import Algorithm, SigningKey
from tapestry.tlog import tiles
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.merkle import leaf_hash, root
from tapestry.tlog.proof import Proof
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.log.writer import Log
from tests.support.cosigning import (
    LOG_KEY,
    TIME,
    TRUST,
    WITNESSES,
    cosigned,
    entry,
    public_files,
    publish,
    signing_key,
    start_log,
)
from tests.support.refusals import refused


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log.create(tmp_path / "log", key=LOG_KEY) as log:
        yield log


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed log of 300 entries, made public at 100, 255 and 290."""
    directory = tmp_path_factory.mktemp("grown") / "log"
    with Log.create(directory, key=LOG_KEY) as log:
        for start, stop in ((0, 100), (100, 255), (255, 290)):
            log.append([entry(number) for number in range(start, stop)])
            publish(log)
        log.append([entry(number) for number in range(290, 300)])
    return directory


@pytest.fixture
def copied(grown: Path, tmp_path: Path) -> Path:
    shutil.copytree(grown, tmp_path / "log")
    return tmp_path / "log"


def _reopen(directory: Path) -> None:
    Log.open(directory, key=LOG_KEY).close()


def test_an_empty_log_is_signed_and_published_like_any_other(log: Log) -> None:
    assert log.size == 0
    assert log.latest() is None
    note = publish(log)
    assert log.latest() == note
    assert TRUST.open(note).checkpoint == Checkpoint(
        origin=log.origin, size=0, root=root([])
    )


def test_entries_keep_their_bytes_and_order(log: Log) -> None:
    assert log.append([entry(0), entry(1)]) == range(2)
    assert log.append([]) == range(2, 2)
    assert log.append([entry(2)]) == range(2, 3)
    assert log.entries(0, 3) == [entry(0), entry(1), entry(2)]
    assert log.entries(1, 1) == []
    note = log.sign_checkpoint()
    assert read_claim(note).root == root(map(leaf_hash, log.entries(0, 3)))
    assert [log.find(entry(number)) for number in range(4)] == [0, 1, 2, None]
    with pytest.raises(ValueError, match="no entries 2 to 4"):
        log.entries(2, 4)


def test_an_entry_is_appended_once(log: Log) -> None:
    log.append([entry(0), entry(1)])
    for batch in ([entry(2), entry(1)], [entry(3), entry(3)]):
        with refused(ProtocolError, "entry-duplicated"):
            log.append(batch)
    assert log.size == 2
    assert log.find(entry(2)) is None


def test_an_oversize_entry_appends_nothing(log: Log) -> None:
    """Attack 11."""
    with refused(ProtocolError, "entry-too-large", match="65536"):
        log.append([entry(0), bytes(65_536)])
    assert log.size == 0
    assert log.append([bytes(65_535)]) == range(1)


def test_a_size_is_signed_once(log: Log) -> None:
    log.append([entry(0)])
    first = log.sign_checkpoint()
    assert log.sign_checkpoint() == first
    assert TRUST.open_pending(first).checkpoint.size == 1
    assert first == read_claim(first).sign(LOG_KEY)


def test_a_checkpoint_is_public_when_the_quorum_has_cosigned(log: Log) -> None:
    log.append([entry(0)])
    with refused(QuorumError, "checkpoint-missing"):
        log.publish(trust=TRUST)
    checkpoint = read_claim(log.sign_checkpoint())
    for count, witness in enumerate(WITNESSES[:3]):
        said = f"{count} cosignatures"
        with refused(QuorumError, "quorum-not-reached", match=said):
            log.publish(trust=TRUST)
        assert not (log.public / "checkpoint").exists()
        log.add_cosignature(1, checkpoint.cosign(witness, time=TIME), trust=TRUST)
    note = log.publish(trust=TRUST)
    assert (log.public / "checkpoint").read_bytes() == note == log.latest()
    assert TRUST.open(note).checkpoint == checkpoint


def test_a_late_cosignature_is_added_to_what_is_public(log: Log) -> None:
    log.append([entry(0)])
    publish(log)
    checkpoint = read_claim(log.sign_checkpoint())
    line = checkpoint.cosign(WITNESSES[3], time=TIME + 5)
    log.add_cosignature(1, line, trust=TRUST)
    note = log.publish(trust=TRUST)
    assert len(TRUST.open(note).cosignatures) == 4
    assert (log.public / "checkpoint").read_bytes() == note


def test_the_newer_cosignature_of_a_witness_stays(log: Log) -> None:
    publish(log)
    checkpoint = read_claim(log.sign_checkpoint())
    for time in (TIME + 7, TIME + 3):
        line = checkpoint.cosign(WITNESSES[0], time=time)
        log.add_cosignature(0, line, trust=TRUST)
    opened = TRUST.open(log.publish(trust=TRUST))
    assert max(each.time for each in opened.cosignatures) == TIME + 7


def test_wrong_cosignatures_are_refused_one_by_one(log: Log) -> None:
    """A lying witness does not spoil the note of the others."""
    log.append([entry(0)])
    checkpoint = read_claim(log.sign_checkpoint())
    fork = Checkpoint(origin=log.origin, size=1, root=leaf_hash(b"forged"))
    stranger = signing_key("x.example/w", Algorithm.COSIGNATURE)
    for line, code in (
        (fork.cosign(WITNESSES[0], time=TIME), "signature-invalid"),
        (checkpoint.cosign(stranger, time=TIME), "witness-unknown"),
    ):
        with refused(VerificationError, code):
            log.add_cosignature(1, line, trust=TRUST)
    with refused(ProtocolError, "signature-line-malformed"):
        log.add_cosignature(1, b"no line\n", trust=TRUST)
    with pytest.raises(ValueError, match="size 2"):
        log.add_cosignature(2, b"", trust=TRUST)
    publish(log)


def test_cosignatures_of_former_witnesses_are_not_published(log: Log) -> None:
    publish(log)
    keys = [witness.verify_key for witness in WITNESSES]
    smaller = TrustPolicy.of_members(LOG_KEY.verify_key, keys[1:])
    note = log.publish(trust=smaller)
    assert len(smaller.open(note).cosignatures) == 2
    with refused(QuorumError, "quorum-not-reached"):
        log.publish(trust=TrustPolicy.of_members(LOG_KEY.verify_key, keys[3:]))


def test_the_public_files_verify_at_every_step(log: Log) -> None:
    for step in range(12):
        log.append([entry(number) for number in range(50 * step, 50 * step + 50)])
        publish(log)
        checkpoint = TRUST.open((log.public / "checkpoint").read_bytes()).checkpoint
        assert list(tiles.verify(log.public, checkpoint)) == log.entries(0, log.size)
    for superseded in ("tile/0/000.p", "tile/0/001.p", "tile/entries/001.p"):
        assert not (log.public / superseded).exists()
    assert (log.public / "tile/0/002.p/38").exists()  # of an older checkpoint


def test_proofs_are_of_the_public_checkpoint(log: Log) -> None:
    log.append([entry(number) for number in range(20)])
    with refused(IncompleteError, "checkpoint-missing"):
        log.proof(0)
    publish(log)
    log.append([entry(20)])
    for index in range(20):
        Proof.parse(log.proof(index)).verify(entry(index), TRUST)
    for index in (20, 21, -1):
        with refused(IncompleteError, "checkpoint-missing", match=f"entry {index}"):
            log.proof(index)


@given(batches=st.lists(st.integers(0, 90), max_size=8), upto=st.integers(0, 8))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_log_is_the_same_after_opening_again(
    batches: list[int], upto: int, tmp_path: Path
) -> None:
    directory = tmp_path / "law"
    shutil.rmtree(directory, ignore_errors=True)
    size = 0
    for number, count in enumerate(batches):
        with start_log(directory) as log:
            assert log.size == size
            log.append([entry(size + at) for at in range(count)])
            size += count
            if number < upto:
                publish(log)
    with start_log(directory) as log:
        assert log.entries(0, size) == [entry(number) for number in range(size)]
        publish(log)
        checkpoint = TRUST.open(log.latest() or b"").checkpoint
        leaves = [leaf_hash(entry(number)) for number in range(size)]
        assert checkpoint.root == root(leaves)
        assert len(tiles.verify(log.public, checkpoint)) == size


# Opening


def test_a_log_is_made_once(copied: Path, tmp_path: Path) -> None:
    with refused(ConfigError, "log-exists"):
        Log.create(copied, key=LOG_KEY)
    with refused(ConfigError, "log-missing", match=r"no log\.db"):
        Log.open(tmp_path / "nothing", key=LOG_KEY)
    with start_log(copied) as log:
        assert log.size == 300
    with start_log(tmp_path / "new") as log:
        assert log.size == 0


def test_a_log_that_was_killed_while_being_made_is_made_again(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "log.db").close()
    with refused(ConfigError, "database-kind-differs", match="version 0"):
        Log.open(tmp_path, key=LOG_KEY)
    with start_log(tmp_path) as log:
        assert log.append([entry(0)]) == range(1)


def test_a_log_of_a_later_version_does_not_open(copied: Path) -> None:
    db = sqlite3.connect(copied / "log.db")
    db.execute("PRAGMA user_version = 2")
    db.close()
    with refused(ConfigError, "database-kind-differs", match="version 2"):
        start_log(copied)


def test_a_log_that_lost_its_database_is_not_begun_anew(copied: Path) -> None:
    (copied / "log.db").unlink()
    with refused(ConfigError, "log-missing"):
        start_log(copied)


def test_a_log_opens_with_its_own_key_only(copied: Path) -> None:
    for key in (SigningKey.generate(LOG_KEY.name), signing_key("other.example/gov")):
        with refused(ConfigError, "log-key-differs"):
            Log.open(copied, key=key)


def test_a_second_writer_is_kept_out(log: Log, tmp_path: Path) -> None:
    """Attack 15."""
    with refused(ResourceError, "folder-in-use"):
        Log.open(tmp_path / "log", key=LOG_KEY)
    log.append([entry(0)])


def test_a_writer_behind_the_lock_is_noticed(log: Log, tmp_path: Path) -> None:
    """Attack 15: another program has deleted the lock file."""
    log.append([entry(0)])
    (tmp_path / "log" / "lock").unlink()
    with Log.open(tmp_path / "log", key=LOG_KEY) as other:
        other.append([entry(1)])
        with refused(InconsistentLog, "log-changed-elsewhere"):
            log.append([entry(2)])
        assert other.entries(0, 2) == [entry(0), entry(1)]


def test_missing_public_files_are_written_again(copied: Path) -> None:
    before = public_files(copied)
    shutil.rmtree(copied / "public")
    _reopen(copied)
    assert public_files(copied) == before


def test_half_written_files_of_a_crash_are_removed(copied: Path) -> None:
    before = public_files(copied)
    for name in ("checkpoint.new", "tile/0/001.new", "tile/entries/001.p/34.new"):
        path = copied / "public" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"torn")
    _reopen(copied)
    assert public_files(copied) == before


@given(which=st.integers(0), at=st.integers(0), bits=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_byte_in_a_public_file_keeps_the_log_closed(
    grown: Path, which: int, at: int, bits: int
) -> None:
    """Attack 12; a cosigner's line that became a stranger's is no contradiction."""
    files = sorted(path for path in (grown / "public").rglob("*") if path.is_file())
    path = files[which % len(files)]
    honest = path.read_bytes()
    forged = bytearray(honest)
    forged[at % len(forged)] ^= bits
    if path.name == "checkpoint" and at % len(forged) >= honest.index("— de".encode()):
        return
    path.write_bytes(forged)
    try:
        with pytest.raises(InconsistentLog) as caught:
            _reopen(grown)
        if path.name != "checkpoint":
            assert caught.value.code == "tile-differs"
        assert caught.value.code != InconsistentLog("").code
        assert path.read_bytes() == bytes(forged)  # evidence is left alone
    finally:
        path.write_bytes(honest)


def test_a_changed_cosignature_in_the_public_checkpoint_is_restored(
    copied: Path,
) -> None:
    path = copied / "public" / "checkpoint"
    honest = path.read_bytes()
    path.write_bytes(honest.replace(b"fr.example", b"xx.example"))
    _reopen(copied)
    assert path.read_bytes() == honest


def _break_entry(db: sqlite3.Connection) -> None:
    db.execute("DROP TRIGGER entries_keep")
    db.execute("UPDATE entry SET bytes = ? WHERE idx = 7", (b"forged",))


def _break_entry_and_leaf(db: sqlite3.Connection) -> None:
    db.execute("DROP TRIGGER entries_keep")
    row = (b"forged", leaf_hash(b"forged"))
    db.execute("UPDATE entry SET bytes = ?, leaf = ? WHERE idx = 7", row)


def _break_unsigned_entry(db: sqlite3.Connection) -> None:
    db.execute("DROP TRIGGER entries_keep")
    db.execute("UPDATE entry SET bytes = ? WHERE idx = 295", (b"forged",))


def _drop_unsigned_entry(db: sqlite3.Connection) -> None:
    db.execute("DROP TRIGGER entries_stay")
    db.execute("DELETE FROM entry WHERE idx = 295")


def _drop_entry(db: sqlite3.Connection) -> None:
    db.execute("DROP TRIGGER entries_stay")
    db.execute("DELETE FROM entry WHERE idx = 7")


def _truncate(db: sqlite3.Connection) -> None:
    db.execute("DROP TRIGGER entries_stay")
    db.execute("DELETE FROM entry WHERE idx >= 280")


def _forge_checkpoint(db: sqlite3.Connection) -> None:
    fork = Checkpoint(origin=LOG_KEY.name, size=300, root=leaf_hash(b"forged"))
    db.execute("INSERT INTO checkpoint VALUES (300, ?)", (fork.sign(LOG_KEY),))


def _move_checkpoint(db: sqlite3.Connection) -> None:
    (note,) = db.execute("SELECT note FROM checkpoint WHERE size = 290").fetchone()
    db.execute("INSERT INTO checkpoint VALUES (295, ?)", (note,))


def _forget_publication(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM publication WHERE size = 290")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_break_entry, "log-entries-missing"),
        (_break_entry_and_leaf, "log-forked"),
        (_break_unsigned_entry, "log-entries-missing"),
        (_drop_unsigned_entry, "log-entries-missing"),
        (_drop_entry, "log-entries-missing"),
        (_truncate, "log-restored"),
        (_forge_checkpoint, "log-forked"),
        (_move_checkpoint, "checkpoint-size-differs"),
        (_forget_publication, "log-restored"),
    ],
)
def test_a_database_that_was_tampered_with_does_not_open(
    copied: Path, spoil: Callable[[sqlite3.Connection], None], code: str
) -> None:
    """Attacks 1 and 2."""
    before = public_files(copied)
    db = sqlite3.connect(copied / "log.db")
    spoil(db)
    db.commit()
    db.close()
    with refused(InconsistentLog, code):
        _reopen(copied)
    assert public_files(copied) == before


def test_a_tampered_database_is_found_without_public_files(copied: Path) -> None:
    """Attack 2: the forger has removed the tiles, the signed roots remain."""
    shutil.rmtree(copied / "public")
    db = sqlite3.connect(copied / "log.db")
    _break_entry_and_leaf(db)
    db.commit()
    db.close()
    with refused(InconsistentLog, "log-forked"):
        _reopen(copied)


@given(at=st.integers(0), bits=st.integers(1, 255))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_byte_in_the_database_never_changes_an_entry(
    grown: Path, tmp_path: Path, at: int, bits: int
) -> None:
    """Some bytes are unused or of indexes; no flip may pass as another log."""
    directory = tmp_path / "flip"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(grown, directory)
    data = bytearray((directory / "log.db").read_bytes())
    data[at % len(data)] ^= bits
    (directory / "log.db").write_bytes(data)
    try:
        log = Log.open(directory, key=LOG_KEY)
    except TapestryError:
        return
    with log:
        assert log.entries(0, 300) == [entry(number) for number in range(300)]
        assert TRUST.open(log.latest() or b"").checkpoint.size == 290


def test_a_damaged_index_is_found_when_opening(copied: Path) -> None:
    """With it an entry could be appended twice."""
    path = copied / "log.db"
    db = sqlite3.connect(path)
    query = "SELECT rootpage FROM sqlite_master WHERE name LIKE ?"
    (page,) = db.execute(query, ("sqlite_autoindex_entry_%",)).fetchone()
    (page_size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    data = bytearray(path.read_bytes())
    data[page * page_size - 10] ^= 1  # cells are at the end of a page
    path.write_bytes(data)
    with refused(InconsistentLog, "database-damaged"):
        _reopen(copied)


def test_damage_that_sqlite_quotes_in_its_message_is_reported(copied: Path) -> None:
    data = (copied / "log.db").read_bytes()
    (copied / "log.db").write_bytes(data.replace(b"CHECK (idx", b"CHECK\xe2(idx"))
    with refused(InconsistentLog, "database-damaged"):
        _reopen(copied)


# Backups


def test_an_old_database_under_newer_public_files_does_not_open(
    log: Log, tmp_path: Path
) -> None:
    """Attack 14."""
    log.append([entry(0)])
    publish(log)
    log.close()
    shutil.copy(tmp_path / "log" / "log.db", tmp_path / "backup.db")
    with Log.open(tmp_path / "log", key=LOG_KEY) as later:
        later.append([entry(1)])
        publish(later)
    shutil.copy(tmp_path / "backup.db", tmp_path / "log" / "log.db")
    with refused(InconsistentLog, "log-restored"):
        _reopen(tmp_path / "log")


def test_an_old_backup_is_refused_by_a_newer_checkpoint_of_members(
    grown: Path, copied: Path
) -> None:
    """Attack 14: nothing on this disk can tell, a member's checkpoint can."""
    with Log.open(copied, key=LOG_KEY) as later:
        note = publish(later)
    with Log.open(grown, key=LOG_KEY) as log:
        log.check(note)  # 300 entries are there, signed or not
    with Log.open(copied, key=LOG_KEY) as later:
        later.append([entry(300)])
        note = publish(later)
    with (
        Log.open(grown, key=LOG_KEY) as log,
        refused(InconsistentLog, "log-restored", match="301 .* 300"),
    ):
        log.check(note)


def test_a_fork_that_members_hold_is_refused(grown: Path) -> None:
    """Attack 2."""
    fork = Checkpoint(origin=LOG_KEY.name, size=9, root=leaf_hash(b"forged"))
    other = signing_key("other.example/gov")
    elsewhere = Checkpoint(origin=other.name, size=9, root=leaf_hash(b"forged"))
    with Log.open(grown, key=LOG_KEY) as log:
        with refused(InconsistentLog, "log-forked"):
            log.check(cosigned(fork))
        with refused(VerificationError, "signature-missing"):
            log.check(cosigned(elsewhere, key=other))
        with refused(ProtocolError, "note-malformed"):
            log.check(b"nothing\n")


# Failing disks


def test_a_full_database_appends_nothing(log: Log) -> None:
    """Attack 13."""
    log.append([entry(0)])
    log.store.database.execute("PRAGMA max_page_count = 1")
    with refused(ResourceError, "database-unavailable", match="full"):
        log.append([b"%d" % number + bytes(60_000) for number in range(10)])
    assert (log.size, log.store.size()) == (1, 1)
    log.store.database.execute("PRAGMA max_page_count = 4294967294")
    assert log.append([entry(1)]) == range(1, 2)
    publish(log)


@pytest.mark.parametrize("function", ["fsync", "replace", "mkdir", "open"])
def test_a_failing_disk_leaves_the_old_checkpoint_public(
    log: Log, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack 13: after the failure, publishing works again."""
    log.append([entry(0)])
    old = publish(log)
    log.append([entry(number) for number in range(1, 300)])

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os." + function, fail)
        with refused(ResourceError, "file-unwritable", match="No space"):
            publish(log)
        assert (log.public / "checkpoint").read_bytes() == old
    new = log.publish(trust=TRUST)
    assert (log.public / "checkpoint").read_bytes() == new
    assert len(tiles.verify(log.public, TRUST.open(new).checkpoint)) == 300


def test_a_folder_that_cannot_be_made_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with refused(ResourceError, "file-unwritable", match="file/log"):
        Log.create(tmp_path / "file" / "log", key=LOG_KEY)
