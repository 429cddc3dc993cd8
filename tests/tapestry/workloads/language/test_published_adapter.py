"""A published adapter runs as it was written, or is refused by name."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
from safetensors.numpy import load_file, save_file

from tapestry.errors import ConfigError, ForeignFileError
from tapestry.vectors import parameters_digest
from tapestry.workloads.adapter_format import BaseName
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.peft_folder import write_peft
from tapestry.workloads.language.published_adapter import read_adapter
from tests.support.model_folders import build, edit
from tests.support.plans import training_plan
from tests.support.refusals import refused

_PLAN = training_plan(
    parameterization="low_rank",
    rank=2,
    targets=("q_proj", "down_proj"),
    factor_seed="ab" * 32,
    steps=1,
    batch_size=1,
)
_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return build_tiny()


@pytest.fixture
def folder(model: LanguageModel, tmp_path: Path) -> Path:
    place = tmp_path / "italy"
    generator = np.random.default_rng(5)
    update = generator.normal(size=model.layout(_PLAN).length).astype(np.float32)
    base = BaseName(name="base-1", digest=parameters_digest(model.parameters()))
    write_peft(place, update, model=model, plan=_PLAN, base=base)
    (place / "README.md").write_text("# italy\n")
    return place


def _change(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = load_file(folder / _WEIGHTS)
    change(values)
    save_file(values, folder / _WEIGHTS)


def _refused(model: LanguageModel, folder: Path, *codes: str) -> str:
    before = parameters_digest(model.parameters())
    modules = [name for name, _ in model.module.named_modules()]
    with (
        pytest.raises((ConfigError, ForeignFileError)) as caught,
        model.adapted(read_adapter(folder)),
    ):
        pass
    assert caught.value.code in codes
    assert "\n" not in str(caught.value)
    assert parameters_digest(model.parameters()) == before
    assert [name for name, _ in model.module.named_modules()] == modules
    return str(caught.value)


def test_a_written_adapter_runs_and_leaves_no_trace(
    model: LanguageModel, folder: Path
) -> None:
    plain = model.losses([[1, 2, 3]]).item()
    with model.adapted(read_adapter(folder)):
        assert model.losses([[1, 2, 3]]).item() != plain
    assert model.losses([[1, 2, 3]]).item() == plain


def _put(**tensors: Any) -> Callable[[dict[str, Any]], object]:
    """Set factors of the first layer's q_proj, by letter, or other tensors by name."""
    names = {"A": f"{_Q}.lora_A.weight", "B": f"{_Q}.lora_B.weight"}
    return lambda values: values.update(
        {names.get(k, k): v for k, v in tensors.items()}
    )


_FACTORS: dict[str, tuple[Callable[[dict[str, Any]], object], str, str]] = {
    "no B": (
        lambda v: v.pop(f"{_Q}.lora_B.weight"),
        "adapter-factor-missing",
        "q_proj",
    ),
    "no A": (
        lambda v: v.pop(f"{_Q}.lora_A.weight"),
        "adapter-factor-missing",
        "q_proj",
    ),
    "another tensor": (
        _put(x=np.ones(2, np.float32)),
        "adapter-tensor-unknown",
        "'x'",
    ),
    "double": (
        _put(B=np.ones((96, 2))),
        "tensor-type-unsupported",
        "lora_B.weight' is F64",
    ),
    "whole numbers": (
        _put(B=np.ones((96, 2), np.int8)),
        "tensor-type-unsupported",
        "lora_B.weight' is I8",
    ),
    "rank": (
        _put(A=np.ones((3, 96), np.float32)),
        "adapter-shape-mismatch",
        "lora_A.weight has shape (3, 96)",
    ),
    "height": (
        _put(B=np.ones((90, 2), np.float32)),
        "adapter-shape-mismatch",
        "lora_B.weight has shape (90, 2)",
    ),
    "NaN": (
        _put(B=np.full((96, 2), np.nan, np.float32)),
        "tensor-not-finite",
        "lora_B.weight",
    ),
    "unknown layer": (
        lambda v: v.update({k.replace("rs.0", "rs.9"): v.pop(k) for k in sorted(v)}),
        "adapter-shape-mismatch",
        "'model.layers.9",
    ),
    "layer left out": (
        lambda v: [v.pop(k) for k in sorted(v) if "layers.3" in k],
        "adapter-shape-mismatch",
        "layers.3",
    ),
}


@pytest.mark.parametrize(("change", "code", "values"), _FACTORS.values(), ids=_FACTORS)
def test_factors_that_do_not_fit_are_refused_by_name(
    model: LanguageModel,
    folder: Path,
    change: Callable[[dict[str, Any]], object],
    code: str,
    values: str,
) -> None:
    _change(folder, change)
    assert values in _refused(model, folder, code)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("modules_to_save", ["lm_head"]),
        ("r", 3),
        ("use_dora", True),
        ("bias", "all"),
        ("unheard_of", 1),
        ("inference_mode", False),
        ("auto_mapping", {"base_model_class": "X", "parent_library": "os"}),
    ],
)
def test_a_setting_that_is_not_plain_lora_is_refused_by_key(
    model: LanguageModel, folder: Path, key: str, value: object
) -> None:
    edit(folder, _CONFIG, **{key: value})
    codes = ("adapter-config-invalid", "adapter-shape-mismatch")
    message = _refused(model, folder, *codes)
    assert key in message or "the base needs (3, 96)" in message


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "adapter.py", "tokenizer.json", "config.json"]
)
def test_a_file_beside_an_adapter_is_refused_by_name(
    model: LanguageModel, folder: Path, name: str
) -> None:
    (folder / name).write_text("{}")
    assert name in _refused(model, folder, "foreign-file")


def test_what_peft_warns_of_is_a_refusal(
    model: LanguageModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = peft.PeftModel.from_pretrained

    def warn(*arguments: object, **options: object) -> object:
        warnings.warn("something was\nignored", UserWarning, stacklevel=1)
        return load(*arguments, **options)

    monkeypatch.setattr(peft.PeftModel, "from_pretrained", warn)
    assert "something was ignored" in _refused(model, folder, "model-unreadable")


def test_an_adapter_for_layers_that_are_not_linear_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    model = LanguageModel.open(build(tmp_path / "gpt2", "gpt2"))
    prefix = "base_model.model.transformer.h.0.attn.c_attn"
    values = {
        f"{prefix}.lora_A.weight": np.ones((2, 32), np.float32),
        f"{prefix}.lora_B.weight": np.ones((96, 2), np.float32),
    }
    save_file(values, folder / _WEIGHTS)
    edit(folder, _CONFIG, target_modules=["c_attn"])
    said = _refused(model, folder, "adapter-shape-mismatch")
    assert "'transformer.h.0.attn.c_attn'" in said


def test_a_folder_without_an_adapter_is_named(
    model: LanguageModel, tmp_path: Path
) -> None:
    for place, code in (
        (tmp_path / "nowhere", "folder-missing"),
        (tmp_path, "file-missing"),
    ):
        with (
            refused(ConfigError, code, match=str(place)),
            model.adapted(read_adapter(place)),
        ):
            pass
    (tmp_path / _CONFIG).write_text(json.dumps({}))
    with (
        refused(ConfigError, "adapter-config-invalid", match="adapter_config"),
        model.adapted(read_adapter(tmp_path)),
    ):
        pass
