"""What a node refuses, and that only the reason code leaves it."""

import dataclasses
import json
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import PolicyError, QuorumError
from tapestry.protocol.messages import (
    Identity,
    Kind,
    Message,
    encode_message,
    expect_body,
)
from tapestry.protocol.stages import RoundStage
from tapestry.tlog.checkpoint import Checkpoint
from tapestry_coordinator import round_plan
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.round_events import ContributionRefused, RoundOpened
from tapestry_governance.log.writer import Log
from tests.scenarios.conftest import Found
from tests.support.federation import (
    NAMES,
    Base,
    Deliver,
    Federation,
    changed,
    lost,
)
from tests.support.message_samples import sample_bodies
from tests.support.refusals import refused
from tests.support.replicas import replica_of
from tests.support.settings_files import NO_ADAPTER_NOISE

QUOTE = "mvua usiku"  # what an error of the trainer might quote


def reason_in(reply: Message) -> str:
    """Take a refusal apart; anything in it but the code fails the test."""
    assert reply.kind is Kind.REFUSAL
    body = decode_json(reply.body)
    assert reply.body == canonical_json({"reason": body["reason"]})
    assert len(reply.attachments) <= 1
    for entry in reply.attachments:
        event = open_entry(bytes(entry)).event
        assert isinstance(event.body, ContributionRefused)
        assert event.body.reason.value == body["reason"]
    assert QUOTE.encode() not in b"".join([reply.body, *map(bytes, reply.attachments)])
    return str(body["reason"])


def offered(federation: Federation) -> dict[str, str]:
    """Run until the offers are out; what each node said to the last one."""
    federation.run_until_killed(lambda _name, message: message.kind is Kind.SHARE_KEYS)
    said = {}
    for exchange in federation.wire.replies(Kind.ADVERTISE_KEYS):
        reply = exchange.reply
        assert reply is not None
        joins = reply.kind is Kind.ADVERTISED_KEYS
        said[exchange.node] = "joins" if joins else reason_in(reply)
    return said


def joined_but(reason: str) -> dict[str, str]:
    return {name: reason if name == "fr" else "joins" for name in NAMES}


def checkpoint_of(federation: Federation) -> bytes:
    with Log.open(federation.coordinator / "log", key=federation.log_key()) as log:
        note = log.latest()
    assert note is not None
    return note


def offer(note: bytes) -> Message:
    body = canonical_json({"checkpoint": note.decode()})
    return Message(kind=Kind.ADVERTISE_KEYS, body=body)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"min_cohort": 4}, "local_policy"),
        ({"max_colluding": 2}, "local_policy"),
        ({"noise": ["none"]}, "local_policy"),
        ({"parameterizations": ["full"]}, "local_policy"),
        ({"bases": ["sha256:" + "0" * 64]}, "local_policy"),
        ({"target_delta": "0.000001"}, "local_policy"),
        ({"epsilon_limit": "0.001"}, "budget_exhausted"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_stricter_policy_refuses_and_the_others_go_on(
    found: Found, policy: dict[str, Any], reason: str
) -> None:
    federation = found(institutions={"fr": {"policy": policy}})
    assert offered(federation) == joined_but(reason)
    assert federation.refusals() == {"fr": reason}


def test_more_steps_than_the_policy_allows_are_refused(found: Found) -> None:
    federation = found(
        coordinator={"training": {"steps": 3}},
        institutions={"fr": {"policy": {"max_steps": 2}}},
    )
    assert offered(federation) == joined_but("local_policy")


def test_a_round_goes_on_without_a_node_that_refuses(found: Found) -> None:
    federation = found(institutions={"fr": {"policy": {"epsilon_limit": "0.001"}}})
    federation.run()
    (closed,) = federation.closed()
    assert [(d.name, d.stage) for d in closed.dropped] == [
        ("fr", RoundStage.ADVERTISE_KEYS)
    ]
    assert federation.refusals() == {"fr": "budget_exhausted"}
    assert federation.nodes["fr"].ledger.rows() == []
    assert federation.digests()["fr"] == closed.base_after


@pytest.mark.slow
def test_the_budget_ends_a_run_and_not_a_step_later(found: Found) -> None:
    """Some rounds fit; for the next one every node says so."""
    federation = found(
        coordinator={"rounds": 5},
        institution={"policy": {"epsilon_limit": "4"}},
    )
    with pytest.raises(PolicyError, match="the run ends: "):
        federation.run()
    assert set(federation.refusals().values()) == {"budget_exhausted"}
    fit = len(federation.closed())
    assert 1 <= fit < 5
    for node in federation.nodes.values():
        assert node.ledger.balance().spent <= 4
        assert [row.state for row in node.ledger.rows()] == ["spent"] * fit


def test_nodes_with_other_software_wait_for_their_upgrade(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No round is opened without enough nodes that run what it names."""
    other = "sha256:" + "1" * 64
    federation = found()
    with monkeypatch.context() as patch:
        patch.setattr(round_plan, "software_digest", lambda: other)
        with refused(QuorumError, "nodes-too-few", match="install the same release"):
            federation.run()
    assert federation.said(RoundOpened) == []
    federation.run()
    (closed,) = federation.closed()
    assert closed.included == NAMES


def test_a_round_is_not_offered_to_a_node_with_other_software(found: Found) -> None:
    federation = found()

    def earlier(_name: str, request: Message, deliver: Deliver) -> Message | None:
        reply = deliver(request)
        body = expect_body(reply, Identity).model_copy(
            update={"software": "sha256:" + "1" * 64}
        )
        return encode_message(body)

    federation.wire.on("fr", Kind.HELLO, earlier, times=20)
    federation.run()
    (closed,) = federation.closed()
    assert closed.included == tuple(name for name in NAMES if name != "fr")
    assert closed.dropped == ()
    assert federation.refusals() == {}


def test_chosen_low_rank_factors_are_refused(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_plan, "round_seed", lambda *_, **__: "ab" * 32)
    federation = found()
    with refused(QuorumError, "rounds-failed"):
        federation.run()
    assert set(federation.refusals().values()) == {"local_policy"}


def test_a_round_from_another_base_is_refused(found: Found, base: Base) -> None:
    values = dict(base.replica.parameters)
    name = min(values)
    values[name] = values[name] + np.float32(1)
    federation = found()
    federation.kill("fr")
    own = federation.base
    federation.base = dataclasses.replace(own, replica=replica_of(values))
    federation.start("fr")
    federation.base = own
    assert offered(federation) == joined_but("base_mismatch")


def test_a_node_whose_records_are_not_declared_does_not_join(found: Found) -> None:
    federation = found()
    handler = federation.wire.handlers["fr"]

    def without_petitions(request: Message) -> Message:
        reply = handler(request)
        if reply.kind is Kind.COSIGNATURE:
            return dataclasses.replace(reply, attachments=())
        return reply

    federation.wire.handlers["fr"] = without_petitions
    assert offered(federation) == joined_but("maintenance")


def test_a_round_that_is_not_in_the_log_is_refused(found: Found) -> None:
    federation = found()
    federation.run()
    note = checkpoint_of(federation)
    assert reason_in(federation.nodes["fr"].handle(offer(note))) == "not_in_log"


@pytest.mark.parametrize(
    "kind",
    [Kind.SHARE_KEYS, Kind.COLLECT_MASKED_INPUTS, Kind.CHECK_CONSISTENCY, Kind.UNMASK],
    ids=str,
)
def test_without_an_offer_there_is_no_round(found: Found, kind: Kind) -> None:
    node = found().nodes["fr"]
    request = encode_message(sample_bodies()[kind])
    assert reason_in(node.handle(request)) == "unknown_round"


@pytest.mark.parametrize("kind", list(Kind), ids=str)
@pytest.mark.parametrize(
    "body",
    [b"{}", b"", b"[]", b'{"checkpoint":1,"start":-1}', b'{"checkpoint":"x"}', b"\xff"],
    ids=["empty", "nothing", "list", "numbers", "text", "bytes"],
)
def test_a_malformed_request_gets_a_reason_code_alone(
    mute: Federation, kind: Kind, body: bytes
) -> None:
    reply = mute.nodes["fr"].handle(Message(kind=kind, body=body))
    assert reason_in(reply) == "protocol"


REPLIES = {
    *(Kind.IDENTITY, Kind.COSIGNATURE, Kind.ADVERTISED_KEYS, Kind.SHARED_KEYS),
    *(Kind.MASKED_INPUT, Kind.CONSENT, Kind.UNMASKING_SHARES, Kind.RECEIPT),
    *(Kind.PUBLICATION, Kind.REFUSAL),
}


@pytest.mark.parametrize("kind", sorted(REPLIES), ids=str)
def test_a_node_answers_no_kind_that_is_a_reply(
    mute: Federation, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    reply = mute.nodes["fr"].handle(encode_message(sample_bodies()[kind]))
    assert reason_in(reply) == "protocol"
    assert "is no request" in caplog.text


@pytest.fixture(scope="module")
def mute(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A federation for tests that change nothing."""
    return Federation(tmp_path_factory.mktemp("mute") / "federation", base)


def opened(federation: Federation) -> list[bytes]:
    """Run until the round is open at all nodes; the checkpoints they accepted."""
    federation.run_until_killed(lambda _name, message: message.kind is Kind.SHARE_KEYS)
    return [
        str(decode_json(e.request.body)["checkpoint"]).encode()
        for e in federation.wire.log
        if e.request.kind is Kind.COSIGN and e.node == "fr"
    ]


def test_an_older_checkpoint_is_refused_and_kept_as_evidence(found: Found) -> None:
    federation = found()
    federation.run()
    first = federation.wire.replies(Kind.ADVERTISE_KEYS)[0].request
    node = federation.nodes["fr"]
    assert reason_in(node.handle(first)) == "inconsistent_view"
    assert "rollback" in node.mirror.evidence()[-1].reason


def test_a_checkpoint_without_a_quorum_is_refused(found: Found) -> None:
    federation = found()
    opened(federation)
    note = checkpoint_of(federation)
    text, _, signatures = note.partition(b"\n\n")
    lines = signatures.splitlines(keepends=True)
    assert len(lines) == 1 + len(NAMES)
    bare = text + b"\n\n" + b"".join(lines[:2])
    assert reason_in(federation.nodes["fr"].handle(offer(bare))) == "quorum_missing"


def test_an_unsigned_checkpoint_is_refused(found: Found) -> None:
    federation = found()
    opened(federation)
    note = checkpoint_of(federation)
    text, _, signatures = note.partition(b"\n\n")
    lines = signatures.splitlines(keepends=True)
    bare = text + b"\n\n" + b"".join(lines[1:])
    reason = reason_in(federation.nodes["fr"].handle(offer(bare)))
    assert reason in {"not_in_log", "protocol"}


@pytest.mark.parametrize("hours", [25, -1])
def test_a_checkpoint_that_is_old_or_from_the_future_is_refused(
    found: Found, hours: int
) -> None:
    federation = found()
    opened(federation)
    federation.now = timedelta(hours=hours)
    note = checkpoint_of(federation)
    reply = federation.nodes["fr"].handle(offer(note))
    assert reason_in(reply) == "stale_checkpoint"


def test_an_institution_may_want_fresher_checkpoints_than_the_others(
    found: Found,
) -> None:
    federation = found(institutions={"fr": {"policy": {"max_checkpoint_age": 60}}})
    opened(federation)
    federation.now = timedelta(minutes=2)
    note = checkpoint_of(federation)
    reply = federation.nodes["fr"].handle(offer(note))
    assert reason_in(reply) == "stale_checkpoint"
    assert federation.nodes["id"].handle(offer(note)).kind is Kind.ADVERTISED_KEYS


def _update_of(federation: Federation) -> Message:
    """The last update of the log that a node was asked to cosign."""
    sent = [e.request for e in federation.wire.log if e.request.kind is Kind.COSIGN]
    return sent[-1]


def test_a_log_that_was_rolled_back_gets_no_cosignature(found: Found) -> None:
    federation = found()
    federation.run()
    first = federation.wire.replies(Kind.COSIGN)[0].request
    node = federation.nodes["fi"]
    assert reason_in(node.handle(first)) == "inconsistent_view"
    assert "rollback" in node.mirror.evidence()[-1].reason


def test_a_forked_log_gets_no_cosignature(found: Found) -> None:
    """The log's own key signs another log of the same size."""
    federation = found()
    federation.run()
    entries = federation.entries()
    last = _update_of(federation)
    other = Checkpoint(
        origin=federation.log_key().name, size=len(entries), root=bytes(32)
    )
    body = decode_json(last.body) | {
        "checkpoint": other.sign(federation.log_key()).decode(),
        "start": 0,
    }
    request = Message(kind=Kind.COSIGN, body=canonical_json(body), attachments=entries)
    node = federation.nodes["fr"]
    assert reason_in(node.handle(request)) == "inconsistent_view"
    assert "fork" in node.mirror.evidence()[-1].reason


def test_an_entry_that_breaks_a_rule_gets_no_cosignature(found: Found) -> None:
    """A coordinator logs a round of a stranger's: nobody vouches for that log."""
    federation = found()
    federation.wire.on(
        "fr",
        Kind.COSIGN,
        changed(
            lambda m: dataclasses.replace(m, attachments=[*m.attachments[:-1], b"{}"])
        ),
    )
    federation.run_until_killed(lambda _name, message: message.kind is Kind.SHARE_KEYS)
    refused = [
        reason_in(e.reply)
        for e in federation.wire.replies(Kind.COSIGN)
        if e.node == "fr" and e.reply and e.reply.kind is Kind.REFUSAL
    ]
    assert refused == ["inconsistent_view"]


def test_a_lost_update_of_the_log_means_no_round_for_that_node(found: Found) -> None:
    federation = found()
    federation.wire.on("fr", Kind.COSIGN, lost, times=9)
    said = offered(federation)
    assert said == joined_but("protocol") or said["fr"] in {"not_in_log", "maintenance"}


def test_an_exception_in_training_leaves_as_a_code(
    found: Found, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    federation = found()

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"cannot train on {QUOTE!r}")

    monkeypatch.setitem(vars(federation.nodes["fr"].trainer), "update", fail)
    federation.run()
    (closed,) = federation.closed()
    assert [(d.name, d.stage) for d in closed.dropped] == [
        ("fr", RoundStage.COLLECT_MASKED_INPUTS)
    ]
    reasons = [
        reason_in(e.reply)
        for e in federation.wire.log
        if e.reply is not None and e.reply.kind is Kind.REFUSAL
    ]
    assert reasons == ["internal"]
    assert QUOTE not in json.dumps(federation.events)
    assert QUOTE not in caplog.text  # nor on the node's own machine, unless asked for
    assert "internal error: RuntimeError in tapestry_node.round.session:" in caplog.text


@pytest.mark.slow
def test_an_adapter_is_the_institutions_own_decision(found: Found) -> None:
    federation = found(
        coordinator={"adapters": True},
        institutions={
            "fr": {"adapter": {"publish": False}},
            "id": {"adapter": {"epsilon": "19.9"}, "policy": {"epsilon_limit": "2"}},
            "sw": {"adapter": NO_ADAPTER_NOISE},
        },
    )
    federation.run()
    reasons = {
        e.node: reason_in(e.reply)
        for e in federation.wire.replies(Kind.PUBLISH_ADAPTER)
        if e.reply is not None and e.reply.kind is Kind.REFUSAL
    }
    assert reasons == {
        "fr": "local_policy",
        "id": "budget_exhausted",
        "sw": "local_policy",
    }
    adapters = sorted(p.name for p in (federation.coordinator / "adapters").iterdir())
    assert adapters == ["fi"]
