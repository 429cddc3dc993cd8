"""Processes that die at a call, in tests that play all parties in one process."""

from contextlib import suppress
from typing import Any

import pytest

from tapestry.protocol.messages import Kind, Message
from tests.support.federation import Deliver, Federation, Killed


def dies(
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    *,
    after: bool,
    call: int = 1,
) -> None:
    """Let the process die once, before or after the so many-th call of a function."""
    original, calls = getattr(owner, name), iter(range(1, 100))

    def once(*arguments: Any, **rest: Any) -> Any:
        if next(calls) != call:
            return original(*arguments, **rest)
        monkeypatch.setattr(owner, name, original)
        if after:
            original(*arguments, **rest)
        raise Killed

    monkeypatch.setattr(owner, name, once)


def node_dies(
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    node: str,
    place: tuple[object, str, int],
    *,
    after: bool,
) -> None:
    """Let a node die while it publishes an adapter, and start it again.

    ``place`` is an owner, the name of its function, and which call of it.
    """

    def deliver_and_die(name: str, request: Message, deliver: Deliver) -> None:
        owner, called, call = place
        dies(monkeypatch, owner, called, after=after, call=call)
        with suppress(Killed):
            deliver(request)
            raise AssertionError("the node was not killed")
        federation.restart(name)

    federation.wire.on(node, Kind.PUBLISH_ADAPTER, deliver_and_die)
