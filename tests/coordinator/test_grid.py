"""The grid of one process: in order of name, and never past the deadline."""

import time

from tapestry.protocol import Kind, Message
from tapestry_coordinator.grid import LocalGrid

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


def test_only_those_who_are_asked_are_called() -> None:
    called = []

    def handle(message: Message) -> Message:
        called.append(message)
        return message

    grid = LocalGrid({"a": handle, "b": handle})
    assert [n for n, _ in grid.exchange({"b": HELLO, "z": HELLO}, deadline=5)] == ["b"]
    assert len(called) == 1


def test_nobody_is_called_past_the_deadline() -> None:
    called = []

    def slow(message: Message) -> Message:
        called.append(message)
        time.sleep(0.05)
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
