"""What verifies is what loads: each change of a model is refused, or another model.

The folder is a release: files of a real model, and the manifest that a log would name.
"""

import dataclasses
import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from tapestry.artifacts import manifest, model_folder, safetensors_reader
from tapestry.artifacts.model_writer import write_model
from tapestry.errors import TapestryError, VerificationError
from tapestry.tensor_types import widen
from tapestry.workloads.language.model import LanguageModel
from tapestry_governance import registry
from tests.support.model_folders import build, edit, shard, tensors, write, write_index
from tests.support.refusals import refused

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("models") / "base", "llama")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# A base\n")
    (folder / "LICENSE").write_text("as you like")
    return folder


@pytest.fixture
def base(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "base"))


@pytest.fixture
def release(base: Path) -> Path:
    manifest.write(base)
    return base


def weights_under_another_name(folder: Path) -> None:
    """The attack: honest weights that are digested, others that an index leads to."""
    (folder / "shards").mkdir()
    values = tensors(folder)
    file = "shards/model-00001-of-00001.safetensors"
    save_file({n: value + 1 for n, value in values.items()}, folder / file)
    write_index(folder, dict.fromkeys(values, file))
    (folder / "model.safetensors").rename(folder / "weights.safetensors")


def index_beside_one_file(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    shard(folder)
    (folder / "model.safetensors").write_bytes(whole)


def set_config(**changes: object) -> Change:
    return lambda folder: edit(folder, "config.json", **changes)


def write_file(name: str, text: str = "x") -> Change:
    return lambda folder: (folder / name).write_text(text)


def append(name: str, text: str = "\n") -> Change:
    def change(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(text)

    return change


def rename(old: str, new: str) -> Change:
    return lambda folder: (folder / old).rename(folder / new)


def link(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "config.json")
    (folder / "config.json").symlink_to(folder.parent / "config.json")


def swap(folder: Path) -> None:
    one, other = folder / "config.json", folder / "tokenizer.json"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def another_value(folder: Path) -> None:
    values = tensors(folder)
    name = min(values)
    write(folder, {**values, name: values[name] + np.float32(1)})


def another_type(folder: Path) -> None:
    values = {n: torch.from_numpy(v).bfloat16() for n, v in tensors(folder).items()}
    save_torch(values, folder / "model.safetensors", metadata={"format": "pt"})


def token_renumbered(folder: Path) -> None:
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text("utf-8"))
    words = value["model"]["vocab"]
    first, second = list(words)[:2]
    words[first], words[second] = words[second], words[first]
    path.write_text(json.dumps(value))


CHANGES: dict[str, Change] = {
    "weights under another name": weights_under_another_name,
    "index beside one file": index_beside_one_file,
    "another value": another_value,
    "another type": another_type,
    "rms_norm_eps": set_config(rms_norm_eps=0.5),
    "rope": set_config(rope_parameters={"rope_type": "default", "rope_theta": 5.0}),
    "attention heads": set_config(num_attention_heads=2),
    "auto_map": set_config(auto_map={"AutoModelForCausalLM": "own.Own"}),
    "tokenizer": token_renumbered,
    "tokenizer settings": lambda f: edit(
        f, "tokenizer_config.json", model_max_length=9
    ),
    "chat template": write_file("chat_template.jinja", "{{ messages[0].content }}"),
    "template in settings": lambda f: edit(
        f, "tokenizer_config.json", chat_template="{{ messages[0].content }}"
    ),
    "generation": lambda f: edit(f, "generation_config.json", max_new_tokens=7),
    "special tokens": write_file("special_tokens_map.json", '{"eos_token": "<pad>"}'),
    "licence file": append("LICENSE", " not"),
    "licence file gone": lambda folder: (folder / "LICENSE").unlink(),
    "notice": write_file("NOTICE"),
    "licence of the card": write_file("README.md", "---\nlicense: other-1\n---\n"),
    "code": write_file("modeling_own.py"),
    "pickle": write_file("pytorch_model.bin"),
    "adapter": write_file("adapter_config.json", '{"peft_type": "LORA"}'),
    "templates": lambda f: (f / "additional_chat_templates").mkdir(),
    "case": rename("config.json", "Config.json"),
    "two cases": write_file("CONFIG.json", "{}"),
    "unicode form": write_file(unicodedata.normalize("NFD", "LICENSE-é"), "x"),
    "look-alike": rename("config.json", "сonfig.json"),  # noqa: RUF001 - Cyrillic
    "link": link,
    "swap": swap,
    "empty folder": lambda folder: (folder / "empty").mkdir(),
    "pipe": lambda folder: os.mkfifo(folder / "NOTICE"),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_changed_base_is_refused_or_has_another_identity(
    base: Path, change: str
) -> None:
    before = LanguageModel.open(base).given.digest
    assert registry.read_base(base).digest == before
    CHANGES[change](base)
    try:
        found = registry.read_base(base).digest
    except TapestryError:
        found = None
    assert found != before
    try:
        loaded = LanguageModel.open(base).given.digest
    except TapestryError:
        return
    assert loaded == found


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_changed_release_is_refused_by_whoever_verifies_or_loads_it(
    release: Path, change: str
) -> None:
    CHANGES[change](release)
    for reader in (registry.read_base, LanguageModel.open, model_folder.read):
        with pytest.raises(TapestryError):
            reader(release)


def test_text_for_people_is_not_part_of_the_identity(base: Path) -> None:
    before = registry.read_base(base).digest
    append("README.md", "More to read.\n")(base)
    shard(base)  # nor is it how the tensors are spread over files
    assert registry.read_base(base).digest == before
    assert LanguageModel.open(base).given.digest == before


def test_tensors_replaced_after_they_were_digested_are_not_loaded(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between digest and loading an attacker writes into the very file, and beside."""
    want = widen(LanguageModel.open(release).given.tensors["lm_head.weight"])
    honest = model_folder.read

    def read(folder: Path) -> model_folder.ModelFolder:
        found = honest(folder)
        path = folder / "model.safetensors"
        with path.open("r+b") as file:
            file.seek(-4096, os.SEEK_END)
            file.write(bytes(4096))
        edit(folder, "config.json", rms_norm_eps=0.5)
        (folder / "tokenizer.json").write_text("{}")
        (folder / "chat_template.jinja").write_text("x")
        return found

    monkeypatch.setattr(model_folder, "read", read)
    model = LanguageModel.open(release)
    held = dict(model.module.named_parameters())["lm_head.weight"]
    assert np.array_equal(held.detach().numpy(), want)
    config: Any = model.module.config
    assert config.rms_norm_eps != 0.5
    assert model.tokenizer.chat_template is None
    monkeypatch.undo()
    with refused(VerificationError, "manifest-file-changed"):
        LanguageModel.open(release)


def test_a_file_that_gets_shorter_while_it_is_read_is_refused(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = release / "model.safetensors"

    def loads(text: str, **options: Any) -> Any:
        os.truncate(path, path.stat().st_size - 8)
        return json.loads(text, **options)

    parser = SimpleNamespace(loads=loads, dumps=json.dumps)
    monkeypatch.setattr(safetensors_reader, "json", parser)
    with refused(VerificationError, "file-changed"):
        safetensors_reader.read_tensors(path, limits=model_folder.LIMITS)


def test_settings_that_transformers_reads_are_in_a_folder_of_ours_alone(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    honest = transformers.AutoConfig.from_pretrained

    def load(place: str, **options: object) -> object:
        seen.append(Path(place))
        assert Path(place).stat().st_mode & 0o077 == 0
        assert not (Path(place) / "README.md").exists()
        return honest(place, **options)

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", load)
    LanguageModel.open(release)
    assert seen
    assert not any(place == release or place.exists() for place in seen)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_release_loads_with_plain_transformers_as_it_was_digested(
    base: Path, tmp_path: Path, kind: torch.dtype
) -> None:
    if kind is torch.bfloat16:
        another_type(base)
    content = LanguageModel.open(base).given
    write_model(tmp_path / "release", content, card=None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        str(tmp_path / "release"), dtype=kind
    )
    for name, parameter in theirs.named_parameters():
        assert parameter.dtype is kind
        values = parameter.detach().float().numpy()
        assert np.array_equal(values, widen(content.tensors[name]))
    bare = dataclasses.replace(content, licence=None)  # without a card
    assert registry.read_base(tmp_path / "release").digest == bare.digest
