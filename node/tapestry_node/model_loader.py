"""The moment at which a running node builds its model: soon after its first answer.

A node answers at once who it is and what it has. Before the first round there is time
enough for the model, and a request that needs it sooner waits for it.

Guarantees:
    A base that gives no model ends the node with the reason. Until then whatever needs
    the model is refused.
"""

import threading
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tapestry.protocol.messages import Message
from tapestry.workloads.deferred_workload import DeferredWorkload

if TYPE_CHECKING:
    from tapestry_node.flower import Handler

_SOON = 15.0  # seconds after the first request; by then a round has begun, or none does
_LATEST = 60.0  # seconds after the start; a base at fault is known by then
_PATIENCE = 10.0  # seconds for a model that is being built when the node ends


def set_threads(count: int) -> None:
    """Let torch compute with so many threads."""
    import torch

    torch.set_num_threads(count)


class ModelLoader:
    """Builds a node's model in a thread of its own."""

    def __init__(self, workload: DeferredWorkload, *, stop: threading.Event) -> None:
        """Take the workload, and what ends the node; used as a block around its work.

        Raises:
            ConfigError, ResourceError: The base gives no model; at the block's ends.
        """
        self._workload, self._stop = workload, stop
        self._asked, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._load, daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._require()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the thread, and raise what kept the model from being built."""
        self._ended.set()
        self._asked.set()
        self._thread.join(_PATIENCE)
        if error is None:
            self._require()

    def watching(self, handle: "Handler") -> "Handler":
        """Return a handler that notes requests, and ends a node without a model."""

        def answer(message: Message, connection: str) -> Message:
            try:
                return handle(message, connection)
            finally:
                self._asked.set()
                if self._workload.fault is not None:
                    self._stop.set()

        return answer

    def _load(self) -> None:
        self._asked.wait(_LATEST)
        if self._ended.wait(_SOON):
            return
        with suppress(Exception):  # raised where the block ends
            self._workload.model()
            return
        self._stop.set()

    def _require(self) -> None:
        if self._workload.fault is not None:
            raise self._workload.fault
