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

from tapestry.encoding import decode_decimal
from tapestry.errors import IncompleteError, ProtocolError, VerificationError
from tapestry.merkle import inclusion_proof
from tapestry.protocol import CHUNK_BYTES, Name, RoundManifest, Strict
from tapestry.secagg.chunks import chunk_leaves
from tapestry.secagg.messages import Hex32, Result
from tapestry.secagg.verifying import Evidence, SumChecker
from tapestry_governance.entries import Event
from tapestry_governance.events import (
    ContributionCommitted,
    RoundClosed,
    RoundOpened,
)

_RESULT = "result.json"
_PROOFS = "proofs.json"
_TOTAL = "sum.bin"
_MAX_RESULT = 8 << 20
Chunks = Sequence[bytes | memoryview]


class Proofs(Strict):
    """The Merkle paths of one chunk, the lowest hash first."""

    total: tuple[Hex32, ...]
    uploads: dict[Name, tuple[Hex32, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """One chunk of a sum and of all that was summed."""

    index: int
    total: Evidence
    uploads: Mapping[str, Evidence]


def make_spot(index: int, *, total: Chunks, uploads: Mapping[str, Chunks]) -> Spot:
    """Cut one chunk, with its paths, out of a sum and its uploads."""
    return Spot(
        index=index,
        total=evidence(total, index),
        uploads={node: evidence(chunks, index) for node, chunks in uploads.items()},
    )


def write_sum(folder: Path, result: Result, *, spots: Sequence[Spot]) -> None:
    """Write the evidence of one round into a new folder."""
    folder.mkdir(parents=True)
    (folder / _RESULT).write_bytes(result.encode())
    for spot in spots:
        place = folder / str(spot.index)
        place.mkdir()
        proofs = Proofs(
            total=_print(spot.total),
            uploads={node: _print(row) for node, row in spot.uploads.items()},
        )
        (place / _PROOFS).write_bytes(proofs.encode())
        (place / _TOTAL).write_bytes(spot.total.chunk)
        for node, row in spot.uploads.items():
            (place / f"upload-{node}.bin").write_bytes(row.chunk)


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
        spot = _read_spot(place, chunk)
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


def _read_spot(folder: Path, index: int) -> Spot:
    proofs = Proofs.decode(_read(folder / _PROOFS, _MAX_RESULT))
    files = {f"upload-{node}.bin" for node in proofs.uploads} | {_PROOFS, _TOTAL}
    extra = {path.name for path in folder.iterdir()} - files
    if extra:
        raise ProtocolError(f"chunk {index} has a file {min(extra)!r}")
    total = Evidence(
        chunk=_read(folder / _TOTAL, CHUNK_BYTES), proof=_parse(proofs.total)
    )
    uploads = {
        node: Evidence(
            chunk=_read(folder / f"upload-{node}.bin", CHUNK_BYTES), proof=_parse(path)
        )
        for node, path in proofs.uploads.items()
    }
    return Spot(index=index, total=total, uploads=uploads)


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name != _RESULT:
            yield decode_decimal(path.name), path


def _read(path: Path, limit: int) -> bytes:
    if not path.is_file():
        raise IncompleteError(f"{path.name} is missing in {path.parent.name}")
    if path.stat().st_size > limit:
        raise ProtocolError(f"{path.name} is over {limit} bytes")
    return path.read_bytes()


def evidence(chunks: Chunks, index: int) -> Evidence:
    """Copy one chunk out of a vector, with its path to the Merkle root."""
    proof = inclusion_proof(chunk_leaves(chunks), index)
    return Evidence(chunk=bytes(chunks[index]), proof=proof)


def _print(row: Evidence) -> tuple[str, ...]:
    return tuple(step.hex() for step in row.proof)


def _parse(path: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(step) for step in path]
