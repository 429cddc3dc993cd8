"""The round that a node is in, sealed on its disk, for the process after this one.

::

    session/share_keys       the state after that stage, and its reply, sealed
    session/upload           the masked vector, as it travels

One state is there at a time, named by the stage whose reply may have left. Its file is
whole on the disk before ``node.db`` names it, in one transaction with the marks of the
step, and only what that names is taken up (``SessionMark``). So a session never goes
back to an earlier step, whatever files are put back.

A file is a salt, a nonce and a ChaCha20-Poly1305 box, under a key that HKDF-SHA256
derives from the node's identity and the salt, so that each file has its own. Associated
data are federation, node, the context of the round and the stage. The upload is uniform
without its masks, and is not sealed: the signed root that the state holds names it.

Guarantees:
    Whoever has the files but not ``keys/`` learns nothing from them. A file that was
    changed, is of another round or node, or was copied or put back, is not taken up.

Not protected:
    Against who has ``keys/`` as well, as in a copy of the whole folder: until the
    upload, that gives all secrets of the round. A disk image with ``node.db``, its
    mirror and a session that is put back as a whole cannot be told from a restart
    (governance/decisions/0017-session-at-rest.md). Unlinked is not overwritten.
"""

import mmap
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import ConfigDict

from tapestry.encoding import canonical_json, digest
from tapestry.errors import VerificationError
from tapestry.inputs.plain_file import read_plain
from tapestry.protocol.messages import Kind, Message
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Advertisement
from tapestry.protocol.stages import SECAGG_STAGES, RoundStage
from tapestry.schema import DOCUMENT_LIMIT, Digest, Strict
from tapestry.secagg.chunks import CHUNK_BYTES, check_sizes, chunk_root
from tapestry.secagg.saved_states import SavedState
from tapestry.storage import durable_files
from tapestry_node.round.session_marks import SessionMark

FOLDER = "session"
_UPLOAD = "upload"
_UPLOADED = RoundStage.COLLECT_MASKED_INPUTS
_INFO = b"tapestry-session/1\n"
_SALT_BYTES, _NONCE_BYTES = 32, 12


class SavedReply(Strict):
    """The reply of the last step, without the chunks of an upload."""

    model_config = ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")

    request: Digest  # that it answers
    kind: Kind
    body: bytes
    attachments: tuple[bytes, ...]


class SessionRecord(Strict):
    """A state as it is sealed, with what the round needs beside it."""

    format: Literal["tapestry-session/1"] = "tapestry-session/1"
    min_cohort: int
    advertisement: Advertisement
    reply: SavedReply | None  # None while the keys are the last that left
    state: SavedState


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFiles:
    """The folder of a node's session."""

    folder: Path
    genesis: str
    node: str
    seed: bytes = field(repr=False)  # of the node's identity

    def write(self, manifest: RoundManifest, record: SessionRecord) -> SessionMark:
        """Seal a state into its file, durably; the one before stays.

        Returns:
            The mark that makes it the session, once it is in the node's state.

        Raises:
            ResourceError: The disk is full or failing.
        """
        stage = record.state.stage
        path = self._path(stage)
        salt = secrets.token_bytes(_SALT_BYTES)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        bound = self._bound(manifest, stage)
        box = ChaCha20Poly1305(self._key(salt)).encrypt(nonce, record.encode(), bound)
        data = salt + nonce + box
        durable_files.replace_file(path, data, mode=0o600)
        return SessionMark(
            run=manifest.run_id,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
            stage=stage,
            digest=digest(data),
            changed=self._changed(path),
        )

    def read(self, mark: SessionMark, manifest: RoundManifest) -> SessionRecord:
        """Open the file that the node's state names.

        Raises:
            VerificationError: The file is another one, was copied or put back, or is
                not of this node, round and stage.
            ResourceError: It cannot be read.
            ProtocolError: What was sealed is no session of this release.
        """
        path = self._path(mark.stage)
        with _reading(path):
            data = read_plain(path, limit=DOCUMENT_LIMIT)
            changed = self._changed(path)
        if digest(data) != mark.digest or changed != mark.changed:
            raise VerificationError(
                f"{path} is not the file that the node wrote, or was put back",
                code="session-replaced",
            )
        cut = _SALT_BYTES + _NONCE_BYTES
        salt, nonce, box = data[:_SALT_BYTES], data[_SALT_BYTES:cut], data[cut:]
        try:
            plain = ChaCha20Poly1305(self._key(salt)).decrypt(
                nonce, box, self._bound(manifest, mark.stage)
            )
        except (InvalidTag, ValueError):  # the latter: it is shorter than a nonce
            raise VerificationError(
                f"{path} does not open: it is of another node, key or round",
                code="session-sealed",
            ) from None
        record = SessionRecord.decode(plain)
        if record.encode() != plain or record.state.stage != mark.stage:
            raise VerificationError(
                f"{path} holds a session in another spelling, or of another stage",
                code="session-replaced",
            )
        return record

    def write_upload(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Write a masked vector, durably, before its state names its root.

        Raises:
            ResourceError: The disk is full or failing.
        """
        path = self._path(_UPLOAD)
        durable_files.replace_file(
            path, *(memoryview(each) for each in chunks), mode=0o600
        )

    def read_upload(self, manifest: RoundManifest, *, root: str) -> list[memoryview]:
        """Map a masked vector, in chunks, without reading it into memory at once.

        Raises:
            VerificationError: It is another one than the signed root names.
            ProtocolError: It has another length.
            ResourceError: It cannot be read.
        """
        path = self._path(_UPLOAD)
        with _reading(path), path.open("rb") as file:
            whole = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        chunks = [
            whole[at : at + CHUNK_BYTES] for at in range(0, len(whole), CHUNK_BYTES)
        ]
        check_sizes(chunks, length=manifest.length)
        if chunk_root(chunks) != root:
            raise VerificationError(
                f"{path} is another upload than {root}", code="session-upload-differs"
            )
        return chunks

    def keep_only(self, stage: str | None) -> None:
        """Delete all files but those of a stage; the upload goes with the next one.

        Raises:
            ResourceError: The folder cannot be written.
        """
        kept = {stage, _UPLOAD if stage == _UPLOADED else stage}
        for name in (*SECAGG_STAGES, _UPLOAD):
            if name not in kept:
                durable_files.remove_file(self._path(name))
            durable_files.remove_file(self._path(name + durable_files.SUFFIX))

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _key(self, salt: bytes) -> bytes:
        kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=_INFO)
        return kdf.derive(self.seed)

    def _bound(self, manifest: RoundManifest, stage: str) -> bytes:
        place = [manifest.run_id, manifest.round_number, manifest.attempt]
        whose = [self.genesis, manifest.federation, self.node]
        return canonical_json([*whose, *place, manifest.context.hex(), stage])

    @staticmethod
    def _changed(path: Path) -> str:
        """Return when the file was written or put there; nothing can set that back."""
        return str(path.stat().st_ctime_ns)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # the latter: it is empty
        raise durable_files.storage_error(
            "read", path, error, code="file-unreadable"
        ) from error


def message_of(reply: SavedReply, chunks: Sequence[memoryview] = ()) -> Message:
    """Build the reply of the last step again, byte for byte."""
    attachments: list[bytes | memoryview] = [*reply.attachments, *chunks]
    return Message(kind=reply.kind, body=reply.body, attachments=attachments)
