"""A tokenizer is loaded from a base's folder without its model."""

from pathlib import Path
from typing import Any, cast

import pytest

from tapestry.errors import ConfigError, ForeignFileError
from tapestry.workloads.language.base_tokenizer import open_tokenizer
from tests.support.federation import Base
from tests.support.model_folders import edit
from tests.support.refusals import refused


@pytest.fixture
def folder(base: Base, tmp_path: Path) -> Path:
    place = tmp_path / "base"
    cast("Any", base.workload).save(place)
    return place


def test_the_tokens_are_the_models_and_no_weights_are_read(
    base: Base, folder: Path
) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    text = "perché? <s>"
    tokens = cast("Any", base.workload).tokenizer(text)["input_ids"]
    assert open_tokenizer(folder)(text)["input_ids"] == tokens


def test_a_tokenizer_that_leads_to_code_is_refused(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["a.B", None]})
    with refused(ConfigError, "model-setting-forbidden"):
        open_tokenizer(folder)
    (folder / "a.py").write_text("raise SystemExit")
    with refused(ForeignFileError, "foreign-file"):
        open_tokenizer(folder)


def test_a_tokenizer_that_does_not_load_is_refused(folder: Path) -> None:
    edit(folder, "tokenizer.json", model={"type": "none"})
    with refused(ConfigError, "model-unreadable", match="tokenizer does not work"):
        open_tokenizer(folder)
