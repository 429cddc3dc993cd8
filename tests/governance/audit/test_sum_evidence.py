"""A sum in a bundle is recomputed from the uploads that the log names."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tapestry.encoding import canonical_json
from tapestry.errors import (
    ForeignFileError,
    IncompleteError,
    ProtocolError,
    VerificationError,
)
from tapestry.protocol.secagg_messages import Result
from tapestry.secagg.chunks import CHUNK_BYTES, chunk_leaves, chunk_root
from tapestry.secagg.server import Unmasked
from tapestry.secagg.transcript import ChunkProof
from tapestry.tlog.merkle import inclusion_proof
from tapestry_governance.audit.bundle import SUMS, add_sums
from tapestry_governance.audit.sum_evidence import (
    CheckedSums,
    Spot,
    check_sums,
    write_result,
    write_spot,
)
from tapestry_governance.events.envelope import Event
from tapestry_governance.events.event_body import Body
from tapestry_governance.events.round_events import (
    ContributionCommitted,
    RoundClosed,
    RoundOpened,
)
from tests.support.plans import DIGEST
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation

LENGTH = CHUNK_BYTES // 4 + 100  # two chunks
BOTH = CheckedSums(chunks_of={5: (2, 2)})
OTHER = "sha256:" + "cd" * 32
Chunks = Sequence[bytes | memoryview]


def spot_of(index: int, *, total: Chunks, uploads: Mapping[str, Chunks]) -> Spot:
    """Cut one chunk, with its paths, out of a sum and its uploads."""

    def cut(chunks: Chunks) -> ChunkProof:
        path = inclusion_proof(chunk_leaves(chunks), index)
        return ChunkProof(chunk=bytes(chunks[index]), proof=path)

    rows = {name: cut(chunks) for name, chunks in uploads.items()}
    return Spot(index=index, total=cut(total), uploads=rows)


@dataclass
class Finished:
    """A round of four nodes with its events, and its evidence in a folder."""

    federation: Federation
    result: Result
    events: list[Event]
    folder: Path

    @property
    def closed(self) -> RoundClosed:
        body = self.events[-1].body
        assert isinstance(body, RoundClosed)
        return body

    def close_with(self, **changes: Any) -> None:
        body = self.closed.model_copy(update=changes)
        self.events[-1] = self.events[-1].model_copy(update={"body": body})


def event(actor: str, body: Body) -> Event:
    return Event(
        v=1,
        type=body.type,
        id="019ab0c0-0000-7000-8000-000000000000",
        federation="loom.example",
        actor=actor,
        role="coordinator" if actor == "loom.example" else "node",
        claimed_time="2026-11-23T12:00:00Z",
        seen=None,
        refs=(),
        body=body,
    )


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    federation = Federation.of(4, length=LENGTH)
    unmasked = federation.run()
    return evidence(federation, unmasked, tmp_path / "sums")


def evidence(federation: Federation, unmasked: Unmasked, folder: Path) -> Finished:
    manifest = federation.manifest
    run = manifest.run_id
    events = [event("loom.example", RoundOpened(manifest=manifest))]
    for name, upload in federation.uploads.items():
        said = ContributionCommitted(
            run_id=run,
            round_number=1,
            attempt=1,
            context=manifest.context.hex(),
            masked_root=upload.head.root.removeprefix("sha256:"),
        )
        events.append(event(name, said))
    result = federation.result(unmasked)
    closed = RoundClosed(
        run_id=run,
        round_number=1,
        attempt=1,
        outcome="applied",
        reason=None,
        included=tuple(federation.names()),
        dropped=(),
        commitments=(1, 2, 3, 4),
        aggregate_digest=result.sum_root,
        base_before=DIGEST,
        base_after=DIGEST,
        release_digest=DIGEST,
        outer_digest=DIGEST,
        metrics={},
    )
    events.append(event("loom.example", closed))
    uploads = {n: u.chunks for n, u in federation.uploads.items()}
    write_result(folder / "5", result)
    for index in (0, 1):
        spot = spot_of(index, total=unmasked.chunks(), uploads=uploads)
        write_spot(folder / "5" / str(index), spot)
    return Finished(federation, result, events, folder)


def test_an_honest_sum_is_recomputed(finished: Finished) -> None:
    assert check_sums(finished.folder, finished.events) == BOTH


def test_a_bundle_without_sums_holds(tmp_path: Path) -> None:
    assert check_sums(tmp_path / "sums", []) == CheckedSums(chunks_of={})


def test_a_sum_that_is_not_the_sum_is_found(tmp_path: Path) -> None:
    federation = Federation.of(4, length=LENGTH)
    unmasked = federation.run()
    unmasked.values[-1] += 1
    lie = replace(unmasked, sum_root=chunk_root(unmasked.chunks()))
    finished = evidence(federation, lie, tmp_path / "sums")
    with refused(VerificationError, "false-sum", match="chunk 1 "):
        check_sums(finished.folder, finished.events)


@pytest.mark.parametrize(
    ("changes", "code", "value"),
    [
        ({"aggregate_digest": OTHER}, "logged-sum-differs", OTHER),
        ({"base_after": OTHER}, "logged-base-differs", OTHER),
        ({"included": ("n0001.example",)}, "logged-survivors-differ", "n0004.example"),
        ({"commitments": (2, 1, 3, 4)}, "commitment-not-found", "entry 2 "),
        ({"round_number": 2}, "opening-not-found", ", 2, 1"),
    ],
)
def test_evidence_that_contradicts_the_log_is_refused(
    finished: Finished, changes: dict[str, Any], code: str, value: str
) -> None:
    finished.close_with(**changes)
    with refused(VerificationError, code, match=value):
        check_sums(finished.folder, finished.events)


def test_another_upload_than_was_committed_to_is_refused(finished: Finished) -> None:
    said = finished.events[2].body.model_copy(update={"masked_root": "cd" * 32})
    finished.events[2] = finished.events[2].model_copy(update={"body": said})
    with refused(VerificationError, "committed-upload-differs", match="cdcd"):
        check_sums(finished.folder, finished.events)


Rows = list[dict[str, Any]]


def _with_consents(finished: Finished, change: Callable[[Rows], Rows]) -> None:
    path = finished.folder / "5" / "result.json"
    value = json.loads(path.read_bytes())
    consents = value["transcript"]["consents"]
    consents["consents"] = change(consents["consents"])
    path.write_bytes(canonical_json(value))


@pytest.mark.parametrize("at", range(4))
def test_a_consent_beyond_the_threshold_may_be_cut(finished: Finished, at: int) -> None:
    """They come after what they sign, so nothing binds how many are there."""
    assert finished.federation.manifest.threshold == 3
    _with_consents(finished, lambda rows: rows[:at] + rows[at + 1 :])
    assert check_sums(finished.folder, finished.events) == BOTH
    _with_consents(finished, lambda rows: rows[1:])
    with refused(VerificationError, "consents-too-few"):
        check_sums(finished.folder, finished.events)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: [*rows, rows[-1]],
        lambda rows: [rows[1], rows[0], *rows[2:]],
        lambda rows: [*rows[:3], {**rows[3], "node": "n0005.example"}],
        lambda rows: [{**rows[0], "signature": rows[1]["signature"]}, *rows[1:]],
        lambda rows: [{**rows[0], "note": "a letter"}, *rows[1:]],
        lambda rows: [{**rows[0], "survivors": OTHER}, *rows[1:]],
    ],
    ids=["twice", "swapped", "a stranger's", "another's", "a field more", "other list"],
)
def test_each_consent_that_is_there_is_a_survivors_and_in_its_place(
    finished: Finished, change: Callable[[Rows], Rows]
) -> None:
    _with_consents(finished, change)
    with pytest.raises((VerificationError, ProtocolError)):
        check_sums(finished.folder, finished.events)


def test_a_sums_folder_holds_numbered_folders_and_nothing_else(
    finished: Finished,
) -> None:
    for name in ("result.json", "proofs.json", "sum.bin", "5.json"):
        (finished.folder / name).write_bytes(b"x")
        with refused(ForeignFileError, "foreign-file", match=name):
            check_sums(finished.folder, finished.events)
        (finished.folder / name).unlink()
    for name in ("5/proofs.json", "5/sum.bin", "5/0/result.json", "5/0/upload-x.bin"):
        (finished.folder / name).write_bytes(b"x")
        with refused(ForeignFileError, "foreign-file", match=name.rsplit("/", 1)[1]):
            check_sums(finished.folder, finished.events)
        (finished.folder / name).unlink()
    assert check_sums(finished.folder, finished.events) == BOTH


def test_any_flipped_byte_of_the_evidence_is_noticed(finished: Finished) -> None:
    for path in sorted(finished.folder.rglob("*")):
        if not path.is_file():
            continue
        good = path.read_bytes()
        for at in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises((VerificationError, ProtocolError, IncompleteError)):
                check_sums(finished.folder, finished.events)
        path.write_bytes(good)
    assert check_sums(finished.folder, finished.events) == BOTH


def test_missing_files_and_strange_folders_are_refused(finished: Finished) -> None:
    (finished.folder / "5" / "0" / "sum.bin").unlink()
    with refused(IncompleteError, "file-missing", match=r"sum\.bin"):
        check_sums(finished.folder, finished.events)
    (finished.folder / "5").rename(finished.folder / "05")
    with refused(ProtocolError, "integer-not-canonical", match="05"):
        check_sums(finished.folder, finished.events)
    (finished.folder / "05").rename(finished.folder / "1")
    with refused(VerificationError, "closing-entry-missing", match="entry 1 "):
        check_sums(finished.folder, finished.events)


def test_sums_travel_in_a_bundle_and_are_listed(
    finished: Finished, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    opened = add_sums(bundle, {5: finished.folder / "5"})
    assert "sums/5/result.json" in opened.files
    assert "sums/5/1/upload-n0003.example.bin" in opened.files
    assert check_sums(bundle / SUMS, finished.events) == BOTH
