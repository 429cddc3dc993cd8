"""Evidence that a published sum is the sum of the uploads that nodes committed to.

A bundle may hold, for any closed round, the parts of the sum::

    sums/<log index of round.closed>/result.json      message 10 of TSA-1
    sums/<log index>/<chunk>/proofs.json              Merkle paths
    sums/<log index>/<chunk>/sum.bin                  that chunk of the sum
    sums/<log index>/<chunk>/upload-<node>.bin        and of every survivor's upload

With it an auditor recomputes these chunks of the sum. Each chunk that is checked is
checked exactly; a coordinator that falsified a fraction f of the chunks escapes c
chunks that others drew with probability (1 - f) ** c.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapestry.artifacts.foreign_files import refuse
from tapestry.encoding import decode_integer
from tapestry.errors import IncompleteError, ProtocolError, VerificationError
from tapestry.inputs.plain_file import read_plain
from tapestry.protocol import messages
from tapestry.protocol.messages import CheckChunkRequest, ChunkPaths
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Result
from tapestry.secagg.chunks import CHUNK_BYTES
from tapestry.secagg.transcript import ChunkProof, SumChecker
from tapestry_governance.events.envelope import Event
from tapestry_governance.events.round_events import (
    ContributionCommitted,
    RoundClosed,
    RoundOpened,
)
from tapestry_governance.rules.federation_state import round_key

_RESULT = "result.json"
_PROOFS = "proofs.json"
_TOTAL = "sum.bin"
_MAX_RESULT = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """One chunk of a sum and of all that was summed."""

    index: int
    total: ChunkProof
    uploads: Mapping[str, ChunkProof]


def write_result(folder: Path, result: Result) -> None:
    """Start the evidence of one round in a new folder."""
    folder.mkdir(parents=True)
    (folder / _RESULT).write_bytes(result.encode())


def write_spot(folder: Path, spot: Spot) -> None:
    """Write one chunk into a new folder."""
    folder.mkdir(parents=True)
    (folder / _PROOFS).write_bytes(_paths(spot).encode())
    (folder / _TOTAL).write_bytes(spot.total.chunk)
    for node, row in spot.uploads.items():
        (folder / f"upload-{node}.bin").write_bytes(row.chunk)


def pack_spot(spot: Spot, *, round_number: int) -> messages.Message:
    """Put one chunk into a message: the sum's first, then the uploads by name."""
    body = CheckChunkRequest(
        round_number=round_number, chunk=spot.index, proofs=_paths(spot)
    )
    rows = [spot.total, *(spot.uploads[name] for name in sorted(spot.uploads))]
    return messages.encode_message(body, [row.chunk for row in rows])


def unpack_spot(shown: CheckChunkRequest, chunks: messages.Bulk) -> Spot:
    """Read one chunk from a message; the content is not checked.

    Raises:
        ProtocolError: The message has not one chunk for the sum and for each upload.
    """
    names = sorted(shown.proofs.uploads)
    if len(chunks) != 1 + len(names):
        message = f"{len(chunks)} chunks, want {1 + len(names)}"
        raise ProtocolError(message, code="chunk-count-differs")
    total, *uploads = chunks
    return Spot(
        index=shown.chunk,
        total=ChunkProof(chunk=total, proof=_parse(shown.proofs.total)),
        uploads={
            name: ChunkProof(chunk=chunk, proof=_parse(shown.proofs.uploads[name]))
            for name, chunk in zip(names, uploads, strict=True)
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedSums:
    """The chunks that were recomputed of each sum, by the log index of its closing."""

    chunks_of: Mapping[int, tuple[int, int]]  # how many, and how many the sum has

    @property
    def rounds(self) -> int:
        """The number of sums of which a chunk at least was recomputed."""
        return sum(count > 0 for count, _ in self.chunks_of.values())

    @property
    def chunks(self) -> int:
        """The number of chunks that were recomputed."""
        return sum(count for count, _ in self.chunks_of.values())

    @property
    def all_chunks(self) -> int:
        """The number of chunks that these sums have."""
        return sum(of for count, of in self.chunks_of.values() if count)


def check_sums(folder: Path, events: Sequence[Event]) -> CheckedSums:
    """Recompute every chunk in a bundle's ``sums`` folder.

    The folder need not exist; ``events`` are all of the log, checked before.

    Edge cases:
        Of a round without a chunk the result is compared with the log, and its sum
        counts as unchecked.

    Raises:
        IncompleteError: A file of a chunk is missing.
        ProtocolError: A file or folder is not as described above.
        VerificationError: The evidence contradicts the log, or the sum is wrong.
    """
    return CheckedSums(
        chunks_of={
            at: _check_round(place, at, events) for at, place in _numbered(folder)
        }
    )


def _check_round(folder: Path, index: int, events: Sequence[Event]) -> tuple[int, int]:
    """Return how many chunks of a sum were recomputed, and how many it has."""
    closed = events[index].body if index < len(events) else None
    if not isinstance(closed, RoundClosed):
        message = f"entry {index} closes no round"
        raise VerificationError(message, code="closing-entry-missing")
    result = Result.decode(_read(folder / _RESULT, _MAX_RESULT))
    _check_log(closed, result, events)
    checker = SumChecker(_manifest_of(closed, events, before=index), result)
    count = 0
    for chunk, place in _numbered(folder, beside=_RESULT):
        spot = read_spot(place, chunk)
        checker.check(chunk, uploads=spot.uploads, total=spot.total)
        count += 1
    return count, checker.count


def _check_log(closed: RoundClosed, result: Result, events: Sequence[Event]) -> None:
    """Compare a result with the closing and the commitments in the log."""
    survivors = result.transcript.survivors
    if result.sum_root != closed.aggregate_digest:
        raise VerificationError(
            f"the sum {result.sum_root} is not the one that the log names,"
            f" {closed.aggregate_digest}",
            code="logged-sum-differs",
        )
    if result.model_digest != closed.base_after:
        raise VerificationError(
            f"the result names base {result.model_digest}, the log {closed.base_after}",
            code="logged-base-differs",
        )
    if survivors.names != closed.included:
        message = f"the log includes {closed.included}, summed were {survivors.names}"
        raise VerificationError(message, code="logged-survivors-differ")
    for survivor, index in zip(survivors.survivors, closed.commitments, strict=True):
        event = events[index]
        said = event.body
        if not isinstance(said, ContributionCommitted) or event.actor != survivor.node:
            message = f"entry {index} commits to no upload of {survivor.node!r}"
            raise VerificationError(message, code="commitment-not-found")
        if f"sha256:{said.masked_root}" != survivor.root:
            raise VerificationError(
                f"{survivor.node!r} committed to sha256:{said.masked_root}, summed was"
                f" {survivor.root}",
                code="committed-upload-differs",
            )


def _manifest_of(
    closed: RoundClosed, events: Sequence[Event], *, before: int
) -> RoundManifest:
    """Find the manifest of a round by reading back from its closing."""
    key = round_key(closed)
    for index in range(before - 1, -1, -1):
        body = events[index].body
        if isinstance(body, RoundOpened) and round_key(body.manifest) == key:
            return body.manifest
    message = f"round {key} was closed but not opened"
    raise VerificationError(message, code="opening-not-found")


def read_spot(folder: Path, index: int) -> Spot:
    """Read a folder that ``write_spot`` wrote; only its shape is checked.

    Raises:
        IncompleteError: A file of the chunk is missing.
        ProtocolError: A file is malformed.
        ForeignFileError: The folder holds a file too many.
    """
    proofs = ChunkPaths.decode(_read(folder / _PROOFS, _MAX_RESULT))
    files = {f"upload-{node}.bin" for node in proofs.uploads} | {_PROOFS, _TOTAL}
    extra = {path.name for path in folder.iterdir()} - files
    if extra:
        refuse(f"sums, chunk {index}", foreign=extra)
    total = ChunkProof(
        chunk=_read(folder / _TOTAL, CHUNK_BYTES), proof=_parse(proofs.total)
    )
    uploads = {
        node: ChunkProof(
            chunk=_read(folder / f"upload-{node}.bin", CHUNK_BYTES), proof=_parse(path)
        )
        for node, path in proofs.uploads.items()
    }
    return Spot(index=index, total=total, uploads=uploads)


def _numbered(folder: Path, *, beside: str | None = None) -> Iterator[tuple[int, Path]]:
    """List the folders that numbers name, and refuse all but these and ``beside``."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name == beside:
            continue
        if path.is_symlink() or not path.is_dir():
            refuse("sums", foreign=[path.name])
        yield decode_integer(path.name), path


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_plain(path, limit=limit)
    except FileNotFoundError:
        message = f"{path.name} is missing in {path.parent.name}"
        raise IncompleteError(message, code="file-missing") from None


def _paths(spot: Spot) -> ChunkPaths:
    return ChunkPaths(
        total=_print(spot.total),
        uploads={node: _print(row) for node, row in spot.uploads.items()},
    )


def _print(row: ChunkProof) -> tuple[str, ...]:
    return tuple(step.hex() for step in row.proof)


def _parse(path: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(step) for step in path]
