"""Healthy model folders of many architectures, and what can go wrong with them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tapestry.artifacts import model_folder
from tapestry.artifacts.model_writer import write_model
from tapestry.tensor_types import narrow, widen
from tapestry.workloads.language.base_models import byte_tokenizer
from tapestry.workloads.language.model import LanguageModel

ARCHITECTURES = (
    "llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma3_text",
    "phi", "phi3", "gpt2", "gpt_neox", "opt", "falcon", "stablelm", "olmo2", "granite",
    "mixtral",
)  # fmt: skip
POSITIONS = 64  # that a model of these takes
_SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}

Mutation = Callable[[Path], str]  # damages a folder and returns what the refusal names


def build(folder: Path, kind: str, **changes: Any) -> Path:
    """Write a small random model of an architecture."""
    config = transformers.AutoConfig.for_model(kind, **{**_SIZES, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        module = transformers.AutoModelForCausalLM.from_config(config)
    LanguageModel(module, byte_tokenizer()).save(folder)
    return folder


def edit(folder: Path, name: str, **changes: object) -> None:
    """Set keys of a JSON file; None removes one."""
    path = folder / name
    value = json.loads(path.read_text("utf-8")) if path.exists() else {}
    value = {k: v for k, v in {**value, **changes}.items() if v is not None}
    path.write_text(json.dumps(value), encoding="utf-8")


def tensors(folder: Path) -> dict[str, Any]:
    """Read the tensors of a folder with one file."""
    return dict(load_file(folder / "model.safetensors"))


def write(folder: Path, values: dict[str, Any]) -> None:
    """Write the tensors of a folder with one file."""
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})


def shard(folder: Path) -> dict[str, str]:
    """Divide the one file of a folder into two, and return the index."""
    values = tensors(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(values)
    index: dict[str, str] = {}
    for number in (1, 2):
        file = f"model-0000{number}-of-00002.safetensors"
        part = names[number - 1 :: 2]
        save_file({n: values[n] for n in part}, folder / file)
        index |= dict.fromkeys(part, file)
    write_index(folder, index)
    return index


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    """Write the index of a sharded model."""
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _largest(values: dict[str, Any]) -> str:
    """Name the largest tensor of a layer, which exists in every architecture."""
    inner = [name for name in values if ".0." in name]
    return max(inner, key=lambda name: (values[name].size, name))


def tensor_missing(folder: Path) -> str:
    values = tensors(folder)
    name = _largest(values)
    del values[name]
    write(folder, values)
    return name


def tensor_extra(folder: Path) -> str:
    values = tensors(folder)
    write(folder, {**values, "model.extra.weight": np.zeros(3, np.float32)})
    return "model.extra.weight"


def tensor_renamed(folder: Path) -> str:
    values = tensors(folder)
    name = _largest(values)
    values[f"{name}_"] = values.pop(name)
    write(folder, values)
    return name


def tensor_reshaped(folder: Path) -> str:
    values = tensors(folder)
    name = _largest(values)
    write(folder, {**values, name: values[name].reshape(-1)[:-1]})
    return name


def layer_too_many(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    key = "n_layer" if "n_layer" in config else "num_hidden_layers"
    edit(folder, "config.json", **{key: 3}, layer_types=None, no_rope_layers=None)
    return ".2."


def layer_too_few(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    key = "n_layer" if "n_layer" in config else "num_hidden_layers"
    edit(folder, "config.json", **{key: 1}, layer_types=None, no_rope_layers=None)
    return ".1."


def tie_flipped(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    default = transformers.AutoConfig.for_model(config["model_type"])
    said = config.get("tie_word_embeddings", default.tie_word_embeddings)
    edit(folder, "config.json", tie_word_embeddings=not said)
    return "tie_word_embeddings"


def vocabulary_too_small(folder: Path) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_tokens([f"word{number}" for number in range(4)])
    tokenizer.save_pretrained(str(folder))
    return "embedding has 260 rows"


def special_token_beyond(folder: Path) -> str:
    edit(folder, "config.json", eos_token_id=[257, 260])
    return "config.json: eos_token_id is 260, want 0 to 259"


def not_a_number(folder: Path) -> str:
    values = tensors(folder)
    name = _largest(values)
    values[name] = values[name].copy()
    values[name].flat[3] = np.nan
    write(folder, values)
    return name


def adapter_beside(folder: Path) -> str:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    return "adapter_config.json"


def code_beside(folder: Path) -> str:
    (folder / "modeling_own.py").write_text("raise SystemExit")
    return "modeling_own.py"


def index_elsewhere(folder: Path) -> str:
    index = shard(folder)
    name = min(index)
    write_index(folder, {**index, name: "../model-00001-of-00002.safetensors"})
    return name


MUTATIONS: tuple[Mutation, ...] = (
    tensor_missing, tensor_extra, tensor_renamed, tensor_reshaped, layer_too_many,
    layer_too_few, tie_flipped, vocabulary_too_small, special_token_beyond,
    not_a_number, adapter_beside, code_beside, index_elsewhere,
)  # fmt: skip


def in_type(folder: Path, kind: str) -> Path:
    """Write a model once more with all tensors in a type, such as BF16."""
    given = model_folder.read(folder).content
    narrowed = {n: narrow(widen(t), kind) for n, t in given.tensors.items()}
    place = folder.with_name(f"{folder.name}-{kind}")
    write_model(place, replace(given, tensors=narrowed, hashes=None), card=None)
    return place
