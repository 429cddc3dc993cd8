"""Continuations of one request: pieces, ends, faults, and clients that go away."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tapestry.errors import ConfigError, TapestryError
from tapestry.workloads.language.base_models import byte_tokenizer
from tapestry_serve import completions
from tapestry_serve.completions import Continuations
from tapestry_serve.engine import BusyError, Finished, Job, ScoredToken, Tell

JOB = Job(model="base", prompt=(1,), max_tokens=9, ends=frozenset())
TOKENIZER = byte_tokenizer()


class Ticket:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Scripted:
    """An engine that tells what it was given, at once."""

    kind, positions = "scripted", 100

    def __init__(self, *events: Sequence[Any]) -> None:
        self._events = list(events)
        self.tickets: list[Ticket] = []

    def submit(self, _: Job, tell: Tell) -> Ticket:
        if not self._events:
            raise BusyError("full", code="queue-full")
        for event in self._events.pop(0):
            tell(event)
        self.tickets.append(Ticket())
        return self.tickets[-1]

    def score(self, *_: Any, **__: Any) -> list[ScoredToken]:
        raise AssertionError

    def close(self) -> None: ...


def told(text: str, end: Finished | None = None) -> list[Any]:
    row = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return [*(ScoredToken(token=t, logprob=-1.0) for t in row), end or DONE]


DONE = Finished(reason="length")


def choices(engine: Scripted, count: int = 1, *stops: str) -> Any:
    async def wait() -> Any:
        async with Continuations(engine, TOKENIZER, [JOB] * count, stops) as found:
            return await found.choices()

    return asyncio.run(wait())


def test_answers_are_put_together_by_their_place() -> None:
    found = choices(Scripted(told("one"), told("two")), 2)
    assert [(each.index, each.text, each.reason) for each in found] == [
        (0, "one", "length"),
        (1, "two", "length"),
    ]
    assert [len(each.tokens) for each in found] == [3, 3]


def test_a_stop_text_cancels_the_rest_and_what_comes_later_is_dropped() -> None:
    engine = Scripted(told("one STOP two"), told("three"))
    found = choices(engine, 2, "STOP")
    assert [(each.text, each.reason) for each in found] == [
        ("one ", "stop"),
        ("three", "length"),
    ]
    assert engine.tickets[0].cancelled


def test_a_fault_of_the_engine_is_raised_and_all_is_cancelled() -> None:
    fault = Finished(reason="stop", fault=TapestryError("x", code="engine-failed"))
    engine = Scripted(told("on", fault), [])
    with pytest.raises(TapestryError) as caught:
        choices(engine, 2)
    assert caught.value.code == "engine-failed"
    assert all(ticket.cancelled for ticket in engine.tickets)


def test_a_queue_that_takes_one_of_two_runs_neither() -> None:
    engine = Scripted(told("one"))
    with pytest.raises(BusyError):
        choices(engine, 2)
    assert engine.tickets[0].cancelled


def test_an_answer_that_takes_too_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "SECONDS", 0.01)
    engine = Scripted([])
    with pytest.raises(TimeoutError):
        choices(engine)
    assert engine.tickets[0].cancelled


def test_leaving_in_the_middle_cancels_every_job() -> None:
    engine = Scripted(told("one")[:-1], [])

    async def leave() -> None:
        async with Continuations(engine, TOKENIZER, [JOB] * 2, ()) as found:
            assert found.count == 2
            async for _ in found.pieces():
                raise ConfigError("gone", code="client-gone")

    with pytest.raises(ConfigError):
        asyncio.run(leave())
    assert all(ticket.cancelled for ticket in engine.tickets)
