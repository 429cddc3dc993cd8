"""Settings files of a model that was made here do not name the library's version."""

from pathlib import Path

import pytest

from tapestry.errors import ForeignFileError
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.settings_files import settings_of
from tests.support.refusals import refused


def test_they_are_the_same_each_time_and_name_no_version() -> None:
    model = build_tiny()
    files = settings_of(model.module, model.tokenizer)
    assert files == settings_of(model.module, model.tokenizer)
    assert b'"LlamaForCausalLM"' in files["config.json"]
    assert not [name for name, data in files.items() if b"transformers_version" in data]


def test_a_file_that_has_no_place_in_a_model_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_tiny()
    save = model.tokenizer.save_pretrained

    def more(place: str) -> None:
        save(place)
        (Path(place) / "tokenization_own.py").write_text("raise SystemExit")

    monkeypatch.setattr(model.tokenizer, "save_pretrained", more)
    with refused(ForeignFileError, "foreign-file", match="tokenization_own"):
        settings_of(model.module, model.tokenizer)
