"""A trained update as a PEFT folder: plain LoRA, the same bytes, the same losses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from tapestry.artifacts import adapter_folder
from tapestry.errors import ConfigError, ResourceError
from tapestry.model.low_rank import factor
from tapestry.vectors import FloatVector
from tapestry.workloads.adapter_format import BaseName
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.peft_folder import base_path, write_peft
from tapestry.workloads.language.published_adapter import read_adapter
from tests.support.plans import training_plan
from tests.support.refusals import refused

PLAN = training_plan(
    parameterization="low_rank",
    rank=2,
    targets=("v_proj", "q_proj"),
    factor_seed="ab" * 32,
)
BASE = BaseName(name="base-1", digest="sha256:" + "1" * 64)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.set_num_threads(1)
    return build_tiny()


@pytest.fixture(scope="module")
def update(model: LanguageModel) -> FloatVector:
    generator = np.random.default_rng(5)
    return generator.normal(size=model.layout(PLAN).length).astype(np.float32)


@pytest.fixture
def folder(model: LanguageModel, update: FloatVector, tmp_path: Path) -> Path:
    write_peft(tmp_path / "new" / "italy", update, model=model, plan=PLAN, base=BASE)
    return tmp_path / "new" / "italy"


def test_a_written_adapter_is_one_that_the_strict_reader_takes(
    model: LanguageModel, folder: Path
) -> None:
    found = adapter_folder.read(folder)
    shapes = {name: value.shape for name, value in model.parameters().items()}
    found.check_fit(shapes)
    assert found.config.r == found.config.lora_alpha == 2
    assert found.config.target_modules == ("q_proj", "v_proj")
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_factor_a_is_the_public_one_of_the_plan_and_b_the_update(
    model: LanguageModel, update: FloatVector, folder: Path
) -> None:
    found = adapter_folder.read(folder)
    pieces = model.layout(PLAN).split(update)
    for module in found.modules:
        name = f"{module}.weight"
        width = model.parameters()[name].shape[1]
        public = factor(name, rank=2, width=width, seed=PLAN.factor_seed)
        assert np.array_equal(found.factor(module, "A"), public)
        assert np.array_equal(found.factor(module, "B"), pieces[name])


def test_a_loaded_adapter_computes_what_the_attached_plan_computed(
    model: LanguageModel, update: FloatVector, folder: Path
) -> None:
    pieces = model.layout(PLAN).split(update)
    rows = [[72, 70, 90, 33], [5, 6]]
    with model.attach(PLAN) as trained, torch.no_grad():
        for name, parameter in trained:
            parameter.copy_(torch.from_numpy(pieces[name].copy()))
        attached = model.losses(rows)
    with torch.no_grad():
        plain = model.losses(rows)
        with model.adapted(read_adapter(folder)):  # which loads it with peft
            theirs = model.losses(rows)
    assert not torch.allclose(attached, plain)
    torch.testing.assert_close(theirs, attached, rtol=1e-5, atol=1e-6)


def test_the_same_update_gives_the_same_bytes(
    model: LanguageModel, update: FloatVector, folder: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    write_peft(again, update, model=model, plan=PLAN, base=BASE)
    for path in folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()
    write_peft(again, -update, model=model, plan=PLAN, base=BASE)
    name = "adapter_model.safetensors"
    assert (again / name).read_bytes() != (folder / name).read_bytes()


def test_the_weights_name_their_base_and_the_library_reads_them_alike(
    folder: Path,
) -> None:
    path = folder / "adapter_model.safetensors"
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {
            "format": "pt",
            "base": "base-1",
            "base_digest": BASE.digest,
        }
    found = adapter_folder.read(folder)
    assert set(load_file(path)) == set(found.weights.tensors)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert header % 8 == 0


def test_the_configuration_says_where_the_base_lies_and_no_hub_can_answer(
    folder: Path,
) -> None:
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == base_path("base-1")
    assert base_path("base-1").startswith("./")
    assert config["inference_mode"] is True
    assert config["lora_dropout"] == 0


def test_a_plan_of_all_parameters_is_no_adapter(
    model: LanguageModel, tmp_path: Path
) -> None:
    plan = training_plan(parameterization="full")
    values = np.zeros(model.layout(plan).length, np.float32)
    with refused(ConfigError, "parameterization-not-low-rank", match="low_rank"):
        write_peft(tmp_path / "x", values, model=model, plan=plan, base=BASE)
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_written_is_named(
    model: LanguageModel, update: FloatVector, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with refused(ResourceError, "file-unwritable", match="file/italy"):
        write_peft(
            tmp_path / "file" / "italy", update, model=model, plan=PLAN, base=BASE
        )
