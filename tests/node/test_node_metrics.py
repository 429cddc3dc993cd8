"""A node's metrics: what they say, and that no record is among them."""

import re
from datetime import UTC, datetime

import pytest

from tapestry.errors import ResourceError
from tapestry.metrics_page import render
from tapestry.protocol.messages import Kind
from tapestry_node.node_metrics import NodeMetrics, monitored
from tapestry_node.status_file import StatusFile
from tests.support.federation import NAMES, RECORDS, sentences
from tests.support.federation_fixtures import Found
from tests.support.node_folders import TRANSPORT, change
from tests.tapestry.test_metrics_page import address, get

__all__ = ["address"]
NAME = "fr"
_SAMPLE = re.compile(r'([a-z_]+)(\{[a-z]+="[a-z_0-9-]+"\})? (-?[0-9.e+-]+)')


def values(text: str) -> dict[str, float]:
    """Read a page; each line has the form of a sample."""
    lines = [line for line in text.splitlines() if not line.startswith("# ")]
    found = [_SAMPLE.fullmatch(line) for line in lines]
    assert None not in found, lines
    return {f"{m[1]}{m[2] or ''}": float(m[3]) for m in found if m}


def test_the_metrics_of_a_run_are_those_of_ledger_and_log(
    found: Found, address: str
) -> None:
    federation = found(coordinator={"rounds": 2})
    node = federation.nodes[NAME]
    with monitored(node, address) as handle:
        federation.wire.handlers[NAME] = lambda message: handle(message, NAME)
        before = values(get(address)[2])
        assert before["tapestry_node_round"] == 0
        assert before["tapestry_node_connected"] == 0  # nothing was told yet
        assert "tapestry_node_checkpoint_age_seconds" not in before
        federation.run()
        text = get(address)[2]
        after = values(text)
    balance = node.ledger.balance()
    assert after["tapestry_node_budget_spent"] == pytest.approx(balance.spent)
    assert after["tapestry_node_budget_limit"] == balance.limit
    left = node.ledger.rounds_left(node.ledger.rows()[0].charge)
    assert after["tapestry_node_rounds_left"] == left
    assert 0 <= after["tapestry_node_checkpoint_age_seconds"] < 600
    limit = node.settings.policy.max_checkpoint_age
    assert after["tapestry_node_checkpoint_limit_seconds"] <= limit
    assert after["tapestry_node_log_entries"] == node.mirror.size
    sent = after['tapestry_node_bytes_sent_total{kind="masked_input"}']
    uploads = [r.bytes for r in node.store.receipts() if r.kind == "masked_input"]
    assert sent == sum(uploads)
    length = federation.nodes[NAME].mirror.state.newest
    assert length is not None
    assert after["tapestry_node_round_disk_bytes"] > 8 * length.length
    assert after["tapestry_node_disk_free_bytes"] > 0
    for name in ("disputes", "forks", "restored", "outbox_overdue"):
        assert after[f"tapestry_node_{name}"] == 0
    for record in sentences(NAME, RECORDS):
        assert record not in text


def test_refusals_are_counted_by_their_reason(found: Found) -> None:
    federation = found(
        institutions={NAME: {"policy": {"bases": ["sha256:" + 64 * "0"]}}}
    )
    metrics = NodeMetrics(federation.nodes[NAME])
    federation.wire.handlers[NAME] = lambda message: metrics.handle(message, NAME)
    federation.run()
    after = values(render(metrics.read()))
    assert after['tapestry_node_refusals_total{reason="local_policy"}'] >= 1
    assert any(key.startswith("tapestry_node_phase{") for key in after)


def test_disputes_forks_and_a_restoration_show(found: Found) -> None:
    federation = found()
    federation.run()
    node = federation.nodes[NAME]
    metrics = NodeMetrics(node)
    node.store.keep_spots("run", 7, chunks=[3])
    node.store.dispute_spot("run", 7, chunk=3)
    node.store.mark_restored(since=1)
    note = federation.wire.replies(Kind.COSIGN)[0].request
    metrics.handle(note, NAME)  # an older checkpoint: a rollback, kept as evidence
    after = values(render(metrics.read()))
    assert after["tapestry_node_disputes"] == 1
    assert after["tapestry_node_forks"] == 1
    assert after["tapestry_node_restored"] == 1


def test_the_certificate_of_the_authority_is_counted_in_days(found: Found) -> None:
    federation = found()
    node = federation.nodes[NAME]
    authority = federation.coordinator / "tls" / "authority.pem"
    (node.directory / "authority.pem").write_bytes(authority.read_bytes())
    change(node.directory, {"transport": TRANSPORT})
    node = federation.restart(NAME)
    after = values(render(NodeMetrics(node).read()))
    assert 7000 < after["tapestry_node_certificate_days"] < 7301


def test_a_node_is_connected_while_its_status_says_so(found: Found) -> None:
    node = found().nodes[NAME]
    metrics, told = NodeMetrics(node), StatusFile(node.directory)
    for cause, wanted in [
        (None, 1),
        (ResourceError("no SuperLink", code="superlink-unreachable"), 0),
        (None, 1),
    ]:
        told.connection(cause, datetime.now(UTC))
        assert values(render(metrics.read()))["tapestry_node_connected"] == wanted


def test_without_an_address_the_node_answers_itself(found: Found) -> None:
    node = found().nodes[NAMES[0]]
    with monitored(node, "") as handle:
        assert handle == node.handle
