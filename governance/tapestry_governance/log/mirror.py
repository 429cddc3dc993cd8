"""A node's mirror of the log: a durable copy that only grows.

A node extends its mirror with entries and the checkpoint that the log signed over
them, cosigns what it has stored, and acts on nothing before it has accepted the same
checkpoint with a quorum of cosignatures (as C2SP tlog-witness)::

    extend             log signature, append-only, rules      -> stored
    cosign             "append-only, as far as I have seen"   -> a line for the log
    accept_checkpoint  quorum, fresh, equal to what is stored -> may be acted on
    verify_prefix      quorum, a prefix of what is stored     -> cannot change any more

Guarantees:
    What was stored once is never replaced: a shorter log, another log of the same
    size, or an entry that differs from the mirror's raises ``InconsistentLog``, and
    the offending note is kept as evidence, with its entries up to a limit, so that a
    log cannot fill a disk. Each step is on the disk before its
    method returns, so a cosignature covers only entries that are durable here.

Not protected:
    One thread at a time. Whatever can write the file can delete it, and with it the
    memory of what was seen; keep it where the keys are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from tapestry.encoding import canonical_json, digest, encode_base64
from tapestry.errors import (
    IncompleteError,
    InconsistentLog,
    ProtocolError,
    RuleError,
    TapestryError,
    VerificationError,
)
from tapestry.keys import SigningKey
from tapestry.storage.sqlite_database import Database, ReadOnly, Schema, open_database
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.freshness import Times, check_fresh
from tapestry.tlog.merkle import leaf_hash
from tapestry.tlog.note import MAX_BYTES
from tapestry.tlog.trust_policy import CosignedCheckpoint, TrustPolicy
from tapestry_governance.events.envelope import Seen, open_entry
from tapestry_governance.events.event_body import Body
from tapestry_governance.log.turns import Turns
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.persistent_collections import PersistentTree
from tapestry_governance.rules.replay import apply_all
from tapestry_governance.rules.settlement import settle

_Body = TypeVar("_Body", bound=Body)
MAX_AGE = 24 * 3600  # seconds; a policy may only shorten it
MAX_EVIDENCE = 64  # refused updates that are kept, the first ones
EVIDENCE_BYTES = 1 << 20  # of the entries of one; of larger updates only the note stays
_UNKNOWN_KEY = ("signature-missing", "log-signature-missing")
_TABLES = """
CREATE TABLE entry (
    idx INTEGER PRIMARY KEY, leaf BLOB, bytes BLOB
) STRICT;
CREATE INDEX entry_leaf ON entry (leaf);
CREATE TABLE signed (size INTEGER PRIMARY KEY, note BLOB) STRICT;
CREATE TABLE accepted (size INTEGER PRIMARY KEY, note BLOB) STRICT;
CREATE TABLE evidence (
    id INTEGER PRIMARY KEY, reason TEXT, note BLOB, update_json BLOB
) STRICT;
"""
_SCHEMA = Schema(application="TpLm", version=1, tables=_TABLES, longest=MAX_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkEvidence:
    """A signed note that a mirror refused, and the entries that came with it.

    The entries are left out where there are more than ``EVIDENCE_BYTES``: the log's
    signature under a size and root is what convicts it.
    """

    reason: str
    note: bytes
    update: bytes  # canonical JSON: start, and the entries in base64 or null


class LogMirror:
    """One party's mirror of one log. Open it with :meth:`open`."""

    def __init__(
        self, database: Database, *, trust: TrustPolicy, genesis: str | None
    ) -> None:
        """Take an open database; :meth:`open` is the way to make one."""
        self._database = database
        self._turns = Turns(trust)
        self._genesis = genesis
        self._state: FederationState | None = None
        self._accepted: CosignedCheckpoint | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        trust: TrustPolicy,
        genesis: str | None,
        readonly: ReadOnly = False,
    ) -> "LogMirror":
        """Open a mirror, or make an empty one, and verify all that it holds.

        Args:
            path: The file.
            trust: The trust policy, from outside the federation.
            genesis: The digest of entry 0, from outside the federation. None takes
                any: then nothing holds but what the caller finds cosigned by a quorum.
            readonly: Change nothing, as ``open_database``; all reads see one moment.

        Raises:
            ResourceError: The file cannot be opened or is no database.
            VerificationError: The stored entries are damaged, lack one, or do not
                lead to the genesis and the stored checkpoints; or a copy is none.
        """
        database = open_database(  # no check of rows: entries are verified by hash
            path, _SCHEMA, readonly=readonly, check=False, threads=True
        )
        mirror = cls(database, trust=trust, genesis=genesis)
        try:
            with database.errors():
                if readonly:
                    database.execute("BEGIN")
                mirror._load()
        except BaseException:
            database.close()
            raise
        return mirror

    @property
    def size(self) -> int:
        """The number of stored entries."""
        return self._state.size if self._state else 0

    @property
    def state(self) -> FederationState:
        """The federation as of all stored entries.

        Raises:
            IncompleteError: The mirror holds no entry yet.
        """
        if self._state is None:
            raise IncompleteError(
                "the mirror of the log is empty; the coordinator's first request for a"
                " cosignature fills it",
                code="mirror-empty",
            )
        return self._state

    @property
    def settled(self) -> FederationState:
        """The federation as an entry finds it whose author saw all that is stored.

        Raises:
            IncompleteError: The mirror holds no entry yet.
        """
        return settle(self.state, seen=self.size)

    @property
    def accepted(self) -> CosignedCheckpoint | None:
        """The newest checkpoint that was accepted."""
        return self._accepted

    @property
    def accepted_sizes(self) -> list[int]:
        """The sizes of all checkpoints that were accepted, in order."""
        query = "SELECT size FROM accepted ORDER BY size"
        return [size for (size,) in self._database.query(query)]

    @property
    def accepted_at(self) -> int | None:
        """The time when honest witnesses cosigned that checkpoint, in POSIX seconds."""
        if self._accepted is None or not self._accepted.cosignatures:
            return None
        size = self._accepted.checkpoint.size
        return Times.of(self._accepted, self._in_force(size)).seen_at

    @property
    def trust(self) -> TrustPolicy:
        """The trust policy in force in the stored log."""
        return self._in_force(self.size)

    @property
    def seen(self) -> Seen | None:
        """The log as this party's events claim to know it; None before acceptance."""
        if self._accepted is None:
            return None
        checkpoint = self._accepted.checkpoint
        return Seen(size=checkpoint.size, root=checkpoint.root.hex())

    @property
    def signed(self) -> bytes | None:
        """The newest checkpoint that the log signed, cosigned or not."""
        query = "SELECT note FROM signed ORDER BY size DESC LIMIT 1"
        rows = self._database.query(query)
        return self._stored(rows[0][0]) if rows else None

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def extend(
        self,
        start: int,
        entries: Sequence[bytes],
        note: bytes,
        *,
        cosigned: Sequence[bytes] = (),
    ) -> None:
        """Store new entries under a checkpoint that the log has signed.

        Args:
            start: The index of the first of ``entries``; at most the mirror's size.
            entries: Entries up to the checkpoint's size; some may be known already.
            note: The checkpoint.
            cosigned: Checkpoints to step over, as :meth:`step` takes them; they may
                cover the new entries.

        Guarantees:
            All of it is stored, or nothing but evidence.

        Raises:
            ProtocolError: The entries leave a gap, or their number is wrong.
            InconsistentLog: The update is a rollback or a fork; kept as evidence.
            RuleError: An entry breaks a rule, or is an account that tells less than it
                costs; kept as evidence.
            VerificationError: A signature does not hold, or entry 0 is not the
                genesis or not the charter of the log that signed.
            QuorumError: Too few witnesses cosigned a checkpoint to step over.
        """
        checkpoint, is_signed = self._open_signed(note, entries)
        try:
            fresh = self._check_append(start, entries, checkpoint)
            following = self._follow(fresh, checkpoint, note)
            steps = self._steps(following, cosigned)
        except (InconsistentLog, RuleError) as error:
            if is_signed:
                self._keep_evidence(error, note, start=start, entries=entries)
            raise
        with self._database.transaction():
            self._database.executemany(
                "INSERT INTO entry VALUES (?, ?, ?)",
                [
                    (self.size + offset, leaf_hash(entry), bytes(entry))
                    for offset, entry in enumerate(fresh)
                ],
            )
            self._database.execute(
                "INSERT OR IGNORE INTO signed VALUES (?, ?)", (checkpoint.size, note)
            )
            for opened in steps:
                self._keep_accepted(opened)
        self._state = following
        self._accepted = steps[-1] if steps else self._accepted

    def cosign(self, key: SigningKey, now: datetime) -> bytes:
        """Cosign all that is stored; returns a signature line.

        Guarantees:
            The line covers the stored entries, and so never a log that is shorter
            than, or different from, one cosigned before.

        Raises:
            IncompleteError: The mirror holds no entry yet.
        """
        return self._prefix(self.size).cosign(key, time=_seconds(now))

    def accept_checkpoint(
        self, note: bytes, now: datetime, *, max_age: int = MAX_AGE
    ) -> CosignedCheckpoint:
        """Accept the stored log as agreed: quorum, fresh, the same as here.

        ``max_age``, in seconds, can only shorten the age that the policy allows.

        Guarantees:
            Fresh by the clock of some honest witness, as long as no more are faulty
            than the trust policy can do without (``freshness``).

        Raises:
            ProtocolError: It covers entries that are not stored; extend first.
            QuorumError: Too few witnesses have cosigned.
            InconsistentLog: It shows a rollback or a fork; kept as evidence.
            PolicyError: It is too old, from the future, or before the last one.
            VerificationError: A signature does not hold.
        """
        opened = self._open_known(note, oldest=self.size)
        check_fresh(
            opened,
            self._in_force(self.size),
            now=_seconds(now),
            limit=min(MAX_AGE, self.state.policy.max_checkpoint_age, max_age),
            before=self._accepted,
        )
        statement = "INSERT OR REPLACE INTO accepted VALUES (?, ?)"
        self._database.query(statement, opened.checkpoint.size, note)
        self._accepted = opened
        return opened

    def step(self, notes: Sequence[bytes]) -> None:
        """Step over turns, by checkpoints that old and new witnesses cosigned.

        A party that was away accepts the newest checkpoint only after these. Those that
        it has passed already are skipped.

        Raises:
            ProtocolError: One covers entries that are not stored; extend first.
            QuorumError: Too few of the old or of the new witnesses have cosigned.
            InconsistentLog: One shows a fork.
            VerificationError: A signature does not hold.
        """
        steps = self._steps(self._state, notes)
        with self._database.transaction():
            for opened in steps:
                self._keep_accepted(opened)
        self._accepted = steps[-1] if steps else self._accepted

    def _steps(
        self, state: FederationState | None, notes: Sequence[bytes]
    ) -> list[CosignedCheckpoint]:
        """Open the checkpoints beyond the accepted one, each after the one before."""
        found, since = list[CosignedCheckpoint](), self._since
        for note in notes:
            size = read_claim(note).size
            if size <= since:
                continue
            opened = self._turns.to_accept(state, size, since=since).open(note)
            if state is None or size > state.size:
                raise _beyond(size, 0 if state is None else state.size)
            if opened.checkpoint.root != state.past.root(size):
                raise InconsistentLog(
                    f"fork: two logs of {size} entries", code="log-forked"
                )
            found.append(opened)
            since = size
        return found

    def _keep_accepted(self, opened: CosignedCheckpoint) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO accepted VALUES (?, ?)",
            (opened.checkpoint.size, opened.note),
        )

    def turns(self) -> list[bytes]:
        """Return the accepted checkpoints by which other witnesses came into force."""
        sizes = self.accepted_sizes
        found = self._turns.sizes(self.state, sizes) if sizes else []
        query = "SELECT note FROM accepted WHERE size = ?"
        return [self._stored(self._database.query(query, size)[0][0]) for size in found]

    def verify_prefix(self, note: bytes) -> int:
        """Verify that a quorum has cosigned a prefix of the log; return its size.

        An old checkpoint is enough for events that cannot change any more, such as
        the end of a round. To act on events under way, accept the newest one instead.

        Raises:
            ProtocolError: It covers entries that are not stored; extend first.
            QuorumError: Too few witnesses have cosigned.
            InconsistentLog: It shows a fork; kept as evidence.
            VerificationError: A signature does not hold.
        """
        return self._open_known(note, oldest=0).checkpoint.size

    def contains(self, entry: bytes) -> bool:
        """Return whether the accepted log has an entry of exactly these bytes."""
        limit = self._accepted.checkpoint.size if self._accepted else 0
        query = "SELECT 1 FROM entry WHERE leaf = ? AND idx < ?"
        return bool(self._database.query(query, leaf_hash(entry), limit))

    def holds(self, entry: bytes) -> bool:
        """Return whether an entry of these bytes is stored, accepted or not."""
        query = "SELECT 1 FROM entry WHERE leaf = ?"
        return bool(self._database.query(query, leaf_hash(entry)))

    def body(self, index: int, kind: type[_Body]) -> _Body:
        """Return the body of a stored entry, at an index that the state gives.

        Raises:
            ValueError: No entry is stored at this index.
            VerificationError: The event is of another type.
        """
        body = open_entry(*self.entries(index, index + 1)).event.body
        if not isinstance(body, kind):
            raise VerificationError(
                f"entry {index} of the log is {body.type}, want {kind.type}",
                code="event-type-differs",
            )
        return body

    def entries(self, start: int, stop: int) -> list[bytes]:
        """Return stored entries, from ``start`` up to before ``stop``.

        Raises:
            ValueError: Some of these entries are not stored.
        """
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"no entries {start} to {stop} among {self.size}")
        query = "SELECT bytes FROM entry WHERE idx >= ? AND idx < ? ORDER BY idx"
        return [self._stored(e) for (e,) in self._database.query(query, start, stop)]

    def evidence(self) -> list[ForkEvidence]:
        """Return the refused notes and entries, the oldest first."""
        query = "SELECT reason, note, update_json FROM evidence ORDER BY id"
        rows = self._database.query(query)
        return [ForkEvidence(reason=r[0], note=r[1], update=r[2]) for r in rows]

    def _load(self) -> None:
        self._state = apply_all(None, self._stored_entries())
        if self._state is None:
            return
        for table in ("signed", "accepted"):
            row = self._database.execute(
                f"SELECT note FROM {table} ORDER BY size DESC LIMIT 1"  # noqa: S608 - one of two constants
            ).fetchone()
            if row is None:
                continue
            note = self._stored(row[0])
            opened = self._in_force(read_claim(note).size).open_pending(note)
            checkpoint, size = opened.checkpoint, opened.checkpoint.size
            if size > self.size or checkpoint != self._prefix(size):
                raise VerificationError(
                    f"the mirror's {self.size} entries contradict its own checkpoint of"
                    f" {size}; put its newest copy back",
                    code="mirror-damaged",
                )
            if table == "accepted":
                self._accepted = opened

    def _stored_entries(self) -> Iterator[bytes]:
        """Iterate over the stored entries, one in memory at a time."""
        rows = self._database.execute("SELECT idx, bytes FROM entry ORDER BY idx")
        for expected, (index, entry) in enumerate(rows):
            if index != expected:
                raise VerificationError(
                    f"{self._database.path} lacks entry {expected}; take another copy",
                    code="log-entries-missing",
                )
            if index == 0:
                self._check_genesis(self._stored(entry))
            yield self._stored(entry)

    def _stored(self, value: object) -> bytes:
        """Return bytes that SQLite gave back; of a damaged file it gives anything."""
        if not isinstance(value, bytes):
            raise VerificationError(
                f"{self._database.path} is damaged; take its newest copy, or another's",
                code="mirror-damaged",
            )
        return value

    def _check_append(
        self, start: int, entries: Sequence[bytes], checkpoint: Checkpoint
    ) -> Sequence[bytes]:
        """Compare the entries that are known already; return the rest."""
        size = self.size
        _check_length(checkpoint.size, seen=size)
        if not 0 <= start <= size or start + len(entries) != checkpoint.size:
            raise ProtocolError(
                f"entries {start} to {start + len(entries)} do not lead from"
                f" {size} to {checkpoint.size}; send those after the first {size}",
                code="entry-range-differs",
            )
        if list(entries[: size - start]) != self.entries(start, size):
            raise InconsistentLog(
                f"fork: entries {start} to {size} differ from the stored ones",
                code="log-forked",
            )
        return entries[size - start :]

    def _follow(
        self, fresh: Sequence[bytes], checkpoint: Checkpoint, note: bytes
    ) -> FederationState | None:
        """Check the root over stored and new entries, the rules, and what is told.

        An account that is understated would end every audit, so it is not cosigned.
        """
        # The accountant takes long to load; who only reads a mirror does not need it.
        from tapestry_governance.audit.privacy_accounts import check_new

        tree = self._state.past.tree if self._state else PersistentTree()
        for entry in fresh:
            tree = tree.push(leaf_hash(entry))
        if tree.root(tree.size) != checkpoint.root:
            raise InconsistentLog(
                f"fork: the log signed other {checkpoint.size} entries than these",
                code="log-forked",
            )
        if self._state is None and fresh:
            self._check_genesis(fresh[0])
        following = apply_all(self._state, fresh)
        # What the new entries themselves say of the log's key counts.
        self._turns.in_force(following, checkpoint.size).open_pending(note)
        if following is not None:
            check_new(self._state, following)
        if following is not None and following.charter.origin != checkpoint.origin:
            raise VerificationError(
                f"the charter is of log {following.charter.origin}, the checkpoint of"
                f" log {checkpoint.origin}",
                code="charter-differs",
            )
        return following

    def _check_genesis(self, entry: bytes) -> None:
        if self._genesis is not None and digest(entry) != self._genesis:
            raise VerificationError(
                f"entry 0 has the digest {digest(entry)}, trusted is {self._genesis};"
                " compare the genesis that the federation's members name",
                code="genesis-differs",
            )

    @property
    def _since(self) -> int:
        """The size of the last accepted checkpoint, or 0."""
        return 0 if self._accepted is None else self._accepted.checkpoint.size

    def _in_force(self, size: int) -> TrustPolicy:
        return self._turns.in_force(self._state, size)

    def _open_signed(
        self, note: bytes, entries: Sequence[bytes]
    ) -> tuple[Checkpoint, bool]:
        """Open a note that the log signed; new entries may name another key of it.

        Returns:
            The checkpoint, and whether the key that is known here signed it.
        """
        try:
            return self.trust.open_pending(note).checkpoint, True
        except VerificationError as error:
            if error.code not in _UNKNOWN_KEY or not entries:
                raise
        return read_claim(note), False

    def _open_known(self, note: bytes, *, oldest: int) -> CosignedCheckpoint:
        size = read_claim(note).size
        since = min(self._since, size)
        opened = self._turns.to_accept(self._state, size, since=since).open(note)
        if size > self.size:
            raise _beyond(size, self.size)
        try:
            self._check_same(opened.checkpoint, oldest=oldest)
        except InconsistentLog as error:
            self._keep_evidence(error, note, start=size, entries=())
            raise
        return opened

    def _check_same(self, checkpoint: Checkpoint, *, oldest: int) -> None:
        _check_length(checkpoint.size, seen=oldest)
        if checkpoint != self._prefix(checkpoint.size):
            raise InconsistentLog(
                f"fork: two logs of {checkpoint.size} entries", code="log-forked"
            )

    def _prefix(self, size: int) -> Checkpoint:
        origin, past = self.state.charter.origin, self.state.past
        return Checkpoint(origin=origin, size=size, root=past.root(size))

    def _keep_evidence(
        self,
        error: TapestryError,
        note: bytes,
        *,
        start: int,
        entries: Sequence[bytes],
    ) -> None:
        fits = sum(map(len, entries)) <= EVIDENCE_BYTES
        kept = [encode_base64(bytes(entry)) for entry in entries] if fits else None
        update = canonical_json({"entries": kept, "start": start})
        self._database.query(
            "INSERT INTO evidence (reason, note, update_json)"
            " SELECT ?, ?, ? WHERE (SELECT count(*) FROM evidence) < ?",
            *(str(error), note, update, MAX_EVIDENCE),
        )


def _check_length(size: int, *, seen: int) -> None:
    if size < seen:
        raise InconsistentLog(
            f"rollback: a log of {size} entries, {seen} were seen", code="log-shrunk"
        )


def _beyond(size: int, stored: int) -> ProtocolError:
    return ProtocolError(
        f"the checkpoint covers {size} entries, {stored} are stored; send the others"
        " first",
        code="checkpoint-beyond-mirror",
    )


def _seconds(now: datetime) -> int:
    if now.tzinfo is None:
        raise ValueError("a time without a timezone")
    return int(now.timestamp())
