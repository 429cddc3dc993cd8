"""Evidence that a published sum is the sum of the uploads that nodes committed to.

A bundle may hold, for any closed round, what the sum is made of::

    sums/<log index of round.closed>/result.json      message 10 of TSA-1
    sums/<log index>/<chunk>/proofs.json              Merkle paths
    sums/<log index>/<chunk>/sum.bin                  that chunk of the sum
    sums/<log index>/<chunk>/upload-<node>.bin        and of every survivor's upload

With it an auditor recomputes these chunks of the sum. Each chunk that is checked is
checked exactly; a coordinator that falsified a fraction f of the chunks escapes c
chunks drawn by somebody else with probability (1 - f) ** c.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapestry.artifacts.foreign_files import refuse
from tapestry.encoding import decode_integer
from tapestry.errors import IncompleteError, ProtocolError, VerificationError
from tapestry.inputs.plain_file import read_plain
from tapestry.protocol.messages import (
    Bulk,
    CheckChunkRequest,
    ChunkPaths,
    Message,
    encode_message,
)
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Result
from tapestry.secagg.chunks import CHUNK_BYTES
from tapestry.secagg.transcript import ChunkProof, SumChecker
from tapestry_governance.events.envelope import Event
from tapestry_governance.events.types import (
    ContributionCommitted,
    RoundClosed,
    RoundOpened,
)

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


def pack_spot(spot: Spot, *, round_number: int) -> Message:
    """Put one chunk into a message: the sum's first, then the uploads by name."""
    body = CheckChunkRequest(
        round_number=round_number, chunk=spot.index, proofs=_paths(spot)
    )
    rows = [spot.total, *(spot.uploads[name] for name in sorted(spot.uploads))]
    return encode_message(body, [row.chunk for row in rows])


def unpack_spot(shown: CheckChunkRequest, chunks: Bulk) -> Spot:
    """Put together what such a message shows; nothing is checked.

    Raises:
        ProtocolError: There is not one chunk for the sum and one for each upload.
    """
    names = sorted(shown.proofs.uploads)
    if len(chunks) != 1 + len(names):
        raise ProtocolError(f"{len(chunks)} chunks, want {1 + len(names)}")
    total, *uploads = chunks
    return Spot(
        index=shown.chunk,
        total=ChunkProof(chunk=total, proof=_parse(shown.proofs.total)),
        uploads={
            name: ChunkProof(chunk=chunk, proof=_parse(shown.proofs.uploads[name]))
            for name, chunk in zip(names, uploads, strict=True)
        },
    )


def check_sums(folder: Path, events: Sequence[Event]) -> tuple[int, int]:
    """Recompute every chunk in a bundle's ``sums`` folder.

    Args:
        folder: The folder; it need not exist.
        events: All events of the log, in order; checked before.

    Returns:
        How many rounds and how many chunks were recomputed.

    Raises:
        IncompleteError: A file of a chunk is missing.
        ProtocolError: A file or folder is not as described above.
        VerificationError: The evidence contradicts the log, or the sum is wrong.
    """
    rounds = chunks = 0
    for index, place in _numbered(folder):
        rounds += 1
        chunks += _check_round(place, index, events)
    return rounds, chunks


def _check_round(folder: Path, index: int, events: Sequence[Event]) -> int:
    closed = events[index].body if index < len(events) else None
    if not isinstance(closed, RoundClosed):
        raise VerificationError(f"entry {index} closes no round")
    result = Result.decode(_read(folder / _RESULT, _MAX_RESULT))
    _check_log(closed, result, events)
    checker = SumChecker(_manifest_of(closed, events[:index]), result)
    count = 0
    for chunk, place in _numbered(folder):
        spot = read_spot(place, chunk)
        checker.check(chunk, uploads=spot.uploads, total=spot.total)
        count += 1
    return count


def _check_log(closed: RoundClosed, result: Result, events: Sequence[Event]) -> None:
    """Hold a result against what the nodes and the coordinator logged."""
    survivors = result.transcript.survivors
    if result.sum_root != closed.aggregate_digest:
        raise VerificationError("the sum is not the one that the log names")
    if result.model_digest != closed.base_after:
        raise VerificationError("the result names another base than the log")
    if survivors.names != closed.included:
        raise VerificationError("the log includes other nodes than were summed")
    for survivor, index in zip(survivors.survivors, closed.commitments, strict=True):
        event = events[index]
        said = event.body
        if not isinstance(said, ContributionCommitted) or event.actor != survivor.node:
            raise VerificationError(f"entry {index} commits to no upload")
        if f"sha256:{said.masked_root}" != survivor.root:
            raise VerificationError(f"{survivor.node!r} committed to another upload")


def _manifest_of(closed: RoundClosed, events: Sequence[Event]) -> RoundManifest:
    key = (closed.run_id, closed.round_number, closed.attempt)
    for event in reversed(events):
        if isinstance(event.body, RoundOpened):
            manifest = event.body.manifest
            if (manifest.run_id, manifest.round_number, manifest.attempt) == key:
                return manifest
    raise VerificationError("the round was closed but not opened")


def read_spot(folder: Path, index: int) -> Spot:
    """Read what ``write_spot`` wrote; nothing is checked but the shape.

    Raises:
        IncompleteError: A file is missing.
        ProtocolError: A file is not as described above, or one too many.
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


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name == _RESULT:
            continue
        if path.is_symlink() or not path.is_dir():
            refuse("sums", foreign=[path.name])
        yield decode_integer(path.name), path


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_plain(path, limit=limit)
    except FileNotFoundError:
        raise IncompleteError(f"{path.name} is missing in {path.parent.name}") from None


def _paths(spot: Spot) -> ChunkPaths:
    return ChunkPaths(
        total=_print(spot.total),
        uploads={node: _print(row) for node, row in spot.uploads.items()},
    )


def _print(row: ChunkProof) -> tuple[str, ...]:
    return tuple(step.hex() for step in row.proof)


def _parse(path: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(step) for step in path]
