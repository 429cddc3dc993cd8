"""The durable state of a node: ``node.db``, with the receipts of what left.

One SQLite database in WAL mode with ``synchronous=FULL``: a write that guards a send is
durable before the send. It has three tables.

``entries`` is one hash chain of all obligations (``state_entries``), and the number and
digest of its last entry are mirrored in a file beside it:

* The charges of the privacy ledger (``budget.ledger``).
* The account of each, signed and in the outbox in the same transaction.
* The upload marks: one upload per (run, round), ever, taken in one transaction with the
  charge that it names. Taking one is the only way to get the ``Reservation`` without
  which ``secagg`` masks nothing.
* The consents: the survivor sets that it helped to open without noise.
* The session: at which step of which round it is, and in which sealed file that step's
  state lies (``round.session_files``). It only goes on, or ends.
* The outbox: entries of the node's own that the log does not have yet, and since when
  the coordinator was given those that it could take.
* The base that each round gave by this node's own step, so that a dispute outlives
  a restart.
* The manifest of each release as this node rebuilt it, likewise.
* The most entries of the log that it has cosigned, with their root.
* The witness keys that were made since the state was restored, if ever it was.
* Chunks of sums that the node drew for spot checks: a draw is made once.
* The rounds whose outcome is not the gate's, by this node's own scores.

``egress`` holds receipts: kind, size and digest of each message that leaves, chained by
hash, so that a row changed or taken out of the middle shows. Each upload mark names the
receipt before it, so that what was cut before the last upload shows as well. Rows
deleted after it do not show: the list is not proven whole. ``units`` is the register of
the data's units (``data.unit_register``), whose digest the entries name.

Edge cases:
    ================================  ================================================
    The process is killed, or power   charge, account and upload mark are all there or
    fails, while they are taken       none
    It is killed between database     the database is ahead of its mirror, which holds;
    and mirror                        the next write brings the mirror up to date
    The mirror is put back alone      refused: it is more than one write behind
    The database is put back alone    refused: it ends before its mirror
    Database and mirror are put back  refused by the log, for all that it knows
    A backup is restored by command   marked as such (``restored_state``)
    The file is replaced while the    refused: obligations are no longer read or taken
    node runs
    ================================  ================================================
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tapestry.encoding import canonical_json, digest, digest_all
from tapestry.errors import ConfigError, ProtocolError, VerificationError
from tapestry.protocol.messages import Message
from tapestry.storage.file_lock import lock_file
from tapestry.storage.sqlite_database import ReadOnly, Schema, open_database
from tapestry_node.budget.ledger_entries import Charge, Key
from tapestry_node.round.session_marks import SessionMark
from tapestry_node.round.survivor_marks import (
    ConsentMark,
    UploadMark,
    check_consent,
    check_upload,
)
from tapestry_node.state_entries import HeadFile, Restored, Sign, StateReplay

DATABASE = "node.db"
_TABLES = """
CREATE TABLE entries (number INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE egress (
    number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL,
    bytes INTEGER NOT NULL, content TEXT NOT NULL, chain TEXT NOT NULL
) STRICT;
CREATE TABLE units (version INTEGER PRIMARY KEY, rows BLOB NOT NULL) STRICT;
"""
_SCHEMA = Schema(application="TpNd", version=2, tables=_TABLES)
_GENESIS = digest(b"tapestry-egress/1")


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One message that left the node."""

    number: int
    time: str
    kind: str
    bytes: int
    content: str  # digest of body and attachments
    chain: str  # digest of the previous chain value and this row


class NodeState:
    """The node's durable memory.

    Every method raises ``ResourceError`` when the disk is full or failing,
    ``VerificationError`` when the entries were restored, cut or changed, and
    ``ConfigError`` when the clock runs before the last entry.
    """

    def __init__(
        self,
        path: Path,
        *,
        exclusive: bool = False,
        readonly: ReadOnly = False,
        mirror: HeadFile | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        """Open ``node.db``, or create it unless ``readonly``.

        ``exclusive`` keeps other processes from serving with it; they may read.
        ``mirror`` keeps the last entry's digest as well, by default beside the
        database.

        Raises:
            ConfigError: Another process serves with it.
            ResourceError: The database cannot be read, or not be written.
            VerificationError: Its entries were restored, cut or changed.
        """
        self.path, self._clock = path, clock
        self._mirror = mirror or HeadFile(path.with_name(path.name + ".mirror"))
        try:
            self._lock = lock_file(path.with_suffix(".lock")) if exclusive else None
        except BlockingIOError:
            raise ConfigError(
                f"another process serves {path.parent}; stop it", code="folder-in-use"
            ) from None
        try:
            self.database = open_database(
                path, _SCHEMA, readonly=readonly, threads=True
            )
        except BaseException:
            self._release()
            raise
        try:
            self._file = path.stat()
            self._replay = StateReplay(self.database)
            self._check_receipts(self._load())
        except BaseException:
            self.close()
            raise

    @contextmanager
    def writing(self) -> Iterator[StateReplay]:
        """Add entries, all or none, with no other writer between them.

        Guarantees:
            When it ends, the entries are on the disk and in the mirror.
        """
        self._require_in_place()
        try:
            with self.database.transaction():
                replay = self._load()
                yield replay
            number, _ = self._mirror.latest() or (0, "")
            if replay.number > number:
                self._mirror.record(replay.number, replay.head)
        except BaseException:
            self._replay = StateReplay(self.database)  # what it read is rolled back
            raise

    def reading(self) -> StateReplay:
        """Return all entries as they are now."""
        self._require_in_place()
        return self._load()

    def _load(self) -> StateReplay:
        with self.database.errors():
            mirrored = self._mirror.latest()  # first: another process may be writing
            name = str(self.path)
            self._replay.load(mirrored=mirrored, now=self._clock(), name=name)
        return self._replay

    def _require_in_place(self) -> None:
        with self.database.errors():
            found = self.path.stat() if self.path.exists() else None
        if found is None or not _is_same_file(found, self._file):
            raise VerificationError(
                f"{self.path} was replaced while this process had it open; put the"
                " newest copy back and start again",
                code="state-restored",
            )

    def highest(self, run_id: str) -> int:
        """Return the last round of a run that was uploaded or paid for; 0 for none."""
        return self.reading().highest(run_id)

    def check_upload(self, mark: UploadMark, *, named: Collection[str]) -> None:
        """Refuse what ``take_upload`` would refuse for its cohort, and take nothing.

        Raises:
            Refused: The round has no noise, and its cohort is too far from that of an
                earlier upload.
        """
        check_upload(mark, self.reading().uploads, named=named)

    def take_upload(
        self,
        mark: UploadMark,
        *,
        charge: Charge | None,
        sign: Sign,
        named: Collection[str] = (),
    ) -> None:
        """Take the only upload of a round, spend its charge and account for it.

        It is all or none, so that no account is lost. ``named`` holds the exceptions
        that the node's policy names.

        Raises:
            Refused: The round has no noise, and its cohort is too far from that of an
                earlier upload.
            ProtocolError: The round, or a later one of its run, was taken or paid for
                before; or the plan has noise and there is no charge, or the reverse.
            PolicyError: The charge was not reserved, or with other steps.
        """
        with self.writing() as replay:
            if mark.round_number <= replay.highest(mark.run):
                raise ProtocolError(
                    f"round {mark.round_number} of {mark.run} was uploaded or paid for"
                    " already; one upload per round, ever",
                    code="round-already-uploaded",
                )
            check_upload(mark, replay.uploads, named=named)
            if charge is not None:
                replay.spend(charge)
            replay.account(("round", mark.run, mark.round_number), sign)
            self._append_upload(replay, mark, charge)

    def assume_upload(
        self, marks: Sequence[UploadMark], *, charge: Charge | None, sign: Sign
    ) -> None:
        """Count a round's only upload as taken, and its charge as spent: they may be.

        It is for a state that was restored, and all or none. What is taken stays. There
        is a mark for each attempt, as the upload may be of any of them.
        """
        with self.writing() as replay:
            key = marks[0].run, marks[0].round_number
            if key in {(each.run, each.round_number) for each in replay.uploads}:
                return
            if charge is not None and ("round", *key) not in replay.accounted:
                replay.assume_instead(charge)
            replay.account(("round", *key), sign)
            for mark in marks:
                self._append_upload(replay, mark, charge)

    def _append_upload(
        self, replay: StateReplay, mark: UploadMark, charge: Charge | None
    ) -> None:
        number, chain = self._last_receipt()
        replay.append(
            {
                "type": "upload",
                "mark": mark.body(),
                "charge": replay.rows[charge.key].number if charge else None,
                "receipts": number,
                "receipt": chain,
            }
        )

    def mark_restored(self, *, since: int) -> None:
        """Note that this state is an older copy, and count what was reserved as spent.

        Args:
            since: The index in the log from which on it may have forgotten something.
        """
        with self.writing() as replay:
            for row in list(replay.rows.values()):
                if row.state == "reserved":
                    replay.spend(row.charge)
            replay.append({"type": "restored", "since": since})

    @property
    def restored(self) -> Restored | None:
        """The restoration that it has not caught up with the log since, or None."""
        return self.reading().restored

    def keep_witness(self, key: str) -> None:
        """Note a witness key that was made now: all that it signs is known here."""
        with self.writing() as replay:
            if key not in replay.witnesses:
                replay.append({"type": "witness-made", "key": key})

    def may_cosign(self, key: str) -> bool:
        """Return whether all that a witness key may have signed is known here."""
        replay = self.reading()
        return not replay.has_forgotten or key in replay.witnesses

    def forget_witness(self) -> None:
        """Note that the witness keys so far have cosigned what is not stored."""
        with self.writing() as replay:
            replay.append({"type": "witness-forgotten"})

    @property
    def cosigned(self) -> tuple[int, str]:
        """The most entries that are noted as cosigned, and their root; 0 for none."""
        return self.reading().cosigned

    def keep_cosigned(self, size: int, root: str) -> None:
        """Note what is about to be cosigned, if it is more than before."""
        with self.writing() as replay:
            if size > replay.cosigned[0]:
                replay.append({"type": "cosigned", "size": size, "root": root})

    def account(self, key: Key, sign: Sign) -> bytes:
        """Return the account of a key; sign and post one if there is none."""
        with self.writing() as replay:
            return replay.account(key, sign)

    def accounts(self) -> dict[Key, bytes]:
        """Return the signed accounts of all that was spent, in order."""
        return dict(self.reading().accounted)

    def take_consent(
        self,
        mark: ConsentMark,
        *,
        session: SessionMark | None = None,
        logged: Iterable[ConsentMark] = (),
        named: Collection[str] = (),
    ) -> None:
        """Mark a set of survivors before the node consents to open their sum.

        ``session`` is that of the step, taken in the same transaction; ``logged``
        holds sets that the log shows, which this database may have lost; ``named`` the
        exceptions that the node's policy names.

        Raises:
            Refused: Another set was taken on the same base, or in the same run.
        """
        with self.writing() as replay:
            check_consent(mark, [*replay.consents, *logged], named=named)
            if mark not in replay.consents:
                replay.append({"type": "consent", "mark": mark.body()})
            if session is not None:
                replay.append({"type": "session", "mark": session.body()})

    def keep_session(self, mark: SessionMark) -> None:
        """Note the step of a round whose reply is about to leave.

        Raises:
            ProtocolError: It is not the next step of the session, an upload has no
                mark, or the round was taken without it.
        """
        with self.writing() as replay:
            replay.append({"type": "session", "mark": mark.body()})

    def end_session(self) -> None:
        """Note that no session is to be taken up any more."""
        with self.writing() as replay:
            if replay.session is not None:
                replay.append({"type": "session-end"})

    def session(self) -> SessionMark | None:
        """Return the last step of the session that was not ended.

        Raises:
            VerificationError: The round was paid for, and nothing was masked: its
                training failed, or the process died at once after paying.
        """
        replay = self.reading()
        if replay.is_ahead_of_session:
            raise VerificationError(
                f"{self.path} has taken the round of the session, and no upload of it",
                code="session-behind-marks",
            )
        return replay.session

    def require(self, committed: Mapping[str, int]) -> None:
        """Compare with the last rounds that the log says this node uploaded for.

        A state that was restored by command knows that it lacks some of them, and lets
        nothing leave before it has counted them (``restored_state``).

        Args:
            committed: The number of the last such round, by run.

        Raises:
            VerificationError: The log holds one above the mark: database and mirror
                were deleted, or restored from before that round.
        """
        for run_id, round_number in committed.items():
            if self.restored is not None:
                return
            mark = self.highest(run_id)
            if mark < round_number:
                raise VerificationError(
                    f"the log says that this node uploaded for round {round_number} of"
                    f" {run_id!r}, {self.path} knows of {mark}: it was deleted or is"
                    " an older copy; put the newest back",
                    code="state-restored",
                )

    def post(self, entry: bytes) -> None:
        """Keep an entry of the node once, until the log has it."""
        with self.writing() as replay:
            if entry not in replay.outbox:
                replay.append({"type": "post", "entry": entry.hex()})

    def outbox(self) -> list[bytes]:
        """List the entries that the log should get, the oldest first."""
        return list(self.reading().outbox)

    def post_instead(self, entry: bytes, *, of: bytes) -> None:
        """Keep an entry in the place of one that the log can take no more."""
        with self.writing() as replay:
            replay.append({"type": "clear", "entry": of.hex()})
            replay.append({"type": "post", "entry": entry.hex()})

    def clear(self, entry: bytes) -> None:
        """Forget an entry that is in the log now."""
        with self.writing() as replay:
            if entry in replay.outbox:
                replay.append({"type": "clear", "entry": entry.hex()})

    def submit(self, leaves: Sequence[bytes], *, size: int) -> dict[bytes, int]:
        """Remember since when entries are submitted; forget those that are no more.

        Returns:
            The size of the log at which each was first submitted, by leaf hash.
        """
        known = self.reading().submitted
        rows = {leaf: known.get(leaf, size) for leaf in leaves}
        if rows != known:
            named = {leaf.hex(): since for leaf, since in rows.items()}
            with self.writing() as replay:
                replay.append({"type": "submitted", "rows": named})
        return rows

    def keep_base(self, run_id: str, round_number: int, *, gives: str) -> None:
        """Remember which model a round gives to release, by this node's own step."""
        with self.writing() as replay:
            key = {"run": run_id, "round": round_number}
            if replay.bases.get((run_id, round_number)) != gives:
                replay.append({"type": "base", **key, "gives": gives})

    def base(self, run_id: str, round_number: int) -> str | None:
        """Return the model that a round gave here to release, if it was followed."""
        return self.reading().bases.get((run_id, round_number))

    def keep_rebuilt(self, run_id: str, round_number: int, *, manifest: str) -> None:
        """Remember the manifest of the release of a round, as it was rebuilt here."""
        with self.writing() as replay:
            key = {"run": run_id, "round": round_number}
            if replay.rebuilt.get((run_id, round_number)) != manifest:
                replay.append({"type": "rebuilt", **key, "manifest": manifest})

    def rebuilt(self, run_id: str, round_number: int) -> str | None:
        """Return the manifest of a round's release if it was rebuilt here."""
        return self.reading().rebuilt.get((run_id, round_number))

    def keep_spots(
        self, run_id: str, round_number: int, *, chunks: Sequence[int]
    ) -> None:
        """Remember a draw for spot checks, unless there is one of this round."""
        with self.writing() as replay:
            if chunks and (run_id, round_number) not in replay.spots:
                key = {"run": run_id, "round": round_number}
                replay.append({"type": "draw", **key, "chunks": list(chunks)})

    def spots(self, run_id: str, round_number: int) -> list[int]:
        """List the chunks of a round that were drawn and not seen yet."""
        drawn = self.reading().spots.get((run_id, round_number), {})
        return sorted(chunk for chunk, state in drawn.items() if state == "open")

    def mark_verified(self, run_id: str, round_number: int, *, chunk: int) -> None:
        """Mark a chunk that was drawn as seen."""
        self._mark_spot("seen", run_id, round_number, chunk)

    def dispute_spot(self, run_id: str, round_number: int, *, chunk: int) -> None:
        """Note for good that a chunk of a sum is not the sum of the uploads."""
        self._mark_spot("disputed", run_id, round_number, chunk)

    def dispute_gate(self, run_id: str, round_number: int, *, entry: bytes) -> None:
        """Note once, for good, that the gate's outcome is another one, and post it."""
        with self.writing() as replay:
            if (run_id, round_number) not in replay.gates:
                key = {"run": run_id, "round": round_number}
                replay.append({"type": "gate", **key})
                replay.append({"type": "post", "entry": entry.hex()})

    def disputed_gates(self) -> list[tuple[str, int]]:
        """List run and number of the rounds whose gate this node disputes."""
        return sorted(self.reading().gates)

    def _mark_spot(self, kind: str, run_id: str, round_number: int, chunk: int) -> None:
        with self.writing() as replay:
            key = {"run": run_id, "round": round_number}
            if replay.spots[run_id, round_number][chunk] != kind:
                replay.append({"type": kind, **key, "chunk": chunk})

    def disputed(self, run_id: str) -> list[int]:
        """List the rounds of a run whose sums are false, as this node has seen."""
        return [number for run, number in self.disputed_sums() if run == run_id]

    def disputed_sums(self) -> list[tuple[str, int]]:
        """List run and number of the rounds whose sums are false, as seen here."""
        return self._rounds_with("disputed")

    def pending_rounds(self, run_id: str) -> list[int]:
        """List the rounds of a run with drawn chunks that were not seen yet."""
        return [number for run, number in self._rounds_with("open") if run == run_id]

    def _rounds_with(self, state: str) -> list[tuple[str, int]]:
        spots = self.reading().spots
        return sorted(key for key, drawn in spots.items() if state in drawn.values())

    def secret(self, name: str, fresh: bytes) -> bytes:
        """Return a secret that was stored under a name, or store ``fresh``."""
        with self.writing() as replay:
            if name not in replay.secrets:
                value = fresh.hex()
                replay.append({"type": "secret", "name": name, "value": value})
            return replay.secrets[name]

    def record(self, message: Message) -> None:
        """Write the receipt of a message before it leaves.

        Raises:
            ResourceError: The receipt cannot be written; the message must not leave.
        """
        number, chain = self._last_receipt()
        attached = [memoryview(each).cast("B") for each in message.attachments]
        row = (
            number + 1,
            self._clock().strftime("%Y-%m-%dT%H:%M:%SZ"),
            message.kind.value,
            message.size,
            digest_all([message.body, *attached]),
        )
        self.database.query(
            "INSERT INTO egress VALUES (?, ?, ?, ?, ?, ?)", *row, _link(chain, row)
        )

    def _last_receipt(self) -> tuple[int, str]:
        rows = self.database.query(
            "SELECT number, chain FROM egress ORDER BY number DESC LIMIT 1"
        )
        return (rows[0][0], rows[0][1]) if rows else (0, _GENESIS)

    def _check_receipts(self, replay: StateReplay) -> None:
        """Require the receipt that the last upload names.

        Raises:
            VerificationError: The receipts are older than the last upload.
        """
        number, chain = replay.receipt or (0, _GENESIS)
        rows = self.database.query("SELECT chain FROM egress WHERE number = ?", number)
        if number and [row[0] for row in rows] != [chain]:
            raise self._tampered(number)

    def receipts(self) -> Iterator[Receipt]:
        """Iterate over all receipts in order, checking the chain.

        Raises:
            VerificationError: A row was changed, or one amid the others removed or
                added, by hand.
        """
        self._check_receipts(self.reading())
        chain = _GENESIS
        rows = self.database.query("SELECT * FROM egress ORDER BY number")
        for expected, row in enumerate(rows, start=1):
            chain = _link(chain, row[:5])
            if row[0] != expected or row[5] != chain:
                raise self._tampered(expected)
            names = Receipt.__slots__  # in the order of the columns
            yield Receipt(**dict(zip(names, row, strict=True)))

    def _tampered(self, number: int) -> VerificationError:
        return VerificationError(
            f"egress receipt {number} of {self.path} was tampered with; put the newest"
            " copy back",
            code="receipt-changed",
        )

    def close(self) -> None:
        """Close the database and let others serve."""
        self.database.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


def _is_same_file(one: Any, other: Any) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _link(chain: str, row: tuple[int, str, str, int, str]) -> str:
    return digest(canonical_json([chain, *row]))
