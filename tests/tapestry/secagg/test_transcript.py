"""What anyone can check: the transcript, and the sum chunk by chunk."""

from typing import Any

import numpy as np
import pytest

from tapestry.errors import ProtocolError, VerificationError
from tapestry.protocol.secagg_messages import Result, Transcript
from tapestry.secagg import chunks as chunks_module
from tapestry.secagg import transcript as verifying
from tapestry.secagg.chunks import CHUNK_BYTES, assemble, chunk_leaves, chunk_root, cut
from tapestry.secagg.server import Unmasked
from tapestry.secagg.transcript import (
    ChunkProof,
    SumChecker,
    check_own,
    check_sum_chunks,
)
from tapestry.tlog.merkle import inclusion_proof
from tests.support.secagg_cohort import Federation

OTHER = "sha256:" + "cd" * 32


def finished(length: int = 50) -> tuple[Federation, Unmasked]:
    federation = Federation.of(6, length=length)
    federation.run("receive")
    federation.upload(federation.names()[1:])
    federation.consent()
    return federation, federation.reveal()


def evidence(chunks: Any, index: int) -> ChunkProof:
    proof = inclusion_proof(chunk_leaves(chunks), index)
    return ChunkProof(chunk=chunks[index], proof=proof)


def collect(federation: Federation, unmasked: Unmasked, index: int) -> dict[str, Any]:
    rows = {
        name: evidence(upload.chunks, index)
        for name, upload in federation.uploads.items()
    }
    return {"uploads": rows, "total": evidence(unmasked.chunks(), index)}


def test_a_result_that_holds_is_accepted_by_everybody() -> None:
    federation, unmasked = finished()
    result = federation.result(unmasked)
    SumChecker(federation.manifest, result)
    for member in federation.cohort[1:]:
        check_own(member.state, result)
    check_sum_chunks(result, unmasked.chunks(), length=50)
    back = assemble(unmasked.chunks(), length=50)
    assert np.array_equal(back, unmasked.values)


def test_a_node_notices_a_result_without_its_upload() -> None:
    federation, unmasked = finished()
    result = federation.result(unmasked)
    transcript = result.transcript
    fewer = transcript.model_copy(update={"uploads": transcript.uploads[1:]})
    changed = result.model_copy(update={"transcript": fewer})
    member = federation.cohort[1]
    with pytest.raises(VerificationError, match="lacks this node's upload"):
        check_own(member.state, changed)
    with pytest.raises(VerificationError, match="other uploads than were agreed"):
        check_own(federation.cohort[2].state, changed)


def other_bytes(text: str) -> str:
    return text[:-1] + ("1" if text[-1] == "0" else "0")


def tampered(transcript: Transcript) -> dict[str, Transcript]:
    """One change in each part of a transcript."""
    keys, heads = transcript.keys, transcript.heads
    survivor, dropped = (
        next(iter(transcript.self_seeds)),
        next(iter(transcript.mask_secrets)),
    )
    advert = keys.advertisements[0].model_copy(update={"mask_key": "11" * 32})
    head = heads.heads[0].model_copy(update={"commitment": "11" * 32})
    upload = transcript.uploads[0].model_copy(update={"root": OTHER})
    consent = transcript.consents.consents[0]
    forged = consent.model_copy(update={"signature": other_bytes(consent.signature)})
    few = transcript.consents.model_copy(
        update={"consents": transcript.consents.consents[:2]}
    )
    seeds = {**transcript.self_seeds, survivor: "11" * 32}
    secrets = {**transcript.mask_secrets, dropped: "11" * 32}
    changes: dict[str, dict[str, Any]] = {
        "key": {
            "keys": keys.model_copy(
                update={"advertisements": (advert, *keys.advertisements[1:])}
            )
        },
        "head": {"heads": heads.model_copy(update={"heads": (head, *heads.heads[1:])})},
        "upload": {"uploads": (upload, *transcript.uploads[1:])},
        "fewer uploads": {"uploads": transcript.uploads[1:]},
        "consent": {
            "consents": transcript.consents.model_copy(
                update={"consents": (forged, *transcript.consents.consents[1:])}
            )
        },
        "few consents": {"consents": few},
        "seed": {"self_seeds": seeds},
        "fewer seeds": {"self_seeds": dict(list(seeds.items())[1:])},
        "mask key": {"mask_secrets": secrets},
        "no mask key": {"mask_secrets": {}},
    }
    return {what: transcript.model_copy(update=c) for what, c in changes.items()}


def test_any_change_in_a_transcript_is_noticed() -> None:
    federation, unmasked = finished()
    result = federation.result(unmasked)
    for changed in tampered(result.transcript).values():
        with pytest.raises(VerificationError):
            SumChecker(
                federation.manifest, result.model_copy(update={"transcript": changed})
            )
    other = federation.manifest.model_copy(update={"round_number": 2})
    with pytest.raises(VerificationError, match="bad signature"):
        SumChecker(other, result)


def test_a_transcript_survives_printing_and_parsing() -> None:
    federation, unmasked = finished()
    result = federation.result(unmasked)
    assert Result.decode(result.encode()) == result


LENGTH = 2 * CHUNK_BYTES // 4 + 1000


def test_every_chunk_of_an_honest_sum_is_recomputed() -> None:
    federation, unmasked = finished(LENGTH)
    checker = SumChecker(federation.manifest, federation.result(unmasked))
    assert checker.count == 3
    for index in range(3):
        checker.check(index, **collect(federation, unmasked, index))


def test_a_wrong_sum_a_wrong_path_and_a_missing_upload_are_noticed() -> None:
    federation, unmasked = finished(LENGTH)
    result = federation.result(unmasked)
    honest = SumChecker(federation.manifest, result)
    good = collect(federation, unmasked, 1)
    with pytest.raises(VerificationError, match="not under the root"):
        honest.check(1, uploads=good["uploads"], total=flipped(good["total"]))
    fewer = dict(list(good["uploads"].items())[1:])
    with pytest.raises(VerificationError, match="one chunk from each"):
        honest.check(1, uploads=fewer, total=good["total"])
    with pytest.raises(VerificationError, match="chunk 3 of 3"):
        honest.check(3, **good)
    with pytest.raises(VerificationError, match="wrong size"):
        honest.check(2, **good)
    name = next(iter(good["uploads"]))
    uploads = {**good["uploads"], name: flipped(good["uploads"][name])}
    with pytest.raises(VerificationError, match="not under the root"):
        honest.check(1, uploads=uploads, total=good["total"])
    unmasked.values[CHUNK_BYTES // 4 + 5] += 1
    lie = result.model_copy(update={"sum_root": chunk_root(unmasked.chunks())})
    checker = SumChecker(federation.manifest, lie)
    with pytest.raises(VerificationError, match="chunk 1 of the sum is not the sum"):
        checker.check(1, **collect(federation, unmasked, 1))
    checker.check(0, **collect(federation, unmasked, 0))


def flipped(row: ChunkProof) -> ChunkProof:
    data = bytearray(row.chunk)
    data[17] ^= 1
    return ChunkProof(chunk=bytes(data), proof=row.proof)


@pytest.mark.slow
def test_500_spot_checks_catch_one_wrong_chunk_in_a_hundred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coordinates = 256  # small chunks: what counts is how many there are
    monkeypatch.setattr(chunks_module, "CHUNK_BYTES", 4 * coordinates)
    monkeypatch.setattr(chunks_module, "CHUNK_COORDINATES", coordinates)
    monkeypatch.setattr(verifying, "CHUNK_COORDINATES", coordinates)
    federation, unmasked = finished(1000 * coordinates)
    rng = np.random.default_rng(5)
    bad = set(rng.choice(1000, 10, replace=False).tolist())
    for index in bad:
        unmasked.values[index * coordinates] += 1
    lie = federation.result(unmasked).model_copy(
        update={"sum_root": chunk_root(unmasked.chunks())}
    )
    checker = SumChecker(federation.manifest, lie)
    uploads = {n: u.chunks for n, u in federation.uploads.items()}
    leaves = {n: chunk_leaves(c) for n, c in uploads.items()}
    total = unmasked.chunks()
    above = chunk_leaves(total)
    noticed = set()
    for index in {*bad, *range(0, 1000, 25)}:
        rows = {
            n: ChunkProof(
                chunk=uploads[n][index], proof=inclusion_proof(leaves[n], index)
            )
            for n in uploads
        }
        mine = ChunkProof(chunk=total[index], proof=inclusion_proof(above, index))
        try:
            checker.check(index, uploads=rows, total=mine)
        except VerificationError:
            noticed.add(index)
    assert noticed == bad  # a check of a chunk is exact: what is left is the draw
    draws = rng.integers(0, 1000, (2000, 500))
    caught = np.isin(draws, list(bad)).any(axis=1).mean()
    assert caught > 0.99
    assert 1 - 0.99**500 > 0.99


def test_cutting_is_the_inverse_of_assembling() -> None:
    values = np.arange(CHUNK_BYTES // 4 + 3, dtype=np.uint32)
    pieces = cut(values)
    assert [len(piece) for piece in pieces] == [CHUNK_BYTES, 12]
    assert np.array_equal(assemble(pieces, length=values.size), values)
    with pytest.raises(ProtocolError):
        assemble(pieces[:1], length=values.size)
    assert bytes(pieces[1]) == values[-3:].astype("<u4").tobytes()
