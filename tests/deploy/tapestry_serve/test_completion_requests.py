"""Bodies of requests: what is taken, and that the rest is refused and no more."""

import json
from typing import Any

import numpy as np
import pytest

from tapestry_serve.completion_requests import (
    BODY,
    BadRequest,
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    TokenizeRequest,
    parse,
    read_body,
)

KINDS = (ChatRequest, CompletionRequest, CompareRequest, TokenizeRequest)
CHAT: dict[str, Any] = {"model": "de", "messages": [{"role": "user", "content": "x"}]}
VALID: dict[Any, dict[str, Any]] = {
    ChatRequest: CHAT,
    CompletionRequest: {"model": "de", "prompt": "x"},
    CompareRequest: {"models": ["de"], "conversations": {"de": ["x"]}},
    TokenizeRequest: {"prompt": "x"},
}
VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**63, 10**40, 0.5, 1e308, "", "x", "\x00", "é" * 300,
    [], [[]], [1], ["x"], {}, {"a": 1}, [{"role": "user", "content": "x"}],
    {"de": ["x"]}, ["de"], [[1, 2], [3]], [None],
]  # fmt: skip
NAMES = sorted({name for kind in KINDS for name in kind.model_fields} | {"tools", "x"})


def chat(**changes: Any) -> ChatRequest:
    return read_body(json.dumps(CHAT | changes).encode(), ChatRequest)


@pytest.mark.parametrize("kind", KINDS)
def test_random_bodies_are_read_or_refused_and_nothing_else(kind: Any) -> None:
    drawn = np.random.default_rng(15)
    read, refused = 0, list[BadRequest]()
    for _ in range(600):
        names = drawn.choice(NAMES, size=drawn.integers(1, 6), replace=False)
        body = {name: VALUES[drawn.integers(len(VALUES))] for name in names}
        if drawn.random() < 0.5:
            body = {**VALID[kind], **body}
            body = {n: v for n, v in body.items() if n in kind.model_fields}
        try:
            read_body(json.dumps(body).encode(), kind)
            read += 1
        except BadRequest as error:
            refused.append(error)
    assert all(each.code and len(str(each)) < 2000 for each in refused)
    assert read > 10


@pytest.mark.parametrize("data", [b"", b"null", b"1", b'"x"', b"\xff\xfe", b"{" * 9999])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        read_body(data, ChatRequest)
    assert caught.value.code == "body-invalid"


def test_a_body_over_its_bound_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BadRequest) as caught:
        read_body(b"[" * (BODY + 1), ChatRequest)
    assert caught.value.code == "body-too-large"


def test_texts_of_several_parts_are_one_text() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": content}]).turns == ("ab",)


def test_a_system_turn_is_refused_by_name() -> None:
    with pytest.raises(BadRequest) as caught:
        chat(messages=[{"role": "system", "content": "be kind"}, *CHAT["messages"]])
    assert caught.value.param == "messages.0.role"
    assert "be kind" not in str(caught.value)


def test_stops_and_usage_are_read_in_each_spelling() -> None:
    assert chat().stops == ()
    assert chat(stop="x").stops == ("x",)
    assert chat(stop=["x", "y"]).stops == ("x", "y")
    assert not chat(stream_options={}).with_usage
    assert chat(stream_options={"include_usage": True}).with_usage


@pytest.mark.parametrize(
    ("prompt", "want"),
    [
        ("x", ["x"]),
        (["x", "y"], ["x", "y"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2]], [[1], [2]]),
    ],
)
def test_prompts_are_texts_or_tokens_one_or_several(prompt: Any, want: Any) -> None:
    body = json.dumps({"model": "de", "prompt": prompt}).encode()
    assert read_body(body, CompletionRequest).prompts == want


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ["de", "de"]},
        {"models": ["it"]},
        {"conversations": {"de": ["x", "y"]}},
        {"conversations": {"de": ["x"], "it": ["x"]}},
        {"conversations": {"de": []}},
    ],
)
def test_a_comparison_names_each_model_once_with_a_question(changes: Any) -> None:
    body = {"models": ["de"], "conversations": {"de": ["x"]}}
    read_body(json.dumps(body).encode(), CompareRequest)
    with pytest.raises(BadRequest):
        read_body(json.dumps(body | changes).encode(), CompareRequest)


def test_a_number_keeps_its_value() -> None:
    assert parse(b'{"a": 1, "b": [1.5, "x"]}') == {"a": 1, "b": [1.5, "x"]}
