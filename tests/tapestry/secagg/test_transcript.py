"""Tests of transcript: what it claims, and the sum chunk by chunk."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tapestry.errors import VerificationError
from tapestry.protocol.secagg_messages import Result, Transcript
from tapestry.secagg import chunks as chunks_module
from tapestry.secagg import transcript as verifying
from tapestry.secagg.chunks import CHUNK_BYTES, assemble, chunk_leaves, chunk_root
from tapestry.secagg.server import Unmasked
from tapestry.secagg.transcript import (
    ChunkProof,
    FalseSum,
    SumChecker,
    check_own,
    check_sum_chunks,
)
from tapestry.tlog.merkle import inclusion_proof
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation

OTHER = "sha256:" + "cd" * 32


def finished(length: int = 50) -> tuple[Federation, Unmasked]:
    federation = Federation.of(6, length=length)
    federation.run("receive_shares")
    federation.collect_masked_inputs(federation.names()[1:])
    federation.check_consistency()
    return federation, federation.unmask()


def evidence(chunks: Any, index: int) -> ChunkProof:
    proof = inclusion_proof(chunk_leaves(chunks), index)
    return ChunkProof(chunk=chunks[index], proof=proof)


def collect(federation: Federation, unmasked: Unmasked, index: int) -> dict[str, Any]:
    rows = {
        name: evidence(upload.chunks, index)
        for name, upload in federation.uploads.items()
    }
    return {"uploads": rows, "total": evidence(unmasked.chunks(), index)}


def test_a_result_that_holds_is_accepted_by_nodes_and_auditors() -> None:
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
    with refused(VerificationError, "own-entry-differs", match=member.name):
        check_own(member.state, changed)
    with refused(VerificationError, "survivor-list-differs"):
        check_own(federation.cohort[2].state, changed)


def other_bytes(text: str) -> str:
    return text[:-1] + ("1" if text[-1] == "0" else "0")


def with_contribution(
    transcript: Transcript, change: Callable[[str], str]
) -> dict[str, str]:
    """The contributions with a change in what one survivor shows."""
    rows = transcript.contributions
    node = min(rows)
    return {**rows, node: change(rows[node])}


IN_CONTRIBUTIONS: dict[str, Callable[[str], str]] = {
    "messages": lambda text: "11" * 32 + text[64:],
    "contribution": lambda text: text[:64] + "11" * 32 + text[128:],
    "hash": lambda text: text[:-64] + "11" * 32,
    "a hash less": lambda text: text[:-64],
    "a hash more": lambda text: text + "11" * 32,
}


def tampered(transcript: Transcript) -> dict[str, Transcript]:
    """One change in each part of a transcript."""
    keys, heads = transcript.keys, transcript.heads
    survivor, dropped = (
        next(iter(transcript.self_seeds)),
        next(iter(transcript.roots)),
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
    secrets = {**transcript.roots, dropped: "11" * 32}
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
        "root": {"roots": secrets},
        "no root": {"roots": {}},
        "no contributions": {"contributions": {}},
    }
    for what, change in IN_CONTRIBUTIONS.items():
        changes[what] = {"contributions": with_contribution(transcript, change)}
    return {what: transcript.model_copy(update=c) for what, c in changes.items()}


TAMPERED = {
    "key": "key-list-differs",
    "head": "share-list-differs",
    "upload": "survivor-list-differs",
    "fewer uploads": "node-not-listed",
    "consent": "signature-invalid",
    "few consents": "consents-too-few",
    "seed": "self-seed-differs",
    "fewer seeds": "secret-set-differs",
    "root": "root-differs",
    "no root": "secret-set-differs",
    "no contributions": "secret-set-differs",
    "messages": "contribution-differs",
    "contribution": "contribution-differs",
    "hash": "contribution-differs",
    "a hash less": "contribution-proof-size-invalid",
    "a hash more": "contribution-proof-size-invalid",
}


def test_any_change_in_a_transcript_is_noticed() -> None:
    federation, unmasked = finished()
    result = federation.result(unmasked)
    rows = tampered(result.transcript)
    assert rows.keys() == TAMPERED.keys()
    for what, changed in rows.items():
        with refused(VerificationError, TAMPERED[what]):
            SumChecker(
                federation.manifest, result.model_copy(update={"transcript": changed})
            )
    other = federation.manifest.model_copy(update={"round_number": 2})
    with refused(VerificationError, "signature-invalid", match="n0001"):
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
    with refused(VerificationError, "inclusion-proof-invalid", match="leaf 1 "):
        honest.check(1, uploads=good["uploads"], total=flipped(good["total"]))
    fewer = dict(list(good["uploads"].items())[1:])
    with refused(VerificationError, "chunk-set-differs", match="^4 .* 5 "):
        honest.check(1, uploads=fewer, total=good["total"])
    with refused(VerificationError, "chunk-out-of-range", match="chunk 3 of 3"):
        honest.check(3, **good)
    with refused(VerificationError, "chunk-size-invalid", match="chunk 2 .* 4000$"):
        honest.check(2, **good)
    name = next(iter(good["uploads"]))
    uploads = {**good["uploads"], name: flipped(good["uploads"][name])}
    with refused(VerificationError, "inclusion-proof-invalid", match="leaf 1 "):
        honest.check(1, uploads=uploads, total=good["total"])
    unmasked.values[CHUNK_BYTES // 4 + 5] += 1
    lie = result.model_copy(update={"sum_root": chunk_root(unmasked.chunks())})
    checker = SumChecker(federation.manifest, lie)
    with refused(FalseSum, "false-sum", match="chunk 1 "):
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
