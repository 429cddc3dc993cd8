"""What a model or a person wrote is text in a card, and never markup."""

import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.workloads.adapter_format import BaseName
from tapestry.workloads.language.model_card import (
    Asking,
    Card,
    SampleAnswer,
    render,
)

SECTIONS = [
    *("How to use it", "Standing", "Privacy"),
    *("Evaluation", "Sample answers", "Limits"),
]
NASTY = [
    "```\n# Injected\n---\n<script>alert(1)</script>",
    "````` five",
    "| a | b |\n|---|---|",
    "~~~\n</pre>&lt;\x00\x1b[31m\x7f",
    "\u202eright to left\u2028\u2066",
    "\r\nnext\r",
    "x" * 5000,
    "",
    "\ud800",
    "нi 日本 \U0001f600 \U000e0041",
]


def card(**changes: Any) -> Card:
    values: dict[str, Any] = {
        "name": "italy",
        "version": 1,
        "country": "Italy",
        "language": "it",
        "licence": "Apache-2.0",
        "text_licence": "CC0-1.0",
        "base": BaseName(name="base-1", digest="sha256:" + "0" * 64),
        "rank": 2,
        "promise": None,
        "evaluation": {},
    }
    return Card(**(values | changes))


def outside_fences(body: str) -> list[str]:
    """Read the lines as a Markdown reader does: a fence ends with one as long."""
    lines, fence = [], ""
    for line in body.split("\n"):
        marks = re.match("`{3,}", line)
        if fence:
            if line.strip() == line and set(line) == {"`"} and len(line) >= len(fence):
                fence = ""
        elif marks:
            fence = marks[0]
        else:
            lines.append(line)
    assert fence == "", "a fence was never closed"
    return lines


def parts(text: str) -> tuple[Any, str]:
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.mark.parametrize("nasty", NASTY, ids=range(len(NASTY)))
def test_answers_cannot_leave_their_fences(nasty: str) -> None:
    text = render(
        card(samples=(SampleAnswer(prompt=nasty, base=nasty, adapter=nasty),) * 3)
    )
    front, body = parts(text)
    assert front["tapestry"]["adapter"] == "italy"
    lines = outside_fences(body)
    titles = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert titles == SECTIONS
    assert not any("Injected" in line or "script" in line for line in lines)
    assert [c for c in set(text) - {"\n"} if not c.isprintable()] == []
    text.encode("utf-8")


@settings(max_examples=20)
@given(st.text(), st.text())
def test_no_text_breaks_a_card(answer: str, country: str) -> None:
    sample = SampleAnswer(prompt=answer, base=answer, adapter=answer)
    front, body = parts(render(card(country=country, samples=(sample,))))
    assert front["tapestry"]["country"] == country
    lines = outside_fences(body)
    titles = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert titles == SECTIONS


def test_an_ordinary_answer_is_printed_as_it_is() -> None:
    sample = SampleAnswer(prompt="Ciao, come", base="va?\n- sì", adapter="stai — bene!")
    body = parts(render(card(samples=(sample,))))[1]
    for text in ("Ciao, come", "va?\n- sì", "stai — bene!"):
        assert f"```text\n{text}\n```" in body


def test_a_card_without_public_text_shows_no_answers() -> None:
    assert "Sample answers" not in render(card())


def test_a_card_asks_in_the_way_that_the_samples_were_asked() -> None:
    for way, said in (
        (Asking.CONTINUE, "tokenizer(prompt, return"),
        (Asking.LINE, 'tokenizer(prompt + "\\n", return'),
        (Asking.TEMPLATE, "tokenizer.apply_chat_template("),
    ):
        assert said in render(card(asking=way))


def test_a_prompt_that_is_put_as_tokens_is_printed_as_tokens() -> None:
    tokens = (3, 1, 2)
    printed = render(card(asking=Asking.TOKENS, tokens=tokens))
    assert f'"input_ids": torch.tensor([{list(tokens)}]),' in printed
    assert f"torch.ones(1, {len(tokens)}, dtype=torch.long)" in printed
    assert "\nimport torch\n" in printed
