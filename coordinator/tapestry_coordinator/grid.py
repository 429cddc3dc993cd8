"""How the coordinator reaches nodes: one request each, replies as they come.

Two grids exist: ``LocalGrid`` calls node objects of this process, ``FlowerGrid``
(in ``flower.py``) goes over a SuperLink. The round driver knows only ``Grid``, and
looks at it through ``ValidatingGrid``.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from tapestry.errors import ProtocolError
from tapestry.protocol.messages import BODY_LIMIT, Kind, Message

_logger = logging.getLogger(__name__)
Handler = Callable[[Message], Message]


class Grid(Protocol):
    """Nodes that answer requests."""

    def nodes(self) -> list[str]:
        """Name the nodes that are reachable now, in order of name."""
        ...

    def exchange(
        self, requests: Mapping[str, Message], *, deadline: float
    ) -> Iterator[tuple[str, Message]]:
        """Send each node its request and yield replies as they arrive.

        Ends when all have answered or ``deadline`` seconds have passed, whichever
        is first. A node that fails or stays silent yields nothing.
        """
        ...


class LocalGrid:
    """Nodes in this process, called one after another in order of name."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        """Take one handler per node."""
        self._handlers = dict(handlers)

    def nodes(self) -> list[str]:
        """Name all nodes."""
        return sorted(self._handlers)

    def exchange(
        self, requests: Mapping[str, Message], *, deadline: float
    ) -> Iterator[tuple[str, Message]]:
        """Call each handler in turn; those past the deadline are not called."""
        end = time.monotonic() + deadline
        for name in sorted(requests):
            if time.monotonic() > end:
                return
            if name in self._handlers:
                yield name, self._handlers[name](requests[name])


class ValidatingGrid:
    """A grid on which a node that sends no proper message was silent.

    Guarantees:
        What ``exchange`` yields is a message with a kind, a body of bytes within the
        limit and attachments of bytes; one for each node that was asked. Whatever
        else arrives is logged with the node's name and the rule, and left out.
    """

    def __init__(self, grid: Grid) -> None:
        """Take the grid to look at."""
        self._grid = grid

    def nodes(self) -> list[str]:
        """Name the nodes that are reachable now, in order of name."""
        return self._grid.nodes()

    def exchange(
        self, requests: Mapping[str, Message], *, deadline: float
    ) -> Iterator[tuple[str, Message]]:
        """Send each node its request and yield proper replies as they arrive."""
        asked = set(requests)
        for name, reply in self._grid.exchange(requests, deadline=deadline):
            try:
                _check_reply(reply, expected=name in asked)
            except ProtocolError as error:
                _logger.warning("%s is not heard: %s", name, error)
            else:
                asked.remove(name)
                yield name, reply


def _check_reply(reply: Any, *, expected: bool) -> None:
    if not expected:
        raise ProtocolError(
            "it was not asked, or has answered before", code="reply-unexpected"
        )
    if not isinstance(reply, Message) or type(reply.kind) is not Kind:
        raise ProtocolError("a reply that is no message", code="reply-malformed")
    if type(reply.body) is not bytes or len(reply.body) > BODY_LIMIT:
        raise ProtocolError(
            f"a body that is not up to {BODY_LIMIT} bytes", code="reply-malformed"
        )
    if type(reply.attachments) not in (list, tuple):
        raise ProtocolError("attachments that are no list", code="reply-malformed")
    items: Sequence[Any] = reply.attachments
    for item in items:
        if not isinstance(item, bytes | memoryview) or not memoryview(item).contiguous:
            raise ProtocolError(
                "an attachment that is no bytes", code="reply-malformed"
            )
