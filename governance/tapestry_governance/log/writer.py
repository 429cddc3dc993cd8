"""The log: append entries, sign, collect cosignatures, publish.

::

    directory/log.db               entries and signatures (``log.database``)
    directory/lock                 held by the one process that writes
    directory/public/checkpoint    the newest cosigned checkpoint
    directory/public/outbox.json   heads of members' outboxes (``outbox_heads``)
    directory/public/tile/…        the tiles (``tapestry.tlog.tiles``)

The order of writing makes a crash harmless::

    append         entries are durable before their index is returned
    sign           one root for each size, recorded before the signature leaves
    cosignatures   recorded one by one, each checked
    publish        recorded, then tiles, then ``checkpoint`` replaced in one step

The next ``Log.open`` finishes an interrupted step.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from tapestry.errors import (
    ConfigError,
    IncompleteError,
    InconsistentLog,
    ProtocolError,
    QuorumError,
    VerificationError,
)
from tapestry.keys import SigningKey, VerifyKey
from tapestry.storage import durable_files
from tapestry.tlog import note as notes
from tapestry.tlog import tiles
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.merkle import Tree, leaf_hash
from tapestry.tlog.proof import Proof
from tapestry.tlog.turn import Trust
from tapestry_governance.log.database import LogDatabase
from tapestry_governance.log.outbox_heads import encode_heads
from tapestry_governance.log.tile_writer import TileWriter


class Log:
    """An append-only log with one writer.

    Guarantees:
        An entry whose index was returned is never lost, changed or moved. No two
        roots are ever signed for one size. ``public/checkpoint`` has the quorum
        of the policy it was published under, and every tile that it needs is
        there. A log that contradicts itself, its tiles or its public checkpoint
        does not open: a restored backup would fork.

    Not protected:
        A backup of the whole directory cannot be told from the present one by
        itself: pass the newest checkpoint that members hold to :meth:`check` before
        the first append.
    """

    def __init__(self, directory: Path, *, key: SigningKey, store: LogDatabase) -> None:
        """Take over an open store; use ``create`` or ``open`` instead."""
        self._key = key
        self._former: dict[VerifyKey, int] = {}  # up to which size, if it was adopted
        self.store = store
        self._tree = Tree()
        self._public = TileWriter(
            directory / "public", tree=self._tree, read=self.entries
        )

    @classmethod
    def create(cls, directory: Path, *, key: SigningKey) -> Self:
        """Make an empty log whose origin is the name of the key.

        Raises:
            ConfigError: The folder has a log already, or public files of one.
            ResourceError: The folder cannot be written.
        """
        if (directory / "log.db").exists() and (directory / "public").exists():
            message = (
                f"{directory} holds a log already; open it, or name another folder"
            )
            raise ConfigError(message, code="log-exists")
        if (directory / "public").exists():
            raise ConfigError(
                f"{directory} has public files of a log, but no log.db that they come"
                " from; put it back, or name another folder",
                code="log-missing",
            )
        durable_files.make_folders(directory)
        store = LogDatabase(directory)
        try:
            store.create(str(key.verify_key))
            durable_files.sync_folder(directory)
        except BaseException:
            store.close()
            raise
        return cls(directory, key=key, store=store)

    @classmethod
    def open(cls, directory: Path, *, key: SigningKey) -> Self:
        """Open a log, check it whole and finish what a crash interrupted.

        Raises:
            ConfigError: The folder has no log, or one of another key.
            ResourceError: Another process has it open, or the disk is full.
            InconsistentLog: Entries, checkpoints, tiles and public checkpoint
                contradict each other; nothing was written.
        """
        with _opened(directory) as store:
            log = cls(directory, key=key, store=store)
            log._check(shown=log._public.checkpoint())
            log._finish()
        return log

    @classmethod
    def read(cls, directory: Path, *, key: SigningKey) -> list[bytes]:
        """Read all entries, also while another process has the log open.

        Guarantees:
            Nothing is written or locked, and nothing that a crash interrupted is
            finished. The entries are those of one moment and hash to every root that
            was signed; the public checkpoint of that moment is one of theirs.

        Not protected:
            Tiles are not compared, since a writer may be replacing them; ``open`` does.

        Raises:
            ConfigError: The folder has no log, or one of another key.
            InconsistentLog: Entries and checkpoints contradict each other.
            ResourceError: The database cannot be read.
        """
        with _opened(directory, readonly=True) as store:
            log = cls(directory, key=key, store=store)
            log._check(shown=log._public.checkpoint())
            entries = log.entries(0, log.size)
        store.close()
        return entries

    def close(self) -> None:
        """Close the log; another process can open it then."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def origin(self) -> str:
        """The name of the log: the name of its key."""
        return self._key.name

    @property
    def public(self) -> Path:
        """The folder of the public files."""
        return self._public.folder

    @property
    def size(self) -> int:
        """The number of entries, signed or not."""
        return self._tree.size

    def append(self, entries: Sequence[bytes]) -> range:
        """Append entries, all or none; returns their indexes.

        Guarantees:
            On return they are on the disk, and the hashes are of the bytes that the
            database gives back, not of the argument.

        Edge cases:
            After an error nothing was appended, unless the machine failed while
            writing: then they may be there after the next ``open``; :meth:`find` tells.

        Raises:
            ProtocolError: An entry is over 65,535 bytes or is in the log already.
            InconsistentLog: Another process has written to the database.
            ResourceError: The disk is full or failing.
        """
        start = self.size
        rows = [(leaf_hash(entry), entry) for entry in entries]
        self._check_new(rows)
        stop = start + len(rows)
        with self.store.transaction():
            if self.store.size() != start:
                raise InconsistentLog(
                    "another process has written to the log; end it and start again",
                    code="log-changed-elsewhere",
                )
            self.store.insert_entries(start, rows)
            self._check_rows(start, [leaf for leaf, _ in rows])
        for leaf, _ in rows:
            self._tree.push(leaf)
        return range(start, stop)

    def adopt(self, notes: Sequence[bytes], *, former: Sequence[VerifyKey]) -> None:
        """Record checkpoints by which former keys published the entries that are here.

        Args:
            notes: Cosigned checkpoints, the oldest first. Their cosignatures are the
                caller's to verify.
            former: The keys that signed this log before its own.

        Raises:
            ProtocolError: A note is no checkpoint.
            VerificationError: None of the keys has signed a note.
            InconsistentLog: A note is of other entries; nothing was recorded.
            ResourceError: The disk is full or failing.
        """
        self._former = dict.fromkeys((*former, self._key.verify_key), self.size)
        opened = [(self._open(note).size, note) for note in notes]
        with self.store.transaction():
            self.store.insert_former([str(each) for each in self._former], self.size)
            for size, note in opened:
                self.store.insert_checkpoint(size, self._bare(note))
                self.store.insert_publication(size, note)
        for size, note in opened[-1:]:
            self._public.publish(size, note)

    def _bare(self, note: bytes) -> bytes:
        """Leave out the cosignatures of a checkpoint."""
        keys = {(key.name, key.id) for key in self._former}
        found = notes.parse(note)
        kept = tuple(s for s in found.signatures if (s.name, s.key_id) in keys)
        return notes.Note(text=found.text, signatures=kept).encode()

    def find(self, entry: bytes) -> int | None:
        """Return the index of an entry, or None if it is not in the log."""
        return self.store.find(leaf_hash(entry))

    def stream(self) -> Iterator[bytes]:
        """Read all entries, one in memory at a time."""
        return (data for _, _, data in self.store.rows(0, self.size))

    def entries(self, start: int, stop: int) -> list[bytes]:
        """Read entries from ``start`` up to before ``stop``.

        Raises:
            ValueError: The log has no such entries.
        """
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"no entries {start} to {stop} in a log of {self.size}")
        return [data for _, _, data in self.store.rows(start, stop)]

    def sign_checkpoint(self) -> bytes:
        """Sign the log as it is now; returns a note without cosignatures.

        Guarantees:
            The entries since the last checkpoint were read again and hash to
            the signed root. The note is recorded before it is returned, one for
            each size: calling again at the same size returns the same bytes.

        Raises:
            InconsistentLog: The database gives back other bytes than were stored.
            ResourceError: The disk is full or failing.
        """
        with self.store.transaction():
            if (recorded := self.store.checkpoint(self.size)) is not None:
                return recorded
            start = self.store.newest_checkpoint() or 0
            self._check_rows(start, self._tree.nodes(0, start, self.size))
            note = self._checkpoint(self.size).sign(self._key)
            self.store.insert_checkpoint(self.size, note)
        return note

    def add_cosignature(self, size: int, line: bytes, *, trust: Trust) -> None:
        """Keep a witness's line over the checkpoint signed at a size.

        Edge cases:
            Of two lines of one witness the newer stays.

        Raises:
            ProtocolError: The line is no signature line.
            VerificationError: It is no witness's, or not over this checkpoint.
            ValueError: No checkpoint was signed at this size.
        """
        if self.store.checkpoint(size) is None:
            raise ValueError(f"no checkpoint was signed at size {size}")
        held = trust.open_cosignature(self._checkpoint(size), line)
        with self.store.transaction():
            self.store.insert_cosignature(
                size, str(held.key), time=held.time, line=line
            )

    def publish(self, *, trust: Trust) -> bytes:
        """Make the newest signed checkpoint public; returns the cosigned note.

        Guarantees:
            On return the tiles and ``public/checkpoint`` are on the disk. Only
            lines of this policy's witnesses are in the note, in the policy's order.

        Raises:
            QuorumError: Too few witnesses have cosigned; nothing changed.
            ResourceError: The disk is full or failing; publish again or reopen.
        """
        size = self.store.newest_checkpoint()
        signed = None if size is None else self.store.checkpoint(size)
        if size is None or signed is None:
            raise QuorumError(
                "no checkpoint was signed yet; sign one and have it cosigned",
                code="checkpoint-missing",
            )
        lines: dict[str, bytes] = {}
        for line in self.store.cosignatures(size):
            with suppress(VerificationError):  # its witness has left the policy
                held = trust.open_cosignature(self._checkpoint(size), line)
                lines[held.key.keyid] = line
        order = [w.key.keyid for w in trust.witnesses if w.key.keyid in lines]
        note = signed + b"".join(lines[each] for each in _as_fit(order, trust))
        trust.open_published(note)
        with self.store.transaction():
            self.store.insert_publication(size, note)
        self._public.publish(size, note)
        return note

    def publish_turn(self, size: int) -> None:
        """Keep a published checkpoint for good: other witnesses count from it on.

        Raises:
            ValueError: No checkpoint was published at this size.
            ResourceError: The disk is full or failing.
        """
        note = self.store.publication(size)
        if note is None:
            raise ValueError(f"no checkpoint was published at size {size}")
        self._public.keep_turn(size, note)

    def publish_heads(self, heads: Mapping[str, bytes]) -> None:
        """Put the heads of members' outboxes beside the checkpoint; it comes first.

        Raises:
            ResourceError: The disk is full or failing.
        """
        self._public.keep_heads(encode_heads(heads))

    def latest(self) -> bytes | None:
        """Return the newest public checkpoint, a cosigned note."""
        sizes = self.store.published_sizes()
        return self.store.publication(sizes[-1]) if sizes else None

    def proof(self, index: int) -> bytes:
        """Prove that an entry is in the newest public checkpoint; a tlog-proof.

        Raises:
            IncompleteError: No public checkpoint covers the entry yet.
        """
        sizes = self.store.published_sizes()
        if not sizes or not 0 <= index < sizes[-1]:
            raise IncompleteError(
                f"no public checkpoint covers entry {index}; publish the log first",
                code="checkpoint-missing",
            )
        hashes = self._tree.inclusion_proof(index, sizes[-1])
        note = self.store.publication(sizes[-1]) or b""
        return Proof(index=index, hashes=tuple(hashes), checkpoint=note).encode()

    def consistency_proof(self, old_size: int, size: int) -> tuple[bytes, ...]:
        """Prove to a witness that the log only grew between two sizes.

        Raises:
            ValueError: The old size is above the new one, or that above the log's.
        """
        return tuple(self._tree.consistency_proof(old_size, size))

    def check(self, note: bytes) -> None:
        """Require that a checkpoint which a member holds is one of this log.

        Call it at start-up: if a member has seen more than is here, this directory is
        an old backup, and appending to it would fork the log.

        Raises:
            ProtocolError: The bytes are no checkpoint.
            VerificationError: This log's key has not signed it, nor a former one that
                signed entries up to there.
            InconsistentLog: It is ahead of this log or has another root.
        """
        self._open(note)

    def _checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(origin=self.origin, size=size, root=self._tree.root(size))

    def _check_new(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        seen: set[bytes] = set()
        for leaf, entry in rows:
            tiles.check_entry(entry)
            if leaf in seen or self.store.find(leaf) is not None:
                raise ProtocolError(
                    f"the entry is in the log already: {entry[:40]!r}",
                    code="entry-duplicated",
                )
            seen.add(leaf)

    def _check_rows(self, start: int, leaves: Sequence[bytes]) -> None:
        stop = start + len(leaves)
        rows = enumerate(self.store.rows(start, stop), start)
        if [_hash_row(at, row) for at, row in rows] != list(leaves):
            raise InconsistentLog(
                f"the database gives back entries {start} to {stop} changed; its disk"
                " is failing",
                code="log-entry-changed",
            )

    def _check(self, *, shown: bytes | None) -> None:
        """Check key, entries and checkpoints, and load the tree.

        Args:
            shown: The public checkpoint, read before the database: a writer records a
                publication before it replaces that file.
        """
        self.store.check_key(str(self._key.verify_key))
        former = self.store.former()
        self._former = {VerifyKey.parse(key): size for key, size in former.items()}
        for at, row in enumerate(self.store.rows(0, self.store.size())):
            self._tree.push(_hash_row(at, row))
        for size, note in self.store.checkpoints():
            if self._open(note).size != size:
                raise InconsistentLog(
                    f"the checkpoint recorded at size {size} is of another size",
                    code="checkpoint-size-differs",
                )
        sizes = self.store.published_sizes()
        if shown is not None and self._open(shown).size not in sizes:
            raise InconsistentLog(
                "the database is older than its public checkpoint: it is an old backup",
                code="log-restored",
            )
        if (latest := self.latest()) is not None:
            self._check_cosigned(sizes[-1], latest)

    def _finish(self) -> None:
        """Compare the public files, and write those that a crash left out."""
        self._public.load()
        sizes = self.store.published_sizes()
        for size in sizes[:-1]:
            self._public.restore(size, newest=sizes[-1])
        if (latest := self.latest()) is not None:
            self._public.publish(sizes[-1], latest)

    def _check_cosigned(self, size: int, note: bytes) -> None:
        if size <= max(self._former.values(), default=0):
            return  # its cosignatures were verified when the log was taken over
        keys = [VerifyKey.parse(key) for key in self.store.cosigners(size)]
        opened = notes.open_note(note, [self._key.verify_key, *keys])
        if len(opened.verified) != len(notes.parse(note).signatures):
            raise InconsistentLog(
                f"a cosignature recorded at size {size} is damaged",
                code="cosignature-malformed",
            )

    def _open(self, note: bytes) -> Checkpoint:
        """Open a checkpoint that must be one of this log."""
        size = read_claim(note).size
        former = [key for key, until in self._former.items() if size <= until]
        opened = notes.open_note(note, {self._key.verify_key, *former})
        claimed = Checkpoint.parse(opened.text)
        if claimed.origin != self.origin:
            raise VerificationError(
                f"the checkpoint is of log {claimed.origin}, this log is {self.origin}",
                code="log-origin-differs",
            )
        if claimed.size > self.size:
            raise InconsistentLog(
                f"a checkpoint of {claimed.size} entries exists, here are {self.size}:"
                " this is an old backup; put the newest one back",
                code="log-restored",
            )
        if claimed.root != self._tree.root(claimed.size):
            raise InconsistentLog(
                f"the log has two roots at size {claimed.size}: it was forked, or its"
                " database changed",
                code="log-forked",
            )
        return claimed


def _as_fit(keys: Sequence[str], trust: Trust) -> list[str]:
    """Leave out, from the end, lines beyond what a note may have and a quorum needs."""
    kept = list(keys)
    for key in reversed(keys):
        if len(kept) < notes.MAX_SIGNATURES:  # one is the log's
            break
        rest = [each for each in kept if each != key]
        if trust.is_quorum_of(rest):
            kept = rest
    return kept


@contextmanager
def _opened(directory: Path, *, readonly: bool = False) -> Iterator[LogDatabase]:
    """Open the store of a log; close it again if what follows fails."""
    if not (directory / "log.db").exists():
        raise ConfigError(
            f"no log.db in {directory}; name the folder of a log", code="log-missing"
        )
    store = LogDatabase(directory, readonly=readonly)
    try:
        yield store
    except (ProtocolError, VerificationError) as error:
        store.close()
        raise InconsistentLog(
            f"the log in {directory}: {error}", code=error.code
        ) from error
    except BaseException:
        store.close()
        raise


def _hash_row(at: int, row: tuple[int, bytes, bytes]) -> bytes:
    """Hash a stored entry again: a bit that flips on the disk must not be signed."""
    index, kept, data = row
    leaf = leaf_hash(data)
    if index != at or leaf != kept:
        raise InconsistentLog(
            f"entry {at} is missing or damaged in the log's database",
            code="log-entries-missing",
        )
    return leaf
