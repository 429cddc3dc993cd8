"""What a node draws of a sum, asks for once, and takes only if it is the sum."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tapestry.errors import ProtocolError, VerificationError
from tapestry.protocol.messages import (
    Bulk,
    CheckChunkRequest,
    ChunkRequest,
    expect_body,
)
from tapestry.protocol.secagg_messages import Result
from tapestry.secagg.chunks import CHUNK_BYTES, chunk_leaves, chunk_root
from tapestry.secagg.server import Unmasked
from tapestry.secagg.transcript import ChunkProof, FalseSum, SumChecker
from tapestry.tlog.merkle import inclusion_proof
from tapestry_governance.audit.sum_evidence import Spot, pack_spot, read_spot
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused
from tapestry_node.round.spot_checks import DISPUTES, SpotChecks, Taken
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation

CHUNKS = 5
LENGTH = CHUNKS * (CHUNK_BYTES // 4)


@dataclass(frozen=True)
class Finished:
    """A round of four nodes whose sum was published, truly or not."""

    federation: Federation
    total: Unmasked
    result: Result

    def show(
        self, index: int, *, number: int | None = None
    ) -> tuple[CheckChunkRequest, Bulk]:
        uploads = self.federation.uploads
        rows = {name: cut(upload.chunks, index) for name, upload in uploads.items()}
        total = cut(self.total.chunks(), index)
        spot = Spot(index=index, total=total, uploads=rows)
        ours = self.federation.manifest.round_number
        message = pack_spot(spot, round_number=number or ours)
        return expect_body(message, CheckChunkRequest), message.attachments


def cut(chunks: Sequence[bytes | memoryview], index: int) -> ChunkProof:
    proof = inclusion_proof(chunk_leaves(chunks), index)
    return ChunkProof(chunk=chunks[index], proof=proof)


@pytest.fixture(scope="module")
def honest() -> Finished:
    federation = Federation.of(4, length=LENGTH)
    total = federation.run()
    return Finished(federation, total, federation.result(total))


@pytest.fixture(scope="module")
def lying(honest: Finished) -> Finished:
    """The third chunk is off by one in one place, and the root fits the lie."""
    total = replace(honest.total, values=honest.total.values.copy())
    total.values[2 * (CHUNK_BYTES // 4)] += 1
    total = replace(total, sum_root=chunk_root(total.chunks()))
    return Finished(honest.federation, total, honest.federation.result(total))


def checks(folder: Path, finished: Finished, *, wanted: int) -> SpotChecks:
    store = NodeState(folder / "node.db")
    made = SpotChecks(store=store, wanted=wanted, folder=folder)
    taken = Taken(
        manifest=finished.federation.manifest, result=finished.result, index=7
    )
    made.draw(taken)
    return made


def test_a_node_asks_until_it_has_seen_what_it_drew(
    tmp_path: Path, honest: Finished
) -> None:
    spots = checks(tmp_path, honest, wanted=3)
    run = honest.federation.manifest.run_id
    asked = spots.asks()
    assert len({ask.chunk for ask in asked}) == 3
    for left, ask in zip((2, 1, 0), asked, strict=True):
        assert spots.pending_rounds(run) == [1]
        spots.check(*honest.show(ask.chunk))
        assert len(spots.asks()) == left
    assert spots.pending_rounds(run) == []


def test_a_draw_is_made_once_and_survives_a_restart(
    tmp_path: Path, honest: Finished
) -> None:
    first = checks(tmp_path, honest, wanted=2)
    asked = first.asks()
    first.check(*honest.show(asked[0].chunk))
    again = first
    for _ in range(5):
        again = checks(tmp_path, honest, wanted=2)
        assert again.asks() == asked[1:]
    again.check(*honest.show(asked[1].chunk))
    assert checks(tmp_path, honest, wanted=2).asks() == []


def test_draws_cover_every_chunk(tmp_path: Path, honest: Finished) -> None:
    drawn: set[int] = set()
    for turn in range(60):
        folder = tmp_path / str(turn)
        folder.mkdir()
        drawn |= {ask.chunk for ask in checks(folder, honest, wanted=1).asks()}
    assert drawn == set(range(CHUNKS))


def test_a_false_chunk_is_found_by_its_draw_alone(
    tmp_path: Path, lying: Finished
) -> None:
    spots = checks(tmp_path, lying, wanted=CHUNKS)
    for chunk in range(CHUNKS):
        if chunk == 2:
            with refused(VerificationError, "false-sum", match="chunk 2 "):
                spots.check(*lying.show(chunk))
        else:
            spots.check(*lying.show(chunk))
    assert spots.asks() == []
    assert spots.store.disputed(lying.federation.manifest.run_id) == [1]
    again = checks(tmp_path, lying, wanted=CHUNKS)
    assert again.store.disputed(lying.federation.manifest.run_id) == [1]


def test_the_proof_of_a_false_sum_holds_for_a_reader_of_the_log(
    tmp_path: Path, lying: Finished
) -> None:
    spots = checks(tmp_path, lying, wanted=CHUNKS)
    with refused(FalseSum, "false-sum"):
        spots.check(*lying.show(2))
    folder = tmp_path / DISPUTES / "7"
    result = Result.decode((folder / "result.json").read_bytes())
    checker = SumChecker(lying.federation.manifest, result)
    spot = read_spot(folder / "2", 2)
    with refused(FalseSum, "false-sum"):
        checker.check(2, uploads=spot.uploads, total=spot.total)


def test_a_false_sum_is_disputed_though_its_proof_cannot_be_written(
    tmp_path: Path, lying: Finished, caplog: pytest.LogCaptureFixture
) -> None:
    spots = checks(tmp_path, lying, wanted=CHUNKS)
    (tmp_path / DISPUTES).touch()
    with refused(FalseSum, "false-sum"):
        spots.check(*lying.show(2))
    assert spots.store.disputed(lying.federation.manifest.run_id) == [1]
    assert "proof NOT written" in caplog.text


def test_a_chunk_that_proves_nothing_disputes_nothing(
    tmp_path: Path, honest: Finished, lying: Finished
) -> None:
    """The true chunk does not fit the false root, so the path fails and no more."""
    spots = checks(tmp_path, lying, wanted=CHUNKS)
    with refused(VerificationError, "inclusion-proof-invalid"):
        spots.check(*honest.show(2))
    assert 2 in [ask.chunk for ask in spots.asks()]
    assert spots.store.disputed(lying.federation.manifest.run_id) == []
    assert not (tmp_path / DISPUTES).exists()


def test_rounds_that_a_quorum_cosigned_are_asked_about_no_more(
    tmp_path: Path, honest: Finished
) -> None:
    spots = checks(tmp_path, honest, wanted=2)
    run = honest.federation.manifest.run_id
    spots.forget("another run", until=9)
    spots.forget(run, until=0)
    assert len(spots.asks()) == 2
    spots.forget(run, until=1)
    assert spots.asks() == []


def test_what_was_not_asked_for_is_refused(tmp_path: Path, honest: Finished) -> None:
    spots = checks(tmp_path, honest, wanted=1)
    (ask,) = spots.asks()
    with refused(ProtocolError, "spot-check-not-open"):
        spots.check(*honest.show((ask.chunk + 1) % CHUNKS))
    with refused(Refused, "spot-check-not-open", match="^unknown_round: .* 9 "):
        spots.check(*honest.show(ask.chunk, number=9))
    assert spots.asks() == [ChunkRequest(round_number=1, chunk=ask.chunk)]


def test_a_node_that_wants_none_draws_none(tmp_path: Path, honest: Finished) -> None:
    assert checks(tmp_path, honest, wanted=0).asks() == []
