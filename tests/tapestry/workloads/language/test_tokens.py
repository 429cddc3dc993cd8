"""Texts become tokens that spell no command, windows that predict each token once."""

import itertools
import json
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tapestry.errors import ConfigError
from tapestry.workloads.language.base_models import byte_tokenizer
from tapestry.workloads.language.tokens import (
    PlainText,
    by_length,
    pad,
    start_tokens,
    windows,
)
from tests.support.chat_templates import marked
from tests.support.refusals import refused


@pytest.mark.parametrize("special", [True, False])
def test_a_plain_text_cannot_spell_an_added_token(special: bool) -> None:
    tokenizer = marked(special=special)
    assert PlainText(tokenizer).encode(["<|e|>", ""]) == [
        tokenizer("<", add_special_tokens=False)["input_ids"]
        + tokenizer("|e|>", add_special_tokens=False)["input_ids"],
        [],
    ]


def test_a_piece_in_place_of_a_mark_cannot_be_guessed() -> None:
    """A pre-tokenizer that keeps all characters leaves any text to the model."""
    pieces = [["<unk>", 0.0], *([chr(32 + n), -5.0] for n in range(258))]
    pieces += [["<|s|>", 0.0], ["<|e|>", 0.0]]
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces}
    made: Any = marked(special=True, model=model)
    value = json.loads(made.backend_tokenizer.to_str())
    scheme = {"replacement": "_", "prepend_scheme": "never", "split": True}
    value["pre_tokenizer"] = {"type": "Metaspace", **scheme}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(value))
    )
    first, second = PlainText(tokenizer), PlainText(tokenizer)
    guesses = [
        *(f"hi\ue002{n}\ue003" for n in (259, 260)),
        *(piece for piece, _ in _pieces_of(first)[259:261]),
    ]
    rows = second.encode([*guesses, "<|s|>"])
    assert not {259, 260} & {token for row in rows for token in row}
    # The test would see it: a text that knows the piece does spell the mark.
    assert first.encode([guesses[-1]]) == [[260]]


def _pieces_of(text: PlainText) -> list[tuple[str, float]]:
    value = json.loads(text.deaf.backend_tokenizer.to_str())
    return [tuple(piece) for piece in value["model"]["vocab"]]


CPU = torch.device("cpu")
ROWS = st.lists(st.lists(st.integers(0, 99), min_size=2, max_size=30), max_size=12)


@given(st.lists(st.integers(0, 255), max_size=60), st.integers(2, 20))
def test_windows_predict_each_token_but_the_first_once(
    tokens: list[int], length: int
) -> None:
    found = windows(tokens, length)
    assert [t for window in found for t in window[1:]] == tokens[1:]
    assert all(2 <= len(window) <= length for window in found)
    for before, after in itertools.pairwise(found):
        assert before[-1] == after[0]
        assert len(before) == length


def test_a_window_that_predicts_nothing_is_left_out() -> None:
    question, answer = [~1, ~2, ~3, ~4, ~5], [6, 7]
    assert windows([*question, *answer], 3) == [(~5, 6, 7)]
    assert windows(question, 3) == []
    assert windows([1], 3) == windows([], 3) == []


@given(ROWS, st.integers(1, 100))
def test_rows_are_grouped_once_by_length_and_within_the_limit(
    rows: list[list[int]], limit: int
) -> None:
    groups = list(by_length(rows, tokens=limit))
    assert sorted(i for group in groups for i in group) == list(range(len(rows)))
    lengths = [len(rows[i]) for group in groups for i in group]
    assert lengths == sorted(lengths, reverse=True)
    for group in groups:
        widest = max(len(rows[i]) for i in group)
        assert len(group) == 1 or len(group) * widest <= limit


@given(ROWS.filter(bool))
def test_a_padded_batch_keeps_each_row_and_marks_what_is_real(
    rows: list[list[int]],
) -> None:
    batch = pad(rows, device=CPU)
    assert batch.tokens_BT.shape == (len(rows), max(map(len, rows)))
    for row, sequence in enumerate(rows):
        real = batch.attention_BT[row].bool()
        assert batch.tokens_BT[row][real].tolist() == sequence
        assert int(real.sum()) == len(sequence)
        assert not real[len(sequence) :].any()
    assert torch.equal(batch.counted_BT, batch.attention_BT)


def test_context_is_read_and_not_counted() -> None:
    batch = pad([[~7, ~8, 9], [1, ~2]], device=CPU)
    assert batch.tokens_BT.tolist() == [[7, 8, 9], [1, 2, 0]]
    assert batch.attention_BT.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.counted_BT.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("rows", [[], [[1]], [[1, 2], []]], ids=str)
def test_a_batch_without_anything_to_predict_is_a_bug(rows: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="two tokens or more"):
        pad(rows, device=CPU)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=4))
def test_a_text_of_bytes_is_its_bytes_whatever_it_spells(texts: list[str]) -> None:
    tokenizer = byte_tokenizer()
    for text, row in zip(texts, PlainText(tokenizer).encode(texts), strict=True):
        assert len(row) == len(text.encode())
        assert not set(row) & set(tokenizer.all_special_ids)
        assert tokenizer.decode(row) == text


def test_a_tokenizer_is_not_changed_by_reading_plain_text() -> None:
    tokenizer = marked(special=False)
    before = tokenizer.backend_tokenizer.to_str()
    assert PlainText(tokenizer).encode(["<|e|>"]) != [[260]]
    assert tokenizer.backend_tokenizer.to_str() == before
    assert tokenizer("<|e|>", add_special_tokens=False)["input_ids"] == [260]


def test_added_tokens_are_those_that_show_something() -> None:
    tokenizer = marked(special=False)
    shown = PlainText(tokenizer).added
    assert (shown[259], shown[260]) == ("<|s|>", "<|e|>")
    assert tokenizer.add_tokens(["   "]) == 1
    assert PlainText(tokenizer).added == shown


def test_white_space_that_a_vocabulary_added_stays_white_space() -> None:
    tokenizer = marked(special=False)
    tokenizer.add_tokens(["    "])
    (row,) = PlainText(tokenizer).encode(["a    b"])
    assert row == [*tokenizer("a")["input_ids"][-1:], 261, *row[2:]]
    assert tokenizer.decode(row) == "a    b"


@pytest.mark.parametrize("special", [True, False])
def test_marks_that_no_text_spells_pass_the_check(special: bool) -> None:
    PlainText(marked(special=special)).check([259, 260])


def test_a_token_that_its_spelling_gives_is_refused_by_name() -> None:
    words = {chr(1000 + n): n for n in range(259)} | {"<|s|>": 259, "<|e|>": 260}
    model = {"type": "WordLevel", "vocab": words, "unk_token": chr(1000)}
    text = PlainText(marked(special=True, model=model))
    with refused(ConfigError, "turn-mark-forgeable", match="'<.e.>'"):
        text.check([260])
    text.check([1, 2])  # ordinary pieces may be spelled


def test_a_text_starts_with_the_token_that_the_tokenizer_itself_puts_there() -> None:
    class Plain:
        bos_token_id: int | None = 1

        def __init__(self, *first: int) -> None:
            self.first = list(first)

        def __call__(self, _: str) -> dict[str, list[int]]:
            return {"input_ids": [*self.first, 40]}

    assert start_tokens(Plain(1)) == [1]
    assert start_tokens(Plain()) == []
    without = Plain(1)
    without.bos_token_id = None
    assert start_tokens(without) == []
    assert start_tokens(byte_tokenizer()) == [byte_tokenizer().bos_token_id]
