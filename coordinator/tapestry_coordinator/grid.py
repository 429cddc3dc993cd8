"""Transports to nodes: one request to each, replies in the order of arrival.

``LocalGrid`` calls node objects of this process, ``FlowerGrid`` (``flower.py``) goes
over a SuperLink. The names of both are those of connections. A run uses either through
``ValidatingGrid`` and, above it, ``AuthenticatedGrid``, whose names are the members'.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from tapestry.protocol.messages import BODY_LIMIT, Kind, Message

_logger = logging.getLogger(__name__)
Handler = Callable[[Message], Message]


class Grid(Protocol):
    """Nodes that answer requests."""

    def nodes(self) -> list[str]:
        """Return the names of the nodes that are reachable now, in order."""
        ...

    def exchange(
        self, requests: Mapping[str, Message], *, deadline: float
    ) -> Iterator[tuple[str, Message]]:
        """Send each node its request and yield replies as they arrive.

        Ends when all have answered or ``deadline`` seconds have passed. A node that
        fails or stays silent yields nothing.
        """
        ...


class LocalGrid:
    """Nodes in this process, called one after another in order of name."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self.handlers = dict(handlers)

    def nodes(self) -> list[str]:
        """Return the names of all nodes, in order."""
        return sorted(self.handlers)

    def exchange(
        self, requests: Mapping[str, Message], *, deadline: float
    ) -> Iterator[tuple[str, Message]]:
        """Call each handler in turn; those past the deadline are not called."""
        end = time.monotonic() + deadline
        for name in sorted(requests):
            if time.monotonic() > end:
                return
            if name in self.handlers:
                yield name, self.handlers[name](requests[name])


class ValidatingGrid:
    """A grid that drops malformed replies, as if their node had been silent.

    Guarantees:
        ``exchange`` yields messages with a kind, a body of bytes within the limit and
        attachments of bytes; at most one for each node that was asked. Any other
        reply is logged with the node's name and the rule, and dropped.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def nodes(self) -> list[str]:
        """Return the names of the nodes that are reachable now, in order."""
        return self._grid.nodes()

    def exchange(
        self, requests: Mapping[str, Message], *, deadline: float
    ) -> Iterator[tuple[str, Message]]:
        """Send each node its request and yield valid replies as they arrive."""
        asked = set(requests)
        for name, reply in self._grid.exchange(requests, deadline=deadline):
            fault = "it was not asked for, or is its second one"
            if name not in asked or (fault := _find_fault(reply)):
                _logger.warning("discarding reply of node %s: %s", name, fault)
            else:
                asked.remove(name)
                yield name, reply


def _find_fault(reply: Any) -> str:
    if not isinstance(reply, Message) or type(reply.kind) is not Kind:
        return "it is no message of a known kind"
    if type(reply.body) is not bytes or len(reply.body) > BODY_LIMIT:
        return f"its body is not bytes, or over {BODY_LIMIT} bytes"
    if type(reply.attachments) not in (list, tuple):
        return f"its attachments are a {type(reply.attachments).__name__}, not a list"
    items: Sequence[Any] = reply.attachments
    for item in items:
        if not isinstance(item, bytes | memoryview) or not memoryview(item).contiguous:
            return f"an attachment is a {type(item).__name__}, not contiguous bytes"
    return ""
