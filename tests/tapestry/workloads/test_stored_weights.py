"""Frozen weights in bfloat16 or float16, and results as with float32."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tapestry.artifacts import model_folder
from tapestry.privacy.gaussian import NoiseSource
from tapestry.tensor_types import widen
from tapestry.vectors import FloatVector
from tapestry.workloads.hardware import Machine
from tapestry.workloads.language.architecture_names import ARCHITECTURES
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry.workloads.stored_weights import keep_stored
from tapestry_node.training import dp_sgd
from tapestry_node.training.microbatches import BatchLimits
from tests.support import plans
from tests.support.model_folders import build, in_type

TEXTS = ["one two", "a longer text than the first one, with more tokens"]
ROWS = [(65, 66, 67, 68, 69, 70), (5, 6, 7), (200, 100, 50, 25)]
NARROW, WIDE = Machine(memory=1), Machine(memory=None)
LIMITS, RECOMPUTED = BatchLimits(), BatchLimits(recompute=True)
PLANS: dict[str, dict[str, Any]] = {
    "low_rank": {
        "parameterization": "low_rank",
        "rank": 2,
        "targets": ("q_proj", "down_proj"),
    },
    "full": {},
}


def opened(folder: Path, machine: Machine) -> LanguageWorkload:
    return LanguageWorkload.of_folder(model_folder.read(folder), machine)


def update(
    model: LanguageWorkload, plan: dict[str, Any], limits: BatchLimits = LIMITS
) -> FloatVector:
    training = plans.training_plan(steps=2, **plan)
    source = NoiseSource.unsafe_from_key(bytes(32))
    return dp_sgd.update(
        model,
        model.examples(TEXTS * 4, training.options),
        training=training,
        privacy=plans.privacy_plan(),
        records=8,
        runtime=dp_sgd.Runtime(source=source, limits=limits),
    ).values


def types(model: LanguageWorkload) -> set[torch.dtype]:
    return {parameter.dtype for parameter in model.module.parameters()}


@pytest.mark.parametrize("stored", ["BF16", "F16"])
@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_results_have_the_bits_of_float32(
    kind: str, stored: str, tmp_path: Path
) -> None:
    folder = in_type(build(tmp_path / kind, kind), stored)
    narrow, wide = opened(folder, NARROW), opened(folder, WIDE)

    assert types(narrow) > {torch.float32}  # norms
    assert types(wide) == {torch.float32}
    assert torch.equal(narrow.losses(ROWS), wide.losses(ROWS))
    coarse = [m.evaluate(TEXTS, sequence_length=8, coarse=True) for m in (narrow, wide)]
    assert coarse[0] == coarse[1]
    said = [m.complete_all(TEXTS, max_tokens=5) for m in (narrow, wide)]
    assert said[0] == said[1]


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_updates_have_the_bits_of_float32(
    kind: str, plan: dict[str, Any], tmp_path: Path
) -> None:
    folder = in_type(build(tmp_path / kind, kind), "BF16")
    narrow, wide = opened(folder, NARROW), opened(folder, WIDE)
    before = narrow.given.digest

    found = update(narrow, plan)

    assert np.array_equal(found, update(wide, plan))
    assert np.any(found)
    assert replace(narrow.given, hashes=None).digest == before  # arrays are shared
    assert types(narrow) > {torch.float32}
    assert np.array_equal(found, update(narrow, plan, RECOMPUTED))


def test_another_architecture_is_widened(tmp_path: Path) -> None:
    folder = in_type(build(tmp_path / "gemma", "gemma"), "BF16")

    model = opened(folder, NARROW)

    assert types(model) == {torch.float32}
    assert torch.equal(model.losses(ROWS), opened(folder, WIDE).losses(ROWS))


def test_a_module_shares_the_memory_of_what_was_read(tmp_path: Path) -> None:
    folder = in_type(build(tmp_path / "llama", "llama"), "BF16")
    model = opened(folder, NARROW)

    for name, parameter in model.module.named_parameters():
        given = model.given.tensors[name]
        shared = parameter.data_ptr() == given.__array_interface__["data"][0]
        assert shared == (parameter.dtype == torch.bfloat16)
        assert np.array_equal(model.parameters()[name], widen(given))


def test_what_is_loaded_later_may_have_other_types(tmp_path: Path) -> None:
    """A round moves some tensors, which are float32 from then on."""
    folder = in_type(build(tmp_path / "llama", "llama"), "BF16")
    narrow, wide = opened(folder, NARROW), opened(folder, WIDE)
    moved = {
        name: widen(tensor) + np.float32(1e-3) if "q_proj" in name else tensor
        for name, tensor in narrow.given.tensors.items()
    }

    for model in (narrow, wide):
        model.load(moved)

    assert torch.equal(narrow.losses(ROWS), wide.losses(ROWS))
    for name, value in narrow.parameters().items():
        assert np.array_equal(value, widen(moved[name]))


@pytest.mark.gpu
@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_an_accelerator_gives_what_the_processor_gives(
    is_stored: bool, plan: dict[str, Any], tmp_path: Path
) -> None:
    folder = in_type(build(tmp_path / "llama", "llama"), "BF16")
    model = opened(folder, Machine(device="cuda"))
    if is_stored:  # as where the device's memory is small
        keep_stored(model.module)
        model.load(model.given.tensors)
    here = opened(folder, WIDE)

    assert {p.device.type for p in model.module.parameters()} == {"cuda"}
    assert {b.device.type for b in model.module.buffers()} == {"cuda"}
    assert torch.allclose(model.losses(ROWS).cpu(), here.losses(ROWS), rtol=1e-4)
    want, got = update(here, plan), update(model, plan)
    assert np.linalg.norm(want - got) < 1e-4 * np.linalg.norm(want)
    again = update(model, plan, RECOMPUTED)
    assert np.linalg.norm(want - again) < 1e-4 * np.linalg.norm(want)
    for name, value in model.parameters().items():
        assert np.array_equal(value, widen(model.given.tensors[name]))
    answers = [m.complete_all(TEXTS, max_tokens=5) for m in (model, here)]
    assert answers[0] == answers[1]
