"""Targets are linear modules of the model, and a refusal names what can be targeted."""

from typing import Any

import pytest
from torch import nn

from tapestry.errors import ConfigError
from tapestry.protocol.round_manifest import TrainingPlan
from tapestry.workloads.target_modules import (
    find_targets,
    linear_modules,
)
from tests.support import plans, tiny_models
from tests.support.refusals import refused


def linear(module: nn.Module) -> dict[str, nn.Linear]:
    return linear_modules(module, dict(module.named_parameters()))


def model(kind: str, **settings: Any) -> nn.Module:
    import transformers

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4} if kind == "gpt2" else {}
    if not sizes:
        return tiny_models.llama(kind=kind, **settings)
    config = transformers.GPT2Config(vocab_size=64, n_positions=64, **sizes, **settings)
    module: nn.Module = transformers.GPT2LMHeadModel(config)
    return module


def plan(**changes: Any) -> TrainingPlan:
    return plans.training_plan(**(plans.LOW_RANK | changes))


def test_gpt2_has_no_linear_module_and_is_told_so() -> None:
    with refused(ConfigError, "target-module-unknown", match="Conv1D"):
        find_targets(linear(model("gpt2")), plan())


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"targets": ("c_attn",)}, "target-module-unknown", "'c_attn' .* down_proj, "),
        ({"targets": ()}, "target-module-missing", "down_proj, gate_p"),
        ({"rank": 0}, "rank-zero", "rank 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    changes: dict[str, Any], code: str, values: str
) -> None:
    with refused(ConfigError, code, match=values):
        find_targets(linear(model("llama")), plan(**changes))
