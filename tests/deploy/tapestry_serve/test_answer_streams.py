"""Server-sent events: pieces, ends with lineage, and a fault in the middle."""

import asyncio
import json
from typing import Any

from tapestry.errors import TapestryError
from tapestry_serve.answer_shapes import Envelope
from tapestry_serve.answer_streams import AnswerStream, Comparison
from tapestry_serve.completions import Continuations
from tapestry_serve.engine import Finished
from tests.deploy.tapestry_serve.test_answer_shapes import DRAWING, MODEL
from tests.deploy.tapestry_serve.test_completions import (
    JOB,
    TOKENIZER,
    Scripted,
    told,
)

FAULT = Finished(reason="stop", fault=TapestryError("it broke", code="engine-failed"))


def envelope(kind: str) -> Envelope:
    return Envelope(model=MODEL, kind=kind, prompt=(1, 2), drawing=DRAWING)


def events(stream: AnswerStream | Comparison) -> list[Any]:
    async def read() -> bytes:
        parts = [part async for part in stream.response().body_iterator]
        return b"".join(bytes(part) for part in parts)  # type: ignore[arg-type]  # bytes each

    lines = asyncio.run(read()).decode().split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    found = [line.removeprefix("data: ") for line in lines]
    return [each if each == "[DONE]" else json.loads(each) for each in found]


def stream(engine: Scripted, kind: str, *, with_usage: bool = False) -> AnswerStream:
    found = Continuations(engine, TOKENIZER, [JOB], ())
    return AnswerStream(envelope(kind), found, with_usage=with_usage)


def test_pieces_then_the_reason_with_lineage_then_usage() -> None:
    found = events(stream(Scripted(told("hi")), "chat.completion", with_usage=True))
    assert found.pop() == "[DONE]"
    assert found.pop()["usage"]["completion_tokens"] == 2
    said = [each["choices"][0]["delta"]["content"] for each in found]
    assert "".join(said) == "hi"
    assert ["tapestry" in each for each in found] == [False, False, True]
    assert found[-1]["choices"][0]["finish_reason"] == "length"


def test_the_text_route_streams_texts() -> None:
    found = events(stream(Scripted(told("hi")), "text_completion"))
    assert "".join(each["choices"][0]["text"] for each in found[:-1]) == "hi"
    assert {each["object"] for each in found[:-1]} == {"text_completion"}


def test_a_fault_in_the_middle_is_an_event_after_which_nothing_comes() -> None:
    found = events(stream(Scripted(told("hi", FAULT)), "chat.completion"))
    assert found[-1]["error"]["code"] == "engine_failed"
    assert "[DONE]" not in found


def test_a_comparison_tags_each_piece_with_its_model() -> None:
    engine = Scripted(told("one"), told("two"))
    pieces = Continuations(engine, TOKENIZER, [JOB] * 2, ())
    both = [envelope("comparison"), envelope("comparison")]
    found = events(Comparison(both, pieces))
    assert found.pop() == "[DONE]"
    assert {each["model"] for each in found} == {"de"}
    assert sum("tapestry" in each for each in found) == 2
    broken = Continuations(Scripted(told("x", FAULT)), TOKENIZER, [JOB], ())
    last = events(Comparison([envelope("comparison")], broken))[-1]
    assert (last["model"], last["error"]["code"]) == ("de", "engine_failed")
