"""Collection of the adapters that institutions choose to publish on a release."""

import logging
from collections.abc import Collection, Sequence

from tapestry.errors import ResourceError, TapestryError
from tapestry.protocol.messages import PublishAdapterRequest, encode_message
from tapestry_coordinator.adapter_shelf import keep_adapter
from tapestry_coordinator.run_context import RunContext

_logger = logging.getLogger(__name__)


def collect_adapters(
    run: RunContext, here: Sequence[str], *, asked: Collection[str]
) -> None:
    """Announce the last release to nodes, and keep the adapters they publish.

    Args:
        run: The run that gave the release.
        here: The nodes that cosign what the adapters stand on.
        asked: Those of them that it is announced to.

    Raises:
        QuorumError: Fewer cosign than the trust policy asks for.
    """
    state = run.publisher.state
    latest = state.released.last
    if latest is None:
        return
    checkpoint = run.publisher.publish(here).decode()
    request = encode_message(
        PublishAdapterRequest(name=latest.name, checkpoint=checkpoint)
    )
    own = {name for name, owner in state.publishers.items() if name == owner}
    done = {*own, *state.left}  # under its own name a member publishes at a run's end
    present = [name for name in here if name in asked and name not in done]
    waited = run.settings.deadlines.publish_adapter
    for node, reply in run.grid.exchange(
        dict.fromkeys(present, request), deadline=waited
    ):
        try:
            adapter = keep_adapter(run, node, reply)
        except ResourceError:
            raise
        except TapestryError as error:
            _logger.warning("going on without an adapter of node %s: %s", node, error)
        else:
            run.notify({"stage": "adapter", "node": node, "text": adapter})
