"""Texts become tokens that spell no command, windows that predict each token once."""

import json
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer

from tapestry.workloads.language.tokens import PlainText
from tests.support.chat_templates import marked


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
    value = json.loads(text._deaf.backend_tokenizer.to_str())
    return [tuple(piece) for piece in value["model"]["vocab"]]
