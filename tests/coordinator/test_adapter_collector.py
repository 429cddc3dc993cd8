"""At the end of a run members are asked for the adapter under their own name."""

import pytest

from tapestry.protocol.messages import Kind
from tapestry_governance.events.model_events import AdapterPublished
from tapestry_node.settings import NodeSettings
from tests.support.federation import NAMES, Federation
from tests.support.operated_adapters import (
    LAW,
    adapter,
    exchange,
    folder_of,
    trained,
)
from tests.support.settings_files import change_settings


@pytest.mark.slow
def test_one_that_published_another_adapter_is_asked_for_its_own(
    settled: Federation,
) -> None:
    trained(settled, LAW)
    adapter(settled, "publish", LAW)
    exchange(settled)
    path = folder_of(settled) / "node.toml"
    change_settings(path, NodeSettings, {"adapter": {"publish": True}})
    settled.restart("fr")
    settled.begin_another_run("second", rounds=1, adapters=True)
    settled.wire.log.clear()
    settled.run()
    asked = [e for e in settled.wire.log if e.request.kind is Kind.PUBLISH_ADAPTER]
    assert {each.node for each in asked} == set(NAMES)
    names = [each.name for each in settled.said(AdapterPublished)]
    assert names == [LAW, "fr"]
    settled.begin_another_run("third", rounds=1, adapters=True)
    settled.wire.log.clear()
    settled.run()  # once is enough
    asked = [e for e in settled.wire.log if e.request.kind is Kind.PUBLISH_ADAPTER]
    assert "fr" not in {each.node for each in asked}
