"""A monitor sees what a coordinator withholds, and members get it into the log."""

from pathlib import Path

import pytest

from tapestry.encoding import encode_base64
from tapestry.metrics_page import render
from tapestry.protocol.messages import Kind, Message
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.merkle import leaf_hash
from tapestry_coordinator.coordinator_metrics import CoordinatorMetrics
from tapestry_coordinator.run_status import read_status
from tapestry_governance.audit.verify import AuditStep, AuditVerdict
from tapestry_governance.ballot_paper import cast, make_paper, open_paper
from tapestry_governance.events.member_events import PolicyChange
from tapestry_governance.events.privacy_events import DataDeclared
from tapestry_governance.log.outbox_heads import FILE, OVERDUE, read_heads
from tapestry_node.node_metrics import NodeMetrics
from tests.node.test_node_metrics import values
from tests.scenarios.conftest import Found
from tests.support.federation import NAMES, Deliver, Fault, Federation


def outbox_step(federation: Federation, name: str) -> AuditStep:
    """Write a bundle, and return what its audit says of outboxes."""
    federation.bundle(name)
    audit = federation.audit(name)
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1].detail
    (step,) = (each for each in audit.steps if each.name == "outbox")
    return step


def public(federation: Federation) -> Path:
    return federation.coordinator / "log" / "public"


def censored(_name: str, request: Message, deliver: Deliver) -> Message:
    """The coordinator takes the cosignature, and drops what came with it."""
    reply = deliver(request)
    return Message(kind=reply.kind, body=reply.body, attachments=[])


def test_heads_of_an_honest_coordinator_name_nothing_that_is_overdue(
    found: Found,
) -> None:
    federation = found(coordinator={"rounds": 2})
    federation.run()
    step = outbox_step(federation, "bundle")
    assert step.counts == {"heads": 4, "missing": 0, "withheld": 0, "stale": 0}
    size = read_claim((public(federation) / "checkpoint").read_bytes()).size
    for note in read_heads(public(federation)).values():
        assert f"\n{size}\n" in note.decode()
    assert read_status(federation.coordinator).overdue == ()


@pytest.mark.slow
def test_a_censoring_coordinator_is_seen_by_what_it_publishes(
    found: Found,
) -> None:
    """All four cosign; the log gets no declaration of ``id``, which submits it."""
    federation = found(coordinator={"rounds": 4}, policy={"min_cohort": 3})
    federation.wire.on("id", Kind.COSIGN, censored, times=99)
    federation.run()
    said = {e.actor for e in federation.logged() if isinstance(e.body, DataDeclared)}
    assert said == {"fi", "fr", "sw"}
    step = outbox_step(federation, "bundle")
    assert step.counts is not None
    assert step.counts["withheld"] == 1
    assert "OVERDUE: id submits an entry since entry" in step.detail
    (told,) = read_status(federation.coordinator).overdue
    metrics = CoordinatorMetrics(federation.coordinator).read()
    metrics += NodeMetrics(federation.nodes["id"]).read()
    shown = values(render(metrics))
    assert shown["tapestry_coordinator_outbox_overdue"] == 1
    assert shown["tapestry_node_outbox_overdue"] == 1
    assert told.startswith("id submits an entry since entry")


def without(entry: bytes) -> Fault:
    """The coordinator drops one entry wherever it comes from this connection."""

    def fault(_name: str, request: Message, deliver: Deliver) -> Message:
        reply = deliver(request)
        kept = [each for each in reply.attachments if bytes(each) != entry]
        return Message(kind=reply.kind, body=reply.body, attachments=kept)

    return fault


def vote_of(federation: Federation, name: str, index: int) -> bytes:
    """Sign a yes on an entry."""
    paper = open_paper(make_paper(federation.view(name), index))
    root, now = federation.root(name), federation.moment()
    return cast(paper, "yes", root=root, reasons=None, now=now)


@pytest.mark.slow
def test_a_deciding_vote_that_is_dropped_is_seen_and_decides_by_another_node(
    found: Found,
) -> None:  # [27]
    """Three of four decide; ``sw`` votes last, and its connection is censored."""
    federation = found(coordinator={"rounds": 4})
    federation.cosign()
    policy = federation.view("fr").state.policy
    after = policy.model_copy(update={"version": 2, "epsilon_cap": "0.25"})
    change = PolicyChange(kind="policy", policy=after)
    index = federation.decide(change, "fi", "fr")
    vote = vote_of(federation, "sw", index)
    federation.wire.on("sw", Kind.COSIGN, without(vote), times=99)
    federation.submit("sw", vote)
    federation.run()
    assert vote not in federation.entries()
    assert federation.nodes["sw"].store.outbox() == [vote]
    head = read_heads(public(federation))["sw"].decode()
    assert encode_base64(leaf_hash(vote)) in head
    step = outbox_step(federation, "withheld")
    assert step.counts is not None
    assert step.counts["withheld"] == 1
    assert "OVERDUE: sw submits an entry since entry" in step.detail
    assert federation.view("fi").state.policy == policy

    federation.submit("id", vote)
    federation.cosign()
    at = federation.entries().index(vote)
    states = [federation.view(name).state for name in NAMES]
    assert [s.ballots[index].decided for s in states] == [at] * 4
    assert [s.policy for s in states] == [after] * 4
    assert federation.nodes["sw"].store.outbox() == []
    later = outbox_step(federation, "decided").counts
    assert later is not None
    assert later["withheld"] == 0


@pytest.mark.slow
def test_a_coordinator_that_publishes_old_heads_or_none_is_seen(found: Found) -> None:
    federation = found(coordinator={"rounds": 4})
    federation.cosign()
    old = (public(federation) / FILE).read_bytes()
    federation.run()
    (public(federation) / FILE).write_bytes(old)
    step = outbox_step(federation, "rolled-back")
    assert step.counts is not None
    assert step.counts["stale"] == 4
    assert "the last head of fr is of entry" in step.detail
    (public(federation) / FILE).unlink()
    federation.bundle("none")
    audit = federation.audit("none")
    assert audit.verdict is AuditVerdict.HOLDS
    assert "4 heads of outboxes: fi, fr, id, sw" in audit.unchecked


def test_how_long_an_entry_waits_outlives_a_restart(
    found: Found,
) -> None:
    federation = found()
    federation.wire.on("id", Kind.COSIGN, censored, times=99)
    federation.cosign()
    first = read_heads(public(federation))["id"].decode().split("\n")[5]
    federation.restart("id")
    for _ in range(OVERDUE):
        federation.cosign()
    assert read_heads(public(federation))["id"].decode().split("\n")[5] == first
