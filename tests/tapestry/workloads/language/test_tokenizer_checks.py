"""A tokenizer that does not belong to its model is refused, by what it does wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from tapestry.errors import ConfigError
from tapestry.workloads.language.base_models import byte_tokenizer
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.tokenizer_checks import check_tokenizer
from tests.support.model_folders import (
    build,
)
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("healthy") / "llama", "llama")


@pytest.fixture
def folder(healthy: Path, tmp_path: Path) -> Path:
    """Copy a healthy llama, to be damaged."""
    return shutil.copytree(healthy, tmp_path / "base")


def _refused(folder: Path, code: str) -> str:
    with refused(ConfigError, code) as caught:
        LanguageModel.open(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _edit_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def test_a_token_number_far_beyond_the_embedding_is_refused(folder: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        vocabulary = value["model"]["vocab"]
        vocabulary[next(iter(vocabulary))] = 100_000

    _edit_tokenizer(folder, change)
    assert " 100000 " in _refused(folder, "token-out-of-range")


def test_a_tokenizer_that_makes_no_tokens_is_refused(folder: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["normalizer"] = {
            "type": "Replace", "pattern": {"Regex": "."}, "content": ""
        }  # fmt: skip

    _edit_tokenizer(folder, change)
    assert " no tokens " in _refused(folder, "tokenizer-useless")


def test_a_tokenizer_that_says_another_text_is_refused(folder: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["normalizer"] = {
            "type": "Replace", "pattern": {"String": "red"}, "content": "blue"
        }  # fmt: skip

    _edit_tokenizer(folder, change)
    assert "'The blue house" in _refused(folder, "tokenizer-loses-text")


def test_a_tokenizer_of_unknown_words_is_refused(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "zebra": 1}, "<unk>"))
    special = {"unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special
    ).save_pretrained(str(folder))
    assert " no word " in _refused(folder, "tokenizer-useless")


def test_a_tokenizer_fits_a_model_of_as_many_rows_and_no_fewer() -> None:
    tokenizer = byte_tokenizer()
    rows = len(tokenizer)
    check_tokenizer(tokenizer, rows=rows)
    check_tokenizer(tokenizer, rows=rows + 100)  # rows are often rounded up
    said = f"{rows} tokens, .* {rows - 1} rows"
    with refused(ConfigError, "token-out-of-range", match=said):
        check_tokenizer(tokenizer, rows=rows - 1)


def test_a_vocabulary_of_nothing_is_refused() -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({}, "<unk>"))
    )
    with refused(ConfigError, "tokenizer-missing"):
        check_tokenizer(tokenizer, rows=10)


def test_some_unknown_words_are_no_fault_and_white_space_may_change() -> None:
    words = {"<unk>": 0, "the": 1, "red": 2, "house": 3}
    special = {"unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "<unk>")), **special
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    check_tokenizer(tokenizer, rows=4)


@pytest.mark.slow
def test_a_chat_template_is_checked_with_the_tokenizer() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "nothing of what was said"
    with refused(ConfigError, "chat-template-turns-differ"):
        check_tokenizer(tokenizer, rows=len(tokenizer))
