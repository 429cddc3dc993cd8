"""The static reader of model folders accepts one reading and refuses by name."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tapestry.artifacts import model_folder
from tapestry.errors import ConfigError, ForeignFileError, TapestryError
from tests.support.model_folders import edit, shard, tensors, write, write_index
from tests.support.refusals import refused

_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 260,
    "num_hidden_layers": 2,
    "eos_token_id": [257, 258],
    "pad_token_id": None,
    "dtype": "bfloat16",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "base"
    place.mkdir()
    edit(place, "config.json", **_CONFIG)
    values = {name: np.full((2, 2), 0.5, np.float32) for name in "abcd"}
    write(place, values)
    for name in ("tokenizer.json", "generation_config.json", "tokenizer_config.json"):
        edit(place, name)
    return place


def _refused(folder: Path, code: str) -> TapestryError:
    with refused(TapestryError, code) as caught:
        model_folder.read(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_plain_folder_is_read_with_the_place_of_each_tensor(folder: Path) -> None:
    for name in ("README.md", "LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md"):
        (folder / name).write_text("text")
    found = model_folder.read(folder)
    assert found.shapes == dict.fromkeys("abcd", (2, 2))
    assert b'"vocab_size": 260' in found.settings["config.json"]
    shard(folder)
    assert model_folder.read(folder).shapes == found.shapes


def test_settings_are_read_without_a_look_at_the_weights(folder: Path) -> None:
    whole = model_folder.read(folder)
    (folder / "README.md").write_text("text")
    (folder / "model.safetensors").write_bytes(b"no tensors")
    assert model_folder.read_settings(folder) == whole.settings
    edit(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": "code.py"})
    with refused(ConfigError, "model-setting-forbidden"):
        model_folder.read_settings(folder)
    (folder / "code.py").touch()
    with refused(ForeignFileError, "foreign-file"):
        model_folder.read_settings(folder)
    (folder / "config.json").unlink()
    with refused(ConfigError, "model-config-missing"):
        model_folder.read_settings(folder)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin", "model.pt", "flax_model.msgpack", "tf_model.h5", "a.onnx",
        "model.gguf", "weights.pkl", "adapter_config.json", "adapter_model.safetensors",
        "tokenization_own.py", "tekken.json", "chat_template.json", ".gitattributes",
        ".DS_Store", "LICENSE.py", "CONFIG.JSON", "model.safetensors.bak",
        "consolidated.safetensors", "onnx/model.txt", "original/params.json",
        ".cache/huggingface/x", "additional_chat_templates/a.jinja", "tapestry/x.py",
        "tapestry/sub/x.json", "odd\nname",
    ],
)  # fmt: skip
def test_a_file_that_has_no_place_is_named(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    error = _refused(folder, "foreign-file")
    assert isinstance(error, ForeignFileError)
    top = "/".join(name.split("/")[: 2 if name.startswith("tapestry/") else 1])
    assert repr(top)[1:-1] in str(error)
    assert "copy the folder without it" in str(error)


def test_a_hub_download_gets_one_line_with_up_to_ten_names(folder: Path) -> None:
    for number in range(12):
        (folder / f"part-{number:02d}.bin").write_text("")
    message = str(_refused(folder, "foreign-file"))
    assert "part-09.bin and 2 more" in message
    assert "part-10.bin" not in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tapestry"])
def test_a_link_is_refused_with_the_way_to_copy_it(folder: Path, name: str) -> None:
    target = folder.parent / "blob"
    if (folder / name).exists():
        (folder / name).rename(target)
    else:
        target.mkdir()
    (folder / name).symlink_to(target)
    error = _refused(folder, "foreign-file")
    assert isinstance(error, ForeignFileError)
    assert f"{name} is a link" in str(error)
    assert "cp -rL" in str(error)


def test_a_pipe_is_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "README.md")
    assert "README.md" in str(_refused(folder, "foreign-file"))


@pytest.mark.parametrize(
    ("data", "code", "value"),
    [
        (b"", "json-invalid", ""),
        (b"[]", "json-invalid", ""),
        (b"\xef\xbb\xbf{}", "json-invalid", ""),
        (b"\xff", "text-not-utf8", ""),
        (b'{"a": "\\ud800"}', "text-not-utf8", ""),
        (
            b'{"vocab_size": 260, "vocab_size": 261}',
            "json-key-duplicated",
            "'vocab_size'",
        ),
        (b'{"a": NaN}', "json-number-invalid", "NaN"),
        (b'{"a": -Infinity}', "json-number-invalid", "-Infinity"),
        (b'{"a": 1e999}', "json-number-invalid", "1e999"),
        (b'{"a": [-1e999]}', "json-number-invalid", "-1e999"),
        (b'{"a": 1' + b"0" * 400 + b"}", "json-number-invalid", "10000"),
        (b'{"a": ' + b"[" * 100_000, "json-too-deep", ""),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "json-too-deep", "64"),
        (b" " * (4 << 20) + b"{}", "file-too-large", "4194304"),
        (b"{}", "model-setting-invalid", "model_type is None"),
    ],
)
def test_a_configuration_that_is_not_one_strict_object_is_refused(
    folder: Path, data: bytes, code: str, value: str
) -> None:
    (folder / "config.json").write_bytes(data)
    error = _refused(folder, code)
    assert isinstance(error, ConfigError)
    assert value in str(error)


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json"])
def test_other_settings_are_as_strict(folder: Path, name: str) -> None:
    (folder / name).write_text('{"x": 1, "x": 2}')
    error = _refused(folder, "json-key-duplicated")
    assert f"{name}: 'x'" in str(error)


_LEADING_ELSEWHERE = (
    "auto_map", "text_config", "quantization_config", "transformers_weights",
    "_attn_implementation", "experts_implementation", "custom_generate",
    "tokenizer_file", "fast_tokenizer_files", "init_inputs",
)  # fmt: skip
_CODES = {
    **dict.fromkeys(_LEADING_ELSEWHERE, "model-setting-forbidden"),
    "torch_dtype": "model-sources-differ",
}


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "auto_map", {"AutoModel": "own.Model"}),
        ("config.json", "text_config", {"auto_map": {"AutoModel": "own.Model"}}),
        ("config.json", "quantization_config", {"bits": 4}),
        ("config.json", "transformers_weights", "other.safetensors"),
        ("config.json", "_attn_implementation", "someone/kernel"),
        ("config.json", "experts_implementation", "someone/kernel"),
        ("config.json", "vocab_size", "260"),
        ("config.json", "vocab_size", 0),
        ("config.json", "vocab_size", True),
        ("config.json", "architectures", []),
        ("config.json", "architectures", ["A", "B"]),
        ("config.json", "architectures", "LlamaForCausalLM"),
        ("config.json", "model_type", ["llama"]),
        ("config.json", "dtype", "int8"),
        ("config.json", "dtype", ["float32"]),
        ("config.json", "torch_dtype", "float64"),
        ("config.json", "tie_word_embeddings", "no"),
        ("config.json", "num_hidden_layers", 10**9),
        ("config.json", "num_hidden_layers", -1),
        ("config.json", "n_layer", 2.0),
        ("config.json", "bos_token_id", -1),
        ("config.json", "eos_token_id", [1, 260]),
        ("config.json", "pad_token_id", "0"),
        ("generation_config.json", "eos_token_id", 260),
        ("generation_config.json", "forced_bos_token_id", 1.0),
        ("generation_config.json", "suppress_tokens", [1, 999]),
        ("generation_config.json", "temperature", "hot"),
        ("generation_config.json", "top_k", True),
        ("generation_config.json", "custom_generate", "someone/code"),
        ("tokenizer_config.json", "auto_map", ["own.Tokenizer", None]),
        ("tokenizer_config.json", "tokenizer_file", "../tokenizer.json"),
        ("tokenizer_config.json", "fast_tokenizer_files", ["tokenizer.4.json"]),
        ("tokenizer_config.json", "init_inputs", ["x"]),
    ],
)
def test_a_setting_that_cannot_hold_is_refused_by_key(
    folder: Path, file: str, key: str, value: object
) -> None:
    edit(folder, file, **{key: value})
    error = _refused(folder, _CODES.get(key, "model-setting-invalid"))
    assert isinstance(error, ConfigError)
    assert file in str(error)
    assert (key if key != "text_config" else "auto_map") in str(error)


def _truncated(folder: Path) -> tuple[str, str]:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    return "tensor-layout-invalid", "bytes of data"


def _whole_numbers(folder: Path) -> tuple[str, str]:
    write(folder, {**tensors(folder), "q": np.ones(2, np.int8)})
    return "tensor-type-unsupported", "'q' is I8"


def _index_beside(folder: Path) -> tuple[str, str]:
    write_index(folder, {})
    return "weights-ambiguous", "model.safetensors.index.json"


def _shard_beside(folder: Path) -> tuple[str, str]:
    write_part = {"e": np.ones(2, np.float32)}
    save_file(write_part, folder / "model-00001-of-00002.safetensors")
    return "weights-ambiguous", "model-00001-of-00002.safetensors"


def _shard_unlisted(folder: Path) -> tuple[str, str]:
    shard(folder)
    stray = folder / "model-00003-of-00003.safetensors"
    save_file({"e": np.ones(2, np.float32)}, stray)
    return "tensor-index-differs", stray.name


def _shard_missing(folder: Path) -> tuple[str, str]:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return "weights-missing", "model-00002-of-00002.safetensors"


def _index_missing(folder: Path) -> tuple[str, str]:
    shard(folder)
    (folder / "model.safetensors.index.json").unlink()
    return "tensor-index-missing", "model.safetensors.index.json"


def _tensor_in_two(folder: Path) -> tuple[str, str]:
    shard(folder)
    path = folder / "model-00002-of-00002.safetensors"
    save_file({name: np.ones(2, np.float32) for name in "abd"}, path)
    return "tensor-duplicated", "'a'"


def _tensor_elsewhere(folder: Path) -> tuple[str, str]:
    index = shard(folder)
    write_index(folder, {**index, "a": index["b"]})
    return "tensor-index-differs", "'a' is in model-00001-of-00002"


def _tensor_nowhere(folder: Path) -> tuple[str, str]:
    index = shard(folder)
    write_index(folder, {**index, "z": index["b"]})
    return "tensor-index-differs", "'z' is not in model-00002-of-00002"


def _tensor_unlisted(folder: Path) -> tuple[str, str]:
    index = shard(folder)
    write_index(folder, {n: f for n, f in index.items() if n != "c"})
    return "tensor-index-differs", "'c' is in model-00001-of-00002"


def _shard_by_path(folder: Path) -> tuple[str, str]:
    index = shard(folder)
    write_index(folder, {**index, "a": "../model-00001-of-00002.safetensors"})
    return "tensor-index-invalid", "'a' is in '../model-00001"


def _index_of_numbers(folder: Path) -> tuple[str, str]:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}')
    return "tensor-index-invalid", "'a' is in 1"


def _index_without_map(folder: Path) -> tuple[str, str]:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"a": 1}))
    return "tensor-index-invalid", "weight_map"


@pytest.mark.parametrize(
    "damage",
    [
        _truncated, _whole_numbers, _index_beside, _shard_beside, _shard_unlisted,
        _shard_missing, _index_missing, _tensor_in_two, _tensor_elsewhere,
        _tensor_nowhere, _tensor_unlisted, _shard_by_path, _index_of_numbers,
        _index_without_map,
    ],
    ids=lambda each: each.__name__.strip("_"),
)  # fmt: skip
def test_weights_that_have_two_readings_are_refused_by_name(
    folder: Path, damage: Callable[[Path], tuple[str, str]]
) -> None:
    code, named = damage(folder)
    error = _refused(folder, code)
    assert isinstance(error, ConfigError)
    assert named in str(error)
