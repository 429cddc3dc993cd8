"""Chunks for members that drew them, while the uploads of their round are kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import IncompleteError, QuorumError
from tapestry.protocol.messages import ChunkRequest, Kind, RoundName
from tapestry_coordinator import run as driver
from tapestry_coordinator.spot_check_responder import (
    EVIDENCE,
    SpotCheckResponder,
    _turns,
)
from tests.coordinator.conftest import Found, opened_run
from tests.support.federation import NAMES, Federation
from tests.support.refusals import refused


@pytest.fixture
def federation(found: Found, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """One whose nodes drew chunks of a closed round, and were sent none yet."""
    federation = found()
    with monkeypatch.context() as patch:
        patch.setattr(SpotCheckResponder, "respond", lambda _self, _names: None)
        with refused(QuorumError, "quorum-not-reached"):
            federation.run()
    federation.wire.log.clear()
    return federation


@pytest.fixture
def run(federation: Federation) -> Iterator[driver.Run]:
    with opened_run(federation) as run:
        run.context.tracker.exchange_hello(NAMES)
        for name in NAMES:  # the nodes applied the round before the restart
            assert run.context.tracker.lacks[name] is None
        yield run


def _takers(federation: Federation) -> list[str]:
    replies = federation.wire.replies(Kind.CHECK_CHUNK)
    return [e.node for e in replies if e.reply and e.reply.kind is Kind.RECEIPT]


def _uploads(federation: Federation) -> Path:
    return federation.run_folder / "uploads" / "1"


def test_each_node_gets_its_chunk_and_then_the_uploads_are_erased(
    federation: Federation, run: driver.Run
) -> None:
    run.responder.respond(NAMES)
    assert sorted(_takers(federation)) == list(NAMES)
    assert not _uploads(federation).exists()
    run.responder.respond(NAMES)
    assert len(_takers(federation)) == len(NAMES)


def test_the_chunks_that_were_sent_are_kept_for_auditors(
    federation: Federation, run: driver.Run
) -> None:
    run.responder.respond(NAMES[:1])
    (closed,) = run.context.publisher.state.closed
    folder = federation.coordinator / EVIDENCE / str(closed.index)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    uploads = {f"0/upload-{name}.bin" for name in NAMES}
    assert names == {"result.json", "0", "0/sum.bin", "0/proofs.json"} | uploads


def test_uploads_stay_while_one_member_was_not_asked(
    federation: Federation, run: driver.Run
) -> None:
    run.context.tracker.asks.clear()
    run.responder.respond(NAMES[:3])
    assert sorted(_takers(federation)) == list(NAMES[:3])
    assert _uploads(federation).exists()
    run.responder.respond(NAMES[3:])
    assert not _uploads(federation).exists()


@pytest.mark.parametrize("is_heard", [False, True])
def test_uploads_stay_while_a_member_lacks_a_result(
    federation: Federation, run: driver.Run, is_heard: bool
) -> None:
    """It draws chunks only when it takes the sum; or nothing is known of it."""
    tracker = run.context.tracker
    del tracker.lacks["fr"]
    if is_heard:
        tracker.lacks["fr"] = RoundName(run_id="earlier", round_number=1)
    run.responder.respond(NAMES)
    assert sorted(_takers(federation)) == list(NAMES)
    assert _uploads(federation).exists()


def test_a_node_that_takes_no_chunk_is_asked_once_and_its_upload_stays(
    federation: Federation, run: driver.Run, caplog: pytest.LogCaptureFixture
) -> None:
    federation.wire.on("fr", Kind.CHECK_CHUNK, lambda *_: None, times=10)
    run.responder.respond(NAMES)
    assert sorted(_takers(federation)) == [name for name in NAMES if name != "fr"]
    asked = [e for e in federation.wire.log if e.request.kind is Kind.CHECK_CHUNK]
    assert sum(each.node == "fr" for each in asked) == 1
    assert "node fr does not take its chunk; asking no more" in caplog.messages
    assert _uploads(federation).exists()


def test_a_chunk_that_is_not_kept_is_not_sent_and_the_reason_is_logged(
    federation: Federation, run: driver.Run, caplog: pytest.LogCaptureFixture
) -> None:
    lost = _uploads(federation) / "id.u32"
    lost.unlink()
    run.responder.respond(NAMES)
    assert _takers(federation) == []
    lines = [m for m in caplog.messages if "gets no chunk of round 1" in m]
    assert len(lines) == len(NAMES)
    assert all(str(lost) in line for line in lines)


def test_a_chunk_that_the_sum_does_not_have_is_not_cut(run: driver.Run) -> None:
    cut_out = run.responder.cutter(1, NAMES)
    assert cut_out(0).uploads.keys() == set(NAMES)
    with refused(IncompleteError, "chunk-out-of-range", match="chunk 9"):
        cut_out(9)


def test_asks_are_served_in_turns_of_a_few_nodes() -> None:
    asks = {
        name: [ChunkRequest(round_number=1, chunk=chunk) for chunk in chunks]
        for name, chunks in {"a": (1, 2, 3), "b": (4,), "c": (5, 6)}.items()
    }
    turns = [
        {name: ask.chunk for name, ask in turn.items()}
        for turn in _turns(asks, width=2)
    ]
    assert turns == [{"a": 1, "b": 4}, {"c": 5}, {"a": 2, "c": 6}, {"a": 3}]
