"""The coordinator gets the adapters that an operator handed in, and no others."""

import pytest

from tapestry.protocol.messages import (
    Kind,
    Message,
    PublishAdapterRequest,
    decode_body,
    encode_message,
)
from tapestry_node.adapters.adapter_requests import may_have_trained
from tests.support.federation import Federation
from tests.support.operated_adapters import CARE, LAW, adapter, folder_of, trained

pytestmark = pytest.mark.slow


def requested(federation: Federation, name: str) -> Message:
    node = federation.nodes["fr"]
    accepted = node.mirror.accepted
    assert accepted is not None
    note = accepted.note.decode()
    return node.handle(
        encode_message(PublishAdapterRequest(name=name, checkpoint=note))
    )


def code(federation: Federation) -> str:
    refusal = federation.nodes["fr"].refused
    assert refusal is not None
    return refusal.code


def test_only_what_the_operator_published_is_handed_out(settled: Federation) -> None:
    trained(settled, LAW)
    for name in (LAW, CARE, "id"):
        assert requested(settled, name).kind is Kind.REFUSAL
        assert code(settled) == "adapter-not-offered"
    adapter(settled, "publish", LAW)
    reply = requested(settled, LAW)
    assert reply.kind is Kind.PUBLICATION
    assert bytes(reply.attachments[1]) in settled.nodes["fr"].store.outbox()
    assert "README.md" in decode_body(reply).model_dump()["files"]
    assert requested(settled, CARE).kind is Kind.REFUSAL


def test_another_entry_in_the_place_of_the_published_one_is_not_handed_out(
    settled: Federation,
) -> None:
    trained(settled, LAW)
    adapter(settled, "publish", LAW)
    path = folder_of(settled) / "adapters" / f"{LAW}-1" / "tapestry"
    (path / "published.entry").write_bytes((path / "accounted.entry").read_bytes())
    assert requested(settled, LAW).kind is Kind.REFUSAL
    assert code(settled) == "adapter-not-offered"


def test_at_the_end_of_a_run_nothing_is_trained_that_node_toml_does_not_offer(
    settled: Federation,
) -> None:
    assert requested(settled, "base-2").kind is Kind.REFUSAL
    assert code(settled) == "adapter-not-offered"
    assert requested(settled, "base-1").kind is Kind.REFUSAL
    assert code(settled) == "base-differs"


def test_a_node_that_forgot_counts_all_adapters_that_its_folder_knows(
    settled: Federation,
) -> None:
    trained(settled, LAW)
    (folder_of(settled) / "adapters" / f"{LAW}.toml").unlink()
    found = [each.adapter.name for each in may_have_trained(settled.nodes["fr"])]
    assert found == [CARE, LAW]
