"""What a folder says in two places is the same, or refused with both names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestry.artifacts import model_folder
from tapestry.errors import ConfigError
from tapestry.workloads.language.model import LanguageModel
from tests.support.model_folders import build, edit
from tests.support.refusals import refused

Change = Callable[[Path], object]
TEMPLATE = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("healthy") / "llama", "llama")


@pytest.fixture
def folder(healthy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(healthy, tmp_path / "base"))


def _read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text("utf-8"))


def _put(folder: Path, name: str, value: object) -> None:
    if not isinstance(value, bytes):
        text = value if isinstance(value, str) else json.dumps(value)
        value = text.encode()
    (folder / name).write_bytes(value)


def _rotary(**changes: object) -> Change:
    def change(folder: Path) -> None:
        edit(folder, "config.json", **changes)

    return change


def _template(folder: Path, other: str) -> None:
    edit(folder, "tokenizer_config.json", chat_template=TEMPLATE)
    _put(folder, "chat_template.jinja", other)


def _vocabulary(folder: Path, **changes: object) -> None:
    tokens = _read(folder, "tokenizer.json")["model"]["vocab"] | changes
    _put(folder, "vocab.json", {t: n for t, n in tokens.items() if n is not None})


def _decoder(folder: Path, number: str, token: object) -> None:
    edit(folder, "tokenizer_config.json", added_tokens_decoder={number: token})


DIFFERENT: dict[str, tuple[Change, str, str]] = {
    "two bases of the rotation": (
        _rotary(rope_theta=500000.0),
        "model-sources-differ",
        "rope_theta is 500000.0, rope_parameters.rope_theta is 10000.0",
    ),
    "two rotations": (
        _rotary(rope_scaling={"rope_type": "linear", "factor": 2.0}),
        "model-sources-differ",
        "rope_scaling is",
    ),
    "two types of one rotation": (
        _rotary(
            rope_parameters={"type": "yarn", "rope_type": "default", "rope_theta": 1e4}
        ),
        "model-sources-differ",
        "rope_parameters.type is 'yarn', rope_parameters.rope_type is 'default'",
    ),
    "a base that no kind of layer has": (
        _rotary(
            rope_theta=5.0,
            rope_parameters={"full_attention": {"rope_theta": 7.0}},
        ),
        "model-sources-differ",
        "rope_theta is 5.0, rope_parameters.*.rope_theta is 7.0",
    ),
    "two precisions": (
        _rotary(torch_dtype="float16", dtype="bfloat16"),
        "model-sources-differ",
        "torch_dtype is 'float16', dtype is 'bfloat16'",
    ),
    "two precisions of a part": (
        _rotary(text_config={"torch_dtype": "float16", "dtype": "bfloat16"}),
        "model-sources-differ",
        "text_config.torch_dtype",
    ),
    "two templates": (
        lambda folder: _template(folder, "B" + TEMPLATE),
        "model-sources-differ",
        "chat_template.jinja is not the chat_template of tokenizer_config.json",
    ),
    "a template in another encoding": (
        lambda folder: _put(folder, "chat_template.jinja", b"\xff"),
        "text-not-utf8",
        "chat_template.jinja",
    ),
    "a template of megabytes": (
        lambda folder: _put(folder, "chat_template.jinja", " " * ((4 << 20) + 1)),
        "file-too-large",
        "chat_template.jinja is over 4194304 bytes",
    ),
    "named templates": (
        lambda folder: edit(
            folder,
            "tokenizer_config.json",
            chat_template=[{"name": "default", "template": TEMPLATE}],
        ),
        "model-setting-invalid",
        "chat_template",
    ),
    "another vocabulary": (
        lambda folder: _put(folder, "vocab.json", {"zzz": 0}),
        "model-sources-differ",
        "vocab.json: token 'zzz' is number 0, in tokenizer.json None",
    ),
    "another number": (
        lambda folder: _vocabulary(folder, a=7),
        "model-sources-differ",
        "vocab.json: token 'a' is number 7, in tokenizer.json",
    ),
    "a word fewer": (
        lambda folder: _vocabulary(folder, a=None),
        "model-sources-differ",
        "vocab.json: token 'a' is number None",
    ),
    "other merges": (
        lambda folder: _put(folder, "merges.txt", "#version: 0.2\na b\n"),
        "model-sources-differ",
        "merges.txt has not the merges of tokenizer.json",
    ),
    "another added token": (
        lambda folder: _put(folder, "added_tokens.json", {"<new>": 259}),
        "model-sources-differ",
        "added_tokens.json: token '<new>' is number 259, in tokenizer.json None",
    ),
    "another number of an added token": (
        lambda folder: _put(folder, "added_tokens.json", {"</s>": 256}),
        "model-sources-differ",
        "added_tokens.json: token '</s>' is number 256, in tokenizer.json 257",
    ),
    "another decoder": (
        lambda folder: _decoder(folder, "257", {"content": "</t>"}),
        "model-sources-differ",
        "added_tokens_decoder): token '</t>' is number 257",
    ),
    "a decoder of lists": (
        lambda folder: _decoder(folder, "257", []),
        "model-setting-invalid",
        "added_tokens_decoder",
    ),
    "another end": (
        lambda folder: _put(
            folder, "special_tokens_map.json", {"eos_token": {"content": "<pad>"}}
        ),
        "model-sources-differ",
        "special_tokens_map.json: eos_token is '<pad>', tokenizer_config.json says",
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_two_places_that_differ_are_refused(folder: Path, case: str) -> None:
    change, code, said = DIFFERENT[case]
    change(folder)
    with refused(ConfigError, code) as caught:
        model_folder.read(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_places_that_say_the_same_open(folder: Path) -> None:
    rotary = _read(folder, "config.json")["rope_parameters"]
    edit(folder, "config.json", rope_theta=rotary["rope_theta"], rope_scaling=rotary)
    edit(folder, "config.json", torch_dtype="float32", dtype="float32")
    _template(folder, TEMPLATE + "\n")
    _vocabulary(folder, **{"</s>": 257})
    _put(folder, "merges.txt", "#version: 0.2\n")
    _put(folder, "added_tokens.json", {"</s>": 257})
    _put(folder, "special_tokens_map.json", {"eos_token": "</s>"})
    _decoder(folder, "257", {"content": "</s>", "special": True})
    assert LanguageModel.open(folder).tokenizer.eos_token_id == 257


def test_a_key_and_its_other_name_agree(tmp_path: Path) -> None:
    folder = build(tmp_path / "gpt2", "gpt2")
    edit(folder, "config.json", num_hidden_layers=2, n_embd=32)
    LanguageModel.open(folder)
    edit(folder, "config.json", num_hidden_layers=1)
    said = "num_hidden_layers is 1, n_layer is 2"
    with refused(ConfigError, "model-setting-invalid", match=said):
        LanguageModel.open(folder)


def test_a_special_token_that_only_the_map_names_is_the_one_in_use(
    folder: Path,
) -> None:
    edit(folder, "tokenizer_config.json", eos_token=None)
    _put(folder, "special_tokens_map.json", {"eos_token": "<pad>"})
    assert LanguageModel.open(folder).tokenizer.eos_token_id == 258
