"""How the coordinator reaches nodes: one request each, replies as they come.

Two grids exist: ``LocalGrid`` calls node objects of this process, ``FlowerGrid``
(in ``flower.py``) goes over a SuperLink. The round driver knows only ``Grid``.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from tapestry.protocol import Message

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
