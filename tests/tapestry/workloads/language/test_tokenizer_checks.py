"""A tokenizer that does not belong to its model is refused, by what it does wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, models

from tapestry.errors import ConfigError
from tapestry.workloads.language.model import LanguageModel
from tests.support.model_folders import (
    build,
)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("healthy") / "llama", "llama")


@pytest.fixture
def folder(healthy: Path, tmp_path: Path) -> Path:
    """Copy a healthy llama, to be damaged."""
    return shutil.copytree(healthy, tmp_path / "base")


def _refused(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
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
    assert "as number 100000" in _refused(folder)


def test_a_tokenizer_that_makes_no_tokens_is_refused(folder: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["normalizer"] = {
            "type": "Replace", "pattern": {"Regex": "."}, "content": ""
        }  # fmt: skip

    _edit_tokenizer(folder, change)
    assert "makes no tokens of plain text" in _refused(folder)


def test_a_tokenizer_that_says_another_text_is_refused(folder: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["normalizer"] = {
            "type": "Replace", "pattern": {"String": "red"}, "content": "blue"
        }  # fmt: skip

    _edit_tokenizer(folder, change)
    assert "into tokens that say 'The blue house" in _refused(folder)


def test_a_tokenizer_of_unknown_words_is_refused(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "zebra": 1}, "<unk>"))
    special = {"unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special
    ).save_pretrained(str(folder))
    assert "knows no word of plain text" in _refused(folder)
