"""Physical batches for the memory that there is."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tapestry.errors import ResourceError
from tapestry.workloads.hardware import Machine
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.workload_registry import open_workload
from tapestry_node.training import dp_sgd
from tapestry_node.training.microbatches import BatchLimits
from tapestry_node.training.step_memory import LIBRARIES, StepMemory
from tests.support import plans
from tests.support.model_folders import build, in_type
from tests.support.refusals import refused

PLAN = plans.training_plan(**plans.LOW_RANK)
MOST = BatchLimits(rows=16, elements=2048)
MIDDLE = {
    "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536,
    "num_hidden_layers": 12, "max_position_embeddings": 256,
}  # fmt: skip
MEMORY = StepMemory(held=1000, row=0, kept=10.0, recomputed=2.0)


@pytest.mark.parametrize(
    ("memory", "elements", "recompute"),
    [
        (None, 2048, False),
        (10**9, 2048, False),
        (1000 + 20_000, 1600, False),
        (1000 + 6_400, 512, False),  # the fewest that keep a processor busy
        (1000 + 6_300, 2048, True),
        (1000 + 320, 128, True),
    ],
)
def test_the_largest_batch_that_fits_is_chosen(
    memory: int | None, elements: int, recompute: bool
) -> None:
    found = MEMORY.choose(MOST, longest=128, memory=memory)

    want = replace(MOST, elements=elements, gradient_bytes=0, recompute=recompute)
    assert found.limits == want
    assert memory is None or found.bytes <= memory
    assert found.bytes > MEMORY.held


@pytest.mark.parametrize("longest", [2047, 2048, 2049, 8192])
@pytest.mark.parametrize("memory", [None, 10**9])
def test_one_row_of_any_length_may_run(longest: int, memory: int | None) -> None:
    found = MEMORY.choose(MOST, longest=longest, memory=memory)
    assert found.limits.elements == max(longest, MOST.elements)
    assert found.limits.rows_of(longest) == 1


def test_gradients_of_single_rows_take_a_third_of_the_room() -> None:
    memory = replace(MEMORY, row=1000)
    most = memory.choose(MOST, longest=128, memory=None)
    assert most.limits.gradient_bytes == 16 * memory.row
    some = memory.choose(MOST, longest=128, memory=1000 + 9000)
    assert some.limits.gradient_bytes == 3000
    assert some.bytes <= 10_000
    none = memory.choose(MOST, longest=128, memory=1000 + 5000)
    assert none.limits.gradient_bytes == 0  # one unit after another


@pytest.mark.parametrize("memory", [1000 + 319, 999, 1])
def test_a_step_of_which_no_row_fits_is_refused(memory: int) -> None:
    with refused(ResourceError, "memory-too-small", match="one sequence of 128"):
        MEMORY.choose(MOST, longest=128, memory=memory)


def test_what_is_kept_is_counted_without_the_parameters() -> None:
    model = build_tiny()
    with model.attach(PLAN) as parameters:
        problem = dp_sgd.problem_of(model, parameters)
        found = StepMemory.of(problem, private=True)
        again = StepMemory.of(problem, private=True)

    size = sum(p.numel() for p in model.module.parameters()) * 4
    assert found == again
    assert LIBRARIES + size <= found.held < LIBRARIES + size + 100_000
    # Four layers of width 96: kept are inputs of norms, projections, and the unit.
    assert 4 * 4 * (10 * 96) < found.kept < 2 * 4 * 4 * (20 * 96 + 6 * 256)
    assert found.recomputed < found.kept / 2


def test_a_trial_leaves_the_model_as_it_was() -> None:
    model = build_tiny()
    before = model.parameters()
    flags = [p.requires_grad for p in model.module.parameters()]

    dp_sgd.measure(model, PLAN, private=True, most=MOST, memory=10**10)

    after = model.parameters()
    assert all((before[name] == after[name]).all() for name in before)
    assert [p.requires_grad for p in model.module.parameters()] == flags
    assert not any(hasattr(m, "lora_A") for m in model.module.modules())
    assert not model.module.is_activation_checkpointing


_STEP = """
import json, sys
from tapestry.workloads.hardware import Machine
from tapestry.workloads.workload_registry import open_workload
from tapestry_node.training import dp_sgd
from tapestry_node.training.microbatches import BatchLimits
from tests.support import plans

folder, recompute = sys.argv[1], sys.argv[2] == "True"
model = open_workload("language", folder, machine=Machine(memory=10**9))
plan = plans.training_plan(
    steps=1, batch_size=16, options={"sequence_length": 128}, **plans.LOW_RANK
)
size = dp_sgd.measure(model, plan, private=True, most=BatchLimits(), memory=None)
if recompute:
    with model.attach(plan) as parameters:
        problem = dp_sgd.problem_of(model, parameters)
        memory = dp_sgd.StepMemory.of(problem, private=True)
    limits = BatchLimits(recompute=True)
    expected = memory.held + 16 * memory.row + int(limits.elements * memory.recomputed)
else:
    limits, expected = size.limits, size.bytes
dp_sgd.update(
    model,
    model.examples(["x" * 126] * 16, plan.options),
    training=plan,
    privacy=plans.privacy_plan(),
    records=16,
    runtime=dp_sgd.Runtime(limits=limits),
)
status = open("/proc/self/status", encoding="ascii").read()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
json.dump({"peak": peak, "expected": expected}, sys.stdout)
"""


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_the_estimate_is_near_the_memory_of_a_real_process(
    tmp_path: Path, recompute: bool
) -> None:
    folder = in_type(build(tmp_path / "llama", "llama", **MIDDLE), "BF16")
    run = subprocess.run(
        [sys.executable, "-c", _STEP, str(folder), str(recompute)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert 0.6 < found["peak"] / found["expected"] < 1.1, found


@pytest.mark.gpu
def test_the_estimate_is_near_the_memory_of_an_accelerator(tmp_path: Path) -> None:
    folder = build(tmp_path / "llama", "llama", **MIDDLE)
    model = open_workload("language", str(folder), machine=Machine(device="cuda"))
    plan = plans.training_plan(
        steps=1, batch_size=16, options={"sequence_length": 128}, **plans.LOW_RANK
    )
    size = dp_sgd.measure(model, plan, private=True, most=BatchLimits(), memory=None)
    torch.cuda.reset_peak_memory_stats()

    dp_sgd.update(
        model,
        model.examples(["x" * 126] * 16, plan.options),
        training=plan,
        privacy=plans.privacy_plan(),
        records=16,
        runtime=dp_sgd.Runtime(limits=size.limits),
    )

    peak = torch.cuda.max_memory_allocated()
    assert 0.4 < peak / (size.bytes - LIBRARIES) < 1.1
