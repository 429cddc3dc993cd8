"""What is scored is what was written: a tokenizer that loses text gives no score."""

import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from tapestry.errors import ConfigError
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.model import LanguageModel
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.set_num_threads(1)
    return build_tiny()


def _with_backend(change: Callable[[dict[str, Any]], None]) -> LanguageModel:
    model = build_tiny()
    value = json.loads(model.tokenizer.backend_tokenizer.to_str())
    change(value)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(value))
    )
    return LanguageModel(model.module, tokenizer)


def _ascii(value: dict[str, Any]) -> None:
    pattern = {"Regex": "[^ -~]"}
    value["normalizer"] = {"type": "Replace", "pattern": pattern, "content": ""}


def _lower(value: dict[str, Any]) -> None:
    value["normalizer"] = {"type": "Lowercase"}


def _composing(value: dict[str, Any]) -> None:
    value["normalizer"] = {"type": "NFC"}


def _spaced(value: dict[str, Any]) -> None:
    value["pre_tokenizer"]["add_prefix_space"] = True


@pytest.mark.parametrize(
    ("change", "text", "kept"),
    [
        (_ascii, "Привіт", False),
        (_ascii, "Ciao", True),
        (_ascii, "perché", False),
        (_lower, "Ciao", False),
        (_lower, "ciao", True),
        (_composing, unicodedata.normalize("NFD", "perché"), True),
        (_composing, "perché , così .", True),
        (_spaced, "Ciao  a tutti", True),
        (_spaced, " Ciao\n", True),
    ],
)
@pytest.mark.parametrize("kind", [str, Dialogue])
def test_a_text_that_a_tokenizer_loses_has_no_score(
    change: Callable[[dict[str, Any]], None], text: str, kept: bool, kind: type
) -> None:
    model = _with_backend(change)
    given: Text = text if kind is str else Dialogue(turns=("Ciao", text))
    if kept:
        assert model.find_fault(given) is None
        assert model.evaluate([given], sequence_length=32).amount > 0
        return
    fault = model.find_fault(given)
    assert fault is not None
    assert "drops or changes something" in fault
    assert text not in fault
    with refused(ConfigError, "text-not-tokenizable", match="text 2: "):
        model.evaluate(["fine", given], sequence_length=32)


def test_a_text_that_cannot_be_asked_has_a_fault(model: LanguageModel) -> None:
    assert model.find_fault(Dialogue(turns=("Ciao", "ciao", "a" * 2000, "ok"))) is None
    long = model.find_fault(Dialogue(turns=("a" * 2000, "ok")))
    assert long is not None
    assert "shorten it" in long


def test_truncation_and_padding_of_a_tokenizer_are_not_obeyed() -> None:
    def change(value: dict[str, Any]) -> None:
        value["truncation"] = {
            "direction": "Right", "max_length": 12, "strategy": "LongestFirst",
            "stride": 0,
        }  # fmt: skip
        value["padding"] = {
            "strategy": {"Fixed": 64}, "direction": "Right", "pad_id": 258,
            "pad_to_multiple_of": None, "pad_type_id": 0, "pad_token": "<pad>",
        }  # fmt: skip

    model = _with_backend(change)
    (unit,) = model.encode(["a" * 30], sequence_length=99)
    assert len(unit.rows[0]) == 30


def test_a_long_text_writes_nothing_past_the_printer(
    model: LanguageModel, capfd: pytest.CaptureFixture[str]
) -> None:
    model.tokenizer.model_max_length = 44
    model.encode(["a" * 100], sequence_length=32)
    model.complete_all(["a" * 100], max_tokens=1)
    assert capfd.readouterr() == ("", "")
