"""A monitor sees what a coordinator withholds of what members submit."""

from pathlib import Path

import pytest

from tapestry.metrics_page import render
from tapestry.protocol.messages import Kind, Message
from tapestry.tlog.checkpoint import read_claim
from tapestry_coordinator.coordinator_metrics import CoordinatorMetrics
from tapestry_coordinator.run_status import read_status
from tapestry_governance.audit.verify import AuditStep, AuditVerdict
from tapestry_governance.events.privacy_events import DataDeclared
from tapestry_governance.log.outbox_heads import FILE, OVERDUE, read_heads
from tapestry_node.node_metrics import NodeMetrics
from tests.node.test_node_metrics import values
from tests.scenarios.conftest import Found
from tests.support.federation import Deliver, Federation


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
