"""The folder of a witness: its key, and the memory that makes the key worth something.

::

    witness.key        cosigns; mode 0600
    witness.db         for each log, the checkpoint that was cosigned last
    trust-policy.txt   the federation's: which log to cosign
    evidence/          refused requests that may convict the log
    retired            there once the key was met with more than the memory knows

A cosignature says that a log only grew, in all that this key ever cosigned. So key and
memory are one thing. A key without its memory signs nothing, and is never given a new
one: the witness is *retired*, and another takes its place under another name.

Not protected:
    An older copy of the whole folder looks like the present one, until a checkpoint
    comes back that carries this key's own, later cosignature. Never restore it.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self

from tapestry.errors import (
    ConfigError,
    IncompleteError,
    InconsistentLog,
    ProtocolError,
    VerificationError,
)
from tapestry.keys import SigningKey, VerifyKey
from tapestry.storage import durable_files
from tapestry.storage.sqlite_database import Database, Schema, open_database
from tapestry.tlog import note as notes
from tapestry.tlog import tiles
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.merkle import EMPTY_ROOT, Tree, leaf_hash, verify_consistency
from tapestry.tlog.trust_policy import CosignedCheckpoint, TrustPolicy
from tapestry_governance.audit.bundle import read_small
from tapestry_governance.founding import generate_member_key
from tapestry_governance.witness.add_checkpoint import CheckpointRequest, StaleSizeError

KEY, MEMORY, TRUST, RETIRED = "witness.key", "witness.db", "trust-policy.txt", "retired"
MAX_EVIDENCE = 64  # requests of each kind that are kept, the first ones
FORK, UNPROVEN = "fork", "unproven"
_SCHEMA = Schema(
    application="TpWi",
    version=1,
    # With an index beside it, a damaged index would hide a row that is there.
    tables="CREATE TABLE cosigned (origin TEXT PRIMARY KEY, note BLOB)"
    " STRICT, WITHOUT ROWID;\n",
)


def init(folder: Path, name: str, *, trust: bytes | None = None) -> VerifyKey:
    """Make a witness's key and memory, or find them; return the key.

    Args:
        folder: The witness's; new, or made by this function.
        name: The witness's, as the federation's policy will have it.
        trust: The trust policy, once the charter that names the key is accepted.

    Guarantees:
        The folder is whole or absent, whenever the process dies. Nothing that is there
        is overwritten but the policy, by one of the same log, and a key never gets a
        second memory.

    Raises:
        ConfigError: The folder holds other things, a witness of another name or the
            policy of another log, or a key without its memory; or the policy does not
            name it.
        ProtocolError: The trust policy is none.
    """
    if not (folder / KEY).exists():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(
                f"{folder} is not empty and has no {KEY}; name a new folder",
                code="folder-not-empty",
            )
        with durable_files.replace_folder(folder) as draft:
            draft.mkdir(mode=0o700)
            open_database(draft / MEMORY, _SCHEMA).close()
            generate_member_key(name, "witness").save(draft / KEY)
    key = SigningKey.load(folder / KEY).verify_key
    if key.name != f"{name}/witness":
        raise ConfigError(
            f"{folder} is the witness {key.name}; nothing was changed",
            code="file-exists",
        )
    _open_memory(folder).close()
    if trust is not None:
        _keep_trust(folder / TRUST, trust, key)
    return key


class WitnessFolder:
    """An open witness: it checks, remembers and cosigns. Use ``open``.

    Guarantees:
        Check and memory are one transaction, also among threads and processes, and on
        the disk before a cosignature is given out. So this key never cosigns two
        checkpoints of which neither log is the beginning of the other.
    """

    def __init__(
        self,
        folder: Path,
        memory: Database,
        key: SigningKey,
        trust: TrustPolicy,
        clock: Callable[[], float],
    ) -> None:
        """Take an open memory; ``open`` is the way to make one."""
        self.folder, self._memory, self._key = folder, memory, key
        self._trust, self._clock = trust, clock
        self._lock = threading.Lock()  # a connection serves one thread at a time

    @classmethod
    def open(cls, folder: Path, *, clock: Callable[[], float] = time.time) -> Self:
        """Open a witness's folder, and verify what it remembers.

        Raises:
            ConfigError: A file is missing, no key or policy; the policy does not name
                the key; or the key has no memory.
            IncompleteError: The folder has no trust policy yet.
            VerificationError: The memory is not of this key and log, or the witness is
                retired.
        """
        key = SigningKey.load(folder / KEY)
        if not (folder / TRUST).exists():
            raise IncompleteError(
                f"{folder} has no {TRUST}; give it with tapestry witness init --trust",
                code="trust-missing",
            )
        trust = TrustPolicy.parse(read_small(folder / TRUST))
        _check_named(trust, key.verify_key)
        witness = cls(folder, _open_memory(folder), key, trust, clock)
        try:
            witness._check()
        except BaseException:
            witness.close()
            raise
        return witness

    def close(self) -> None:
        """Close the memory, after the request that is being answered."""
        with self._lock:
            self._memory.close()

    def cosign(self, request: CheckpointRequest) -> bytes:
        """Cosign a checkpoint that continues the one cosigned last; return the line.

        Guarantees:
            On return the checkpoint is remembered durably. After an error nothing has
            changed but ``evidence/``, which keeps requests that show a fork, or whose
            proof does not hold, as long as their checkpoint was not cosigned.

        Raises:
            ProtocolError: The request is malformed.
            StaleSizeError: It begins at another size than was cosigned last.
            InconsistentLog: Its proof does not hold, or its size has another root.
            VerificationError: The log is unknown or has not signed; or the witness is
                retired.
        """
        opened = self._open(request.note)
        checkpoint = opened.checkpoint
        if request.old_size > checkpoint.size:
            raise ProtocolError(
                f"the proof begins at size {request.old_size}, above the checkpoint's"
                f" {checkpoint.size}",
                code="old-size-too-large",
            )
        with self._lock:
            self._look_for_own(opened)
            self._require_active()
            try:
                with self._memory.transaction():
                    line = self._advance(opened, request)
            except InconsistentLog:
                self._keep_evidence(checkpoint, request)
                raise
            self._evidence(checkpoint, UNPROVEN).unlink(missing_ok=True)
        return line

    def cosign_folder(self, log: Path) -> bytes:
        """Cosign the checkpoint of a log's public files; return the line.

        Raises:
            IncompleteError: A file is missing, or this witness has cosigned more.
            ConfigError, ProtocolError: The folder has no checkpoint.
            InconsistentLog: The files do not continue what was cosigned last.
            VerificationError: The log is unknown or has not signed, or a file is not
                what the checkpoint says; or the witness is retired.
        """
        note = read_small(log / "checkpoint")
        checkpoint = self._open(note).checkpoint
        known = self.cosigned(checkpoint.origin)
        if known.size > checkpoint.size:
            raise IncompleteError(
                f"{log} has {checkpoint.size} entries, this witness has cosigned"
                f" {known.size}; get newer files",
                code="log-files-older",
            )
        tree = Tree(map(leaf_hash, tiles.verify(log, checkpoint)))
        proof = tuple(tree.consistency_proof(known.size))
        return self.cosign(
            CheckpointRequest(old_size=known.size, proof=proof, note=note)
        )

    def cosigned(self, origin: str) -> Checkpoint:
        """Return the checkpoint that was cosigned last; at first that of no entries."""
        with self._lock:
            return self._cosigned(origin)

    def note_of(self, origin_hash: str) -> bytes | None:
        """Return the note that was cosigned last, by the SHA-256 of its origin."""
        for log in self._trust.logs:
            if hashlib.sha256(log.key.name.encode()).hexdigest() == origin_hash:
                with self._lock:
                    return self._note(log.key.name)
        return None

    def _open(self, note: bytes) -> CosignedCheckpoint:
        """Open a checkpoint that one of the trusted logs has signed."""
        origin = read_claim(note).origin
        if origin not in _origins(self._trust):
            raise VerificationError(
                "the log is none of this witness's", code="log-unknown"
            )
        return self._trust.open_pending(note)

    def _advance(self, opened: CosignedCheckpoint, request: CheckpointRequest) -> bytes:
        """Check a checkpoint against the memory and remember it; in a transaction."""
        checkpoint = opened.checkpoint
        known = self._cosigned(checkpoint.origin)
        if request.old_size != known.size:
            raise StaleSizeError(
                f"the request begins at size {request.old_size}, this witness has"
                f" cosigned {known.size}; send a proof from there",
                size=known.size,
                code="old-size-stale",
            )
        verify_consistency(
            old_size=known.size,
            old_root=known.root,
            size=checkpoint.size,
            root=checkpoint.root,
            proof=request.proof,
        )
        own = notes.cosign(str(checkpoint), self._key, time=int(self._clock()))
        logs = {(log.key.name, log.key.id) for log in self._trust.logs}
        signed = notes.parse(opened.note).signatures
        kept = (*(s for s in signed if (s.name, s.key_id) in logs), own)
        note = notes.Note(text=str(checkpoint), signatures=kept).encode()
        statement = "INSERT OR REPLACE INTO cosigned VALUES (?, ?)"
        self._memory.execute(statement, (checkpoint.origin, note))
        return str(own).encode()

    def _look_for_own(self, opened: CosignedCheckpoint) -> None:
        """Retire if a note carries a cosignature of this key that the memory lacks."""
        known, checkpoint = self._cosigned(opened.checkpoint.origin), opened.checkpoint
        own = any(each.key == self._key.verify_key for each in opened.cosignatures)
        if own and checkpoint.size >= known.size and checkpoint != known:
            durable_files.replace_file(self.folder / RETIRED, opened.note)

    def _require_active(self) -> None:
        if (self.folder / RETIRED).exists():
            raise VerificationError(
                f"{self.folder} is retired: its key has cosigned what its memory does"
                " not know; make a witness under another name",
                code="witness-retired",
            )

    def _keep_evidence(
        self, checkpoint: Checkpoint, request: CheckpointRequest
    ) -> None:
        known = self._cosigned(checkpoint.origin)
        if checkpoint == known:
            return  # only the proof is wrong
        kind = FORK if checkpoint.size == known.size else UNPROVEN
        path = self._evidence(checkpoint, kind)
        if len(list(path.parent.glob(f"*.{kind}"))) < MAX_EVIDENCE:
            durable_files.replace_file(path, request.encode())

    def _evidence(self, checkpoint: Checkpoint, kind: str) -> Path:
        name = f"{checkpoint.size}-{checkpoint.root.hex()}.{kind}"
        return self.folder / "evidence" / name

    def _cosigned(self, origin: str) -> Checkpoint:
        note = self._note(origin)
        if note is None:
            return Checkpoint(origin=origin, size=0, root=EMPTY_ROOT)
        return read_claim(note)

    def _note(self, origin: str) -> bytes | None:
        query = "SELECT note FROM cosigned WHERE origin = ?"
        rows = self._memory.query(query, origin)
        return bytes(rows[0][0]) if rows else None

    def _check(self) -> None:
        self._require_active()
        own = self._key.verify_key  # the log's key may be another since then
        for origin, note in self._memory.query("SELECT origin, note FROM cosigned"):
            try:
                text = notes.open_note(bytes(note or b""), [own]).text
                is_own = Checkpoint.parse(text).origin == origin
            except VerificationError:
                is_own = False
            if not is_own:
                raise VerificationError(
                    f"{self.folder / MEMORY} is not the memory of {own.keyid}",
                    code="witness-memory-differs",
                )


def _open_memory(folder: Path) -> Database:
    """Open the memory that was made with the key, and never make another.

    Raises:
        ConfigError: It is not there, is empty or damaged.
        ResourceError: It cannot be read, or is no database.
    """
    path = folder / MEMORY
    with ExitStack() as stack:
        if path.is_file():
            memory = open_database(path, None, threads=True)
            stack.enter_context(closing(memory))
            if _is_whole(memory):
                stack.pop_all()
                return memory
    raise ConfigError(
        f"{folder} has a key, and no whole {MEMORY}: what the key cosigned is"
        " forgotten, so it never signs again; put no copy back, and make a witness in a"
        " new folder, under another name",
        code="witness-memory-missing",
    )


def _is_whole(memory: Database) -> bool:
    with memory.transaction():
        is_made = memory.holds(_SCHEMA)
    return is_made and memory.query("PRAGMA integrity_check") == [("ok",)]


def _keep_trust(path: Path, trust: bytes, key: VerifyKey) -> None:
    """Keep a trust policy; one of the same log takes the place of an earlier one.

    Members may vote for another log key, and the memory goes on under the log's name.
    """
    given = TrustPolicy.parse(trust)
    _check_named(given, key)
    if path.exists() and _origins(given) != _origins(
        TrustPolicy.parse(read_small(path))
    ):
        raise ConfigError(
            f"{path} is another trust policy; nothing was changed: a witness of another"
            " log has a folder of its own",
            code="file-exists",
        )
    durable_files.replace_file(path, trust)


def _origins(trust: TrustPolicy) -> set[str]:
    return {log.key.name for log in trust.logs}


def _check_named(trust: TrustPolicy, key: VerifyKey) -> None:
    if key not in {witness.key for witness in trust.witnesses}:
        raise ConfigError(
            f"the trust policy does not name {key.keyid} as a witness; ask for the one"
            " of the charter that names it",
            code="witness-not-trusted",
        )
