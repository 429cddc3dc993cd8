"""Grids: the order of replies, the deadline, and malformed replies."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tapestry.protocol.messages import BODY_LIMIT, Kind, Message
from tapestry_coordinator import grid as grid_module
from tapestry_coordinator.grid import LocalGrid, ValidatingGrid

HELLO = Message(kind=Kind.HELLO)


def test_nodes_answer_in_order_of_name_each_its_own_request() -> None:
    grid = LocalGrid({name: lambda message: message for name in ("b", "a", "c")})
    requests = {
        name: Message(kind=Kind.HELLO, body=name.encode()) for name in ("c", "a", "b")
    }
    replies = list(grid.exchange(requests, deadline=5))
    assert [name for name, _ in replies] == ["a", "b", "c"]
    assert [message.body for _, message in replies] == [b"a", b"b", b"c"]
    assert grid.nodes() == ["a", "b", "c"]


def test_only_nodes_with_a_request_are_called() -> None:
    called = []

    def handle(message: Message) -> Message:
        called.append(message)
        return message

    grid = LocalGrid({"a": handle, "b": handle})
    assert [n for n, _ in grid.exchange({"b": HELLO, "z": HELLO}, deadline=5)] == ["b"]
    assert len(called) == 1


def test_no_node_is_called_past_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Message] = []
    clock = SimpleNamespace(monotonic=lambda: 0.05 * len(called))
    monkeypatch.setattr(grid_module, "time", clock)

    def slow(message: Message) -> Message:
        called.append(message)
        return message

    grid = LocalGrid(dict.fromkeys("abc", slow))
    replies = list(grid.exchange(dict.fromkeys("abc", HELLO), deadline=0.02))
    assert [name for name, _ in replies] == ["a"]
    assert len(called) == 1


def test_replies_come_one_by_one() -> None:
    """The next node is asked only when the last reply was taken."""
    called = []

    def handle(message: Message) -> Message:
        called.append(message)
        return message

    grid = LocalGrid(dict.fromkeys("ab", handle))
    replies = grid.exchange(dict.fromkeys("ab", HELLO), deadline=5)
    next(replies)
    assert len(called) == 1


def _said(**changes: Any) -> Message:
    return Message(kind=changes.pop("kind", Kind.IDENTITY), **changes)


BODIES: list[Any] = [None, "{}", 7, {}, b" " * (BODY_LIMIT + 1)]
LISTS: list[Any] = [None, b"x", "x", 7, {}, [None], ["x"], [7], [[b"x"]]]
STRANGE: list[Any] = [
    *(None, "identity", 7, (Kind.HELLO, b"{}", ())),
    _said(kind="identity"),
    *(_said(body=body) for body in BODIES),
    *(_said(attachments=items) for items in LISTS),
    _said(attachments=[memoryview(b"abcd")[::2]]),
]


@pytest.mark.parametrize("reply", STRANGE, ids=map(str, range(len(STRANGE))))
def test_a_malformed_reply_is_discarded(
    reply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    grid = ValidatingGrid(
        LocalGrid({"a": lambda _: reply, "b": lambda message: message})
    )
    replies = list(grid.exchange(dict.fromkeys("ab", HELLO), deadline=5))
    assert replies == [("b", HELLO)]
    (line,) = caplog.messages
    assert line.startswith("discarding reply of node a: ")


def test_a_reply_that_was_not_asked_for_or_a_second_one_is_discarded() -> None:
    class Chatty:
        def nodes(self) -> list[str]:
            return ["a", "b"]

        def exchange(self, *_: Any, **__: Any) -> Iterator[tuple[str, Message]]:
            yield from [("a", HELLO), ("b", HELLO), ("a", HELLO), ("c", HELLO)]

    grid = ValidatingGrid(Chatty())
    assert grid.nodes() == ["a", "b"]
    assert [n for n, _ in grid.exchange({"a": HELLO}, deadline=5)] == ["a"]


def test_proper_replies_pass_unchanged() -> None:
    reply = Message(
        kind=Kind.MASKED_INPUT, body=b"", attachments=[b"", memoryview(b"xy"), b"\xff"]
    )
    grid = ValidatingGrid(LocalGrid({"a": lambda _: reply}))
    assert [r is reply for _, r in grid.exchange({"a": HELLO}, deadline=5)] == [True]
