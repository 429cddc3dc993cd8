"""Members draw chunks of each sum and see them recomputed before they vouch for it."""

import dataclasses
import shutil
from collections.abc import Callable

import pytest

from tapestry.errors import QuorumError
from tapestry.protocol.messages import CheckChunkRequest, Kind, Message, expect_body
from tapestry.secagg.chunks import chunk_root
from tapestry.secagg.server import Unmasked, UnmaskStage
from tapestry_coordinator import spot_check_responder
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.spot_check_responder import EVIDENCE, SpotCheckResponder
from tapestry_governance.audit.bundle import add_sums
from tapestry_governance.audit.sum_evidence import unpack_spot
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_node.node import Node
from tapestry_node.node_state import NodeState
from tapestry_node.round import spot_checks
from tapestry_node.round.spot_checks import DISPUTES
from tests.scenarios.conftest import Found
from tests.scenarios.test_crash import check, nth
from tests.scenarios.test_refusals import reason_in
from tests.support.deaths import dies
from tests.support.federation import NAMES, Deliver, Federation, Killed, changed
from tests.support.refusals import refused


def shown(federation: Federation) -> list[tuple[str, int, int]]:
    """Who took which chunk of which round."""
    found = []
    for each in federation.wire.replies(Kind.CHECK_CHUNK):
        if each.reply is not None and each.reply.kind is Kind.RECEIPT:
            body = expect_body(each.request, CheckChunkRequest)
            unpack_spot(body, each.request.attachments)
            found.append((each.node, body.round_number, body.chunk))
    return found


def uploads(federation: Federation) -> list[str]:
    folder = federation.run_folder / "uploads"
    return sorted(path.name for path in folder.glob("*")) if folder.exists() else []


def vouched(federation: Federation) -> list[str]:
    """Releases under the last checkpoint that a quorum cosigned."""
    bodies = [event.body for event in federation.cosigned()]
    return [body.name for body in bodies if isinstance(body, ReleasePublished)]


def lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator publishes another sum, and logs and steps by it in order."""
    honest = UnmaskStage.close

    def close(self: UnmaskStage) -> Unmasked:
        total = honest(self)
        total.values[0] += 1
        return dataclasses.replace(total, sum_root=chunk_root(total.chunks()))

    monkeypatch.setattr(UnmaskStage, "close", close)


def test_every_node_checks_a_chunk_of_every_sum_and_no_upload_is_left(
    found: Found,
) -> None:
    federation = found(coordinator={"rounds": 2})
    federation.run()
    assert sorted(shown(federation)) == [
        (name, number, 0) for name in NAMES for number in (1, 2)
    ]
    assert uploads(federation) == []
    check(federation, rounds=2)
    evidence = sorted((federation.coordinator / EVIDENCE).glob("*/0/sum.bin"))
    assert len(evidence) == 2


def test_a_sum_that_is_not_the_sum_is_refused_by_those_who_drew_the_chunk(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root, log and base agree with the lie; only the uploads do not."""
    federation = found()
    lies(monkeypatch)
    with refused(QuorumError, "quorum-not-reached"):
        federation.run()
    assert len(federation.closed()) == 1
    assert shown(federation) == []
    assert vouched(federation) == []
    reasons = [
        reason_in(each.reply)
        for each in federation.wire.replies(Kind.CHECK_CHUNK)
        if each.reply is not None
    ]
    assert set(reasons) == {"not_in_log"}


def test_nodes_without_spot_checks_cosign_the_same_false_sum(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(institution={"policy": {"spot_checks": "none"}})
    lies(monkeypatch)
    federation.run()
    assert vouched(federation) == ["base-1"]


def test_a_release_waits_for_nodes_without_evidence(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    monkeypatch.setattr(SpotCheckResponder, "respond", lambda _self, _names: None)
    with refused(QuorumError, "quorum-not-reached"):
        federation.run()
    assert vouched(federation) == []
    reply = federation.wire.replies(Kind.COSIGN)[-1].reply
    assert reply is not None
    assert reason_in(reply) == "sum_unchecked"
    monkeypatch.undo()
    federation.run()
    assert vouched(federation) == ["base-1"]
    check(federation)


def _other_round(message: Message) -> Message:
    body = message.body.replace(b'"round_number":1', b'"round_number":7')
    return dataclasses.replace(message, body=body)


def _other_chunk(message: Message) -> Message:
    body = message.body.replace(b'"chunk":0', b'"chunk":1')
    return dataclasses.replace(message, body=body)


def _flipped(place: int) -> Callable[[Message], Message]:
    def change(message: Message) -> Message:
        chunks = [bytearray(chunk) for chunk in message.attachments]
        chunks[place][5] ^= 1
        return dataclasses.replace(message, attachments=[bytes(c) for c in chunks])

    return change


def _fewer(message: Message) -> Message:
    return dataclasses.replace(message, attachments=message.attachments[:-1])


FALSE: dict[str, tuple[Callable[[Message], Message], str]] = {
    "another round": (_other_round, "unknown_round"),
    "another chunk": (_other_chunk, "protocol"),
    "another sum": (_flipped(0), "not_in_log"),
    "another upload": (_flipped(2), "not_in_log"),
    "an upload less": (_fewer, "protocol"),
    "no body": (lambda m: dataclasses.replace(m, body=b"{}"), "protocol"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", list(FALSE))
def test_evidence_that_does_not_hold_counts_for_nothing_and_may_come_again(
    found: Found, change: str
) -> None:
    federation = found()
    alter, reason = FALSE[change]
    federation.wire.on("fr", Kind.CHECK_CHUNK, changed(alter))
    federation.run()
    answers = [
        each.reply
        for each in federation.wire.replies(Kind.CHECK_CHUNK)
        if each.node == "fr" and each.reply is not None
    ]
    assert reason_in(answers[0]) == reason
    assert answers[-1].kind is Kind.RECEIPT
    check(federation)


def test_a_node_that_dies_as_it_takes_a_result_has_drawn(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lets it vouch for the release is on its disk only after the draw is."""
    federation = found()
    dies(monkeypatch, NodeState, "keep_base", after=True)
    with pytest.raises(Killed):
        federation.run()
    owed = [node.store.pending_rounds("run") for node in federation.nodes.values()]
    assert sorted(owed) == [[], [], [], [1]]
    for name in NAMES:
        federation.restart(name)
    federation.run()
    assert len(shown(federation)) == len(NAMES)
    check(federation)


def test_a_draw_survives_a_restart_of_any_party(found: Found) -> None:
    """Neither end can bring about another draw, and none is answered twice."""
    federation = found()
    federation.run_until_killed(nth(Kind.CHECK_CHUNK, 3))
    before = {name: node.spots.asks() for name, node in federation.nodes.items()}
    assert sum(map(len, before.values())) == 2
    for name in NAMES:
        federation.restart(name)
    federation.run()
    took = shown(federation)
    assert len(took) == len(set(took)) == len(NAMES)
    check(federation)


def test_chunks_of_a_run_that_ended_early_keep_no_later_run_from_its_release(
    found: Found,
) -> None:
    """They are shown no more, and their round has the same number."""
    federation = found()
    federation.run_until_killed(nth(Kind.CHECK_CHUNK, 1))
    federation.begin_another_run("second")
    federation.run()
    assert vouched(federation) == ["base-1"]
    owed = [node.store.pending_rounds("second") for node in federation.nodes.values()]
    assert owed == [[]] * len(NAMES)


def test_a_coordinator_that_dies_with_an_upload_erases_it(found: Found) -> None:
    federation = found()
    federation.run_until_killed(nth(Kind.COLLECT_MASKED_INPUTS, 3))
    assert uploads(federation) == ["1"]
    federation.run()
    assert uploads(federation) == []
    check(federation)


def test_a_coordinator_that_dies_as_it_gives_a_round_up_leaves_no_upload(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the journal calls a round aborted, nobody would look for them again."""
    federation = found()
    for name in ("id", "sw"):
        federation.wire.on(name, Kind.CHECK_CONSISTENCY, lambda *_: None)
    dies(monkeypatch, Journal, "settle", after=True)
    with pytest.raises(Killed):
        federation.run()
    assert federation.aborted()
    assert uploads(federation) == []


def test_uploads_are_kept_for_a_member_that_is_away_until_the_release(
    found: Found,
) -> None:
    federation = found(coordinator={"rounds": 2, "release_every": 2})
    seen: list[list[str]] = []

    def lost(_name: str, _request: Message, _deliver: Deliver) -> None:
        seen.append(uploads(federation))

    federation.wire.on("sw", Kind.CHECK_CHUNK, lost)
    federation.run()
    assert seen == [["1"]]
    assert ("sw", 1, 0) in shown(federation)  # in the next pass
    assert uploads(federation) == []
    check(federation, rounds=2)


def test_a_node_checks_the_sums_that_it_is_not_in_as_well(found: Found) -> None:
    """Or a coordinator would invite few, and the others would vouch for its lie."""
    federation = found()
    federation.wire.on("sw", Kind.ADVERTISE_KEYS, lambda *_: None)
    federation.run()
    assert federation.closed()[0].included == ("fi", "fr", "id")
    assert {name for name, _, _ in shown(federation)} == set(NAMES)
    check(federation)


@pytest.mark.slow
def test_a_node_that_finds_a_false_sum_keeps_the_proof_and_leaves_the_run(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others drew nothing and release it; nobody can make ``fr`` go along."""
    others = {n: {"policy": {"spot_checks": "none"}} for n in ("fi", "id", "sw")}
    federation = found(
        coordinator={"rounds": 2, "release_every": 1, "adapters": True},
        institutions=others,
    )
    lies(monkeypatch)
    federation.run()
    assert vouched(federation) == ["base-1", "base-2"]
    federation.restart("fr")
    assert federation.nodes["fr"].store.disputed("run") == [1, 2]
    assert [body.included for body in federation.closed()] == [NAMES, tuple(others)]
    last = [e.reply for e in federation.wire.replies(Kind.COSIGN) if e.node == "fr"][-1]
    assert last is not None
    assert last.kind is Kind.REFUSAL
    grown = {path.name for path in (federation.coordinator / "adapters").iterdir()}
    assert grown == set(others)
    shutil.rmtree(federation.coordinator / EVIDENCE)  # who lies does not keep it
    bundle = federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS
    proofs = (federation.nodes["fr"].directory / DISPUTES).iterdir()
    add_sums(bundle, {int(proof.name): proof for proof in proofs})
    assert federation.audit().verdict is AuditVerdict.FAILS


def test_a_node_that_found_a_false_sum_trains_on_nothing_that_comes_of_it(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run goes on from the release by itself, and the node holds it."""
    others = {n: {"policy": {"spot_checks": "none"}} for n in ("fi", "id", "sw")}
    federation = found(institutions=others)
    with monkeypatch.context() as patched:
        lies(patched)
        federation.run()
    assert federation.nodes["fr"].store.disputed("run") == [1]
    federation.approve()
    release = federation.coordinator / "releases" / "base-1"
    federation.begin_another_run("second", base=str(release))
    federation.run()
    assert [body.included for body in federation.closed()] == [NAMES, tuple(others)]
    assert federation.refusals() == {"fr": "not_in_log"}
    assert federation.committed()["fr", 1] == 1


def test_a_member_that_takes_nothing_is_waited_for_once(found: Found) -> None:
    federation = found(coordinator={"rounds": 2, "release_every": 2})
    federation.wire.on("id", Kind.CHECK_CHUNK, lambda *_: None, times=100)
    federation.run()
    asked = [e for e in federation.wire.log if e.request.kind is Kind.CHECK_CHUNK]
    passes = 5  # after each round, before the second, and twice for the release
    assert sum(each.node == "id" for each in asked) <= passes
    assert vouched(federation) == ["base-1"]
    check(federation, rounds=2)


def test_a_list_that_is_cut_off_is_shown_to_its_end(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of two rounds, of which a list of one tells at a time."""
    monkeypatch.setattr(spot_checks, "MAX_ASKS", 1)
    monkeypatch.setattr(spot_check_responder, "MAX_ASKS", 1)
    federation = found(coordinator={"rounds": 2, "release_every": 2})
    federation.wire.on("sw", Kind.CHECK_CHUNK, lambda *_: None, times=2)
    federation.run()
    assert {("sw", 1, 0), ("sw", 2, 0)} <= set(shown(federation))
    answers = [e.reply for e in federation.wire.replies(Kind.COSIGN) if e.reply]
    assert [a for a in answers if a.kind is Kind.REFUSAL] == []
    assert uploads(federation) == []
    check(federation, rounds=2)


def test_uploads_stay_while_a_member_has_not_said_what_it_wants(found: Found) -> None:
    """Two take a result, and their receipts are lost: they are shown it later."""
    federation = found(coordinator={"rounds": 2, "release_every": 2})

    def take(name: str, request: Message, deliver: Deliver) -> None:
        federation.wire.on(name, Kind.HELLO, lambda *_: None)
        deliver(request)

    for name in ("sw", "id"):
        federation.wire.on(name, Kind.APPLY_RESULT, take)
    federation.run()
    assert {("sw", 1, 0), ("id", 1, 0)} <= set(shown(federation))
    check(federation, rounds=2)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [(77, 999), (77, 1), (2**53 - 1, 1)])
def test_a_request_for_an_unknown_chunk_stops_no_other_node(
    found: Found, asked: tuple[int, int]
) -> None:
    federation = found()

    def ask(_name: str, request: Message, deliver: Deliver) -> Message:
        reply = deliver(request)
        body = b'"asks":[{"chunk":%d,"round_number":%d}]' % asked
        fields = reply.body.split(b'"asks":[')
        rest = fields[1].partition(b"]")[2]
        return dataclasses.replace(reply, body=fields[0] + body + rest)

    for kind in (Kind.HELLO, Kind.APPLY_RESULT):
        federation.wire.on("id", kind, ask, times=100)
    federation.run()
    assert federation.closed()[0].included == tuple(sorted(NAMES))
    assert isinstance(federation.nodes["id"], Node)
