"""The durable state of a node: ``state.db``, with the receipts of what left.

SQLite in WAL mode with ``synchronous=FULL``: a write that guards a send is durable
before the send.

* The high-water mark: one upload per (run, round), ever. Taking it is the only way
  to get the ``Reservation`` without which ``secagg`` masks nothing.
* The outbox: entries of the node's own that the log does not have yet.
* The base that each round gave by this node's own step, so that a dispute outlives
  a restart.
* The manifest of each release as this node rebuilt it, likewise.
* Chunks of sums that the node drew for spot checks: a draw is made once.
* Egress receipts: kind, size and digest of each message that leaves, chained by
  hash, so that a row changed or taken out of the middle shows. Deleted last rows do
  not show, nor does a chain computed anew: the list is not proven whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tapestry.encoding import canonical_json, digest, digest_all
from tapestry.errors import ConfigError, ProtocolError, VerificationError
from tapestry.protocol.messages import Message
from tapestry.storage.file_lock import lock_file
from tapestry.storage.sqlite_database import Schema, open_database

_TABLES = """
CREATE TABLE mark (
    run TEXT PRIMARY KEY, round INTEGER NOT NULL
) STRICT;
CREATE TABLE egress (
    number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL,
    bytes INTEGER NOT NULL, content TEXT NOT NULL, chain TEXT NOT NULL
) STRICT;
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY, entry BLOB NOT NULL
) STRICT;
CREATE TABLE base (
    run TEXT, round INTEGER, digest TEXT NOT NULL, PRIMARY KEY (run, round)
) STRICT;
CREATE TABLE rebuilt (
    run TEXT, round INTEGER, manifest TEXT NOT NULL, PRIMARY KEY (run, round)
) STRICT;
CREATE TABLE spot (
    run TEXT, round INTEGER, chunk INTEGER, seen INTEGER NOT NULL,
    PRIMARY KEY (run, round, chunk)
) STRICT;
CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE INDEX spot_open ON spot (run, round, seen) WHERE seen <> 1;
"""
_SCHEMA = Schema(application="TpNs", version=1, tables=_TABLES)
_GENESIS = digest(b"tapestry-egress/1")


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

    Every method raises ``ResourceError`` when the disk is full or failing.
    """

    def __init__(
        self, path: Path, *, exclusive: bool = False, readonly: bool = False
    ) -> None:
        """Open ``state.db``, or create it unless ``readonly``.

        ``exclusive`` keeps other processes from serving with it; they may read.

        Raises:
            ConfigError: Another process serves with it.
            ResourceError: The database cannot be read, or not be written.
        """
        self._path = path
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

    def highest(self, run_id: str) -> int:
        """Return the last round of a run that this node uploaded for; 0 for none."""
        rows = self.database.query("SELECT round FROM mark WHERE run = ?", run_id)
        return int(rows[0][0]) if rows else 0

    def raise_to(self, run_id: str, round_number: int) -> None:
        """Take the only upload of a round, durably.

        Raises:
            ProtocolError: The round, or a later one of its run, was taken before.
        """
        if not self.database.query(
            "INSERT INTO mark VALUES (?, ?) ON CONFLICT (run) DO UPDATE "
            "SET round = excluded.round WHERE excluded.round > mark.round "
            "RETURNING round",
            *(run_id, round_number),
        ):
            raise ProtocolError(
                f"round {round_number} of {run_id} was uploaded for already; one "
                "upload per round, ever",
                code="round-already-uploaded",
            )

    def require(self, committed: Mapping[str, int]) -> None:
        """Compare with the last rounds that the log says this node uploaded for.

        Args:
            committed: The number of the last such round, by run.

        Raises:
            VerificationError: The log holds one above the mark: the database was
                deleted, or restored from before that round.
        """
        for run_id, round_number in committed.items():
            mark = self.highest(run_id)
            if mark < round_number:
                raise VerificationError(
                    f"the log says that this node uploaded for round {round_number} of"
                    f" {run_id!r}, {self._path} knows of {mark}: it was deleted or is"
                    " an older copy; put the newest back",
                    code="state-restored",
                )

    def post(self, entry: bytes) -> None:
        """Keep an entry of the node once, until the log has it."""
        self.database.query(
            "INSERT INTO outbox (entry) SELECT ?1 "
            "WHERE NOT EXISTS (SELECT 1 FROM outbox WHERE entry = ?1)",
            entry,
        )

    def outbox(self) -> list[bytes]:
        """List the entries that the log should get, the oldest first."""
        rows = self.database.query("SELECT entry FROM outbox ORDER BY number")
        return [bytes(row[0]) for row in rows]

    def clear(self, entry: bytes) -> None:
        """Forget an entry that is in the log now."""
        self.database.query("DELETE FROM outbox WHERE entry = ?", entry)

    def keep_base(self, run_id: str, round_number: int, *, gives: str) -> None:
        """Remember which model a round gives to release, by this node's own step."""
        self.database.query(
            "INSERT OR REPLACE INTO base VALUES (?, ?, ?)", run_id, round_number, gives
        )

    def base(self, run_id: str, round_number: int) -> str | None:
        """Return the model that a round gave here to release, if it was followed."""
        rows = self.database.query(
            "SELECT digest FROM base WHERE run = ? AND round = ?", run_id, round_number
        )
        return str(rows[0][0]) if rows else None

    def keep_rebuilt(self, run_id: str, round_number: int, *, manifest: str) -> None:
        """Remember the manifest of the release of a round, as it was rebuilt here."""
        self.database.query(
            "INSERT OR REPLACE INTO rebuilt VALUES (?, ?, ?)",
            *(run_id, round_number, manifest),
        )

    def rebuilt(self, run_id: str, round_number: int) -> str | None:
        """Return the manifest of a round's release if it was rebuilt here."""
        rows = self.database.query(
            "SELECT manifest FROM rebuilt WHERE run = ? AND round = ?",
            *(run_id, round_number),
        )
        return str(rows[0][0]) if rows else None

    def keep_spots(
        self, run_id: str, round_number: int, *, chunks: Sequence[int]
    ) -> None:
        """Remember a draw for spot checks, unless there is one of this round."""
        self.database.query(
            "INSERT INTO spot SELECT ?1, ?2, value, 0 FROM json_each(?3) WHERE NOT "
            "EXISTS (SELECT 1 FROM spot WHERE run = ?1 AND round = ?2)",
            *(run_id, round_number, canonical_json(list(chunks)).decode()),
        )

    def spots(self, run_id: str, round_number: int) -> list[int]:
        """List the chunks of a round that were drawn and not seen yet."""
        rows = self.database.query(
            "SELECT chunk FROM spot WHERE run = ? AND round = ? AND NOT seen "
            "ORDER BY chunk",
            *(run_id, round_number),
        )
        return [int(row[0]) for row in rows]

    def mark_verified(self, run_id: str, round_number: int, *, chunk: int) -> None:
        """Mark a chunk that was drawn as seen."""
        self._mark_spot(run_id, round_number, chunk, 1)

    def dispute_spot(self, run_id: str, round_number: int, *, chunk: int) -> None:
        """Note for good that a chunk of a sum is not the sum of the uploads."""
        self._mark_spot(run_id, round_number, chunk, 2)

    def _mark_spot(self, run_id: str, round_number: int, chunk: int, seen: int) -> None:
        self.database.query(
            "UPDATE spot SET seen = ? WHERE run = ? AND round = ? AND chunk = ?",
            *(seen, run_id, round_number, chunk),
        )

    def disputed(self, run_id: str) -> list[int]:
        """List the rounds of a run whose sums are false, as this node has seen."""
        return [number for run, number in self.disputed_sums() if run == run_id]

    def disputed_sums(self) -> list[tuple[str, int]]:
        """List run and number of the rounds whose sums are false, as seen here."""
        rows = self.database.query(
            "SELECT DISTINCT run, round FROM spot WHERE seen <> 1 AND seen = 2"
            " ORDER BY run, round"
        )
        return [(str(run), int(number)) for run, number in rows]

    def pending_rounds(self, run_id: str) -> list[int]:
        """List the rounds of a run with drawn chunks that were not seen yet."""
        rows = self.database.query(
            "SELECT DISTINCT round FROM spot WHERE run = ? AND seen <> 1 AND NOT seen"
            " ORDER BY round",
            run_id,
        )
        return [int(row[0]) for row in rows]

    def secret(self, name: str, fresh: bytes) -> bytes:
        """Return a secret that was stored under a name, or store ``fresh``."""
        self.database.query("INSERT OR IGNORE INTO secret VALUES (?, ?)", name, fresh)
        rows = self.database.query("SELECT value FROM secret WHERE name = ?", name)
        return bytes(rows[0][0])

    def record(self, message: Message) -> None:
        """Write the receipt of a message before it leaves.

        Raises:
            ResourceError: The receipt cannot be written; the message must not leave.
        """
        rows = self.database.query(
            "SELECT number, chain FROM egress ORDER BY number DESC LIMIT 1"
        )
        number, chain = (rows[0][0] + 1, rows[0][1]) if rows else (1, _GENESIS)
        attached = [memoryview(each).cast("B") for each in message.attachments]
        time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        row = (
            number,
            time,
            message.kind.value,
            message.size,
            digest_all([message.body, *attached]),
        )
        self.database.query(
            "INSERT INTO egress VALUES (?, ?, ?, ?, ?, ?)", *row, _link(chain, row)
        )

    def receipts(self) -> Iterator[Receipt]:
        """Iterate over all receipts in order, checking the chain.

        Raises:
            VerificationError: A row was changed, or one amid the others removed or
                added, by hand.
        """
        chain = _GENESIS
        rows = self.database.query("SELECT * FROM egress ORDER BY number")
        for expected, row in enumerate(rows, start=1):
            chain = _link(chain, row[:5])
            if row[0] != expected or row[5] != chain:
                raise VerificationError(
                    f"egress receipt {expected} of {self._path} was tampered with; put"
                    " the newest copy back",
                    code="receipt-changed",
                )
            names = Receipt.__slots__  # in the order of the columns
            yield Receipt(**dict(zip(names, row, strict=True)))

    def close(self) -> None:
        """Close the database and let others serve."""
        self.database.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


def _link(chain: str, row: tuple[int, str, str, int, str]) -> str:
    return digest(canonical_json([chain, *row]))
