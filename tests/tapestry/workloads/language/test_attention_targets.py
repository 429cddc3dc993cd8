"""Targets are those of PEFT, or the projections of attention, or none."""

from typing import Any

import pytest
from torch import nn

from tapestry.errors import ConfigError
from tapestry.protocol.round_manifest import TrainingPlan
from tapestry.workloads.language.attention_targets import choose_targets
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


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        ("llama", ("q_proj", "v_proj")),
        ("qwen2", ("q_proj", "v_proj")),
        ("phi", ("q_proj", "v_proj", "fc1", "fc2")),
        ("gpt_neox", ("query_key_value",)),
        ("smollm3", ("q_proj", "k_proj", "v_proj", "o_proj")),
        ("phi3", ("o_proj", "qkv_proj")),
    ],
)
def test_targets_are_those_of_peft_or_the_projections_of_attention(
    kind: str, chosen: tuple[str, ...]
) -> None:
    module = model(kind)
    found = choose_targets(module, linear(module))
    assert found == chosen
    modules = find_targets(linear(module), plan(targets=found))
    assert len(modules) == 2 * len(chosen)  # of two layers


def test_gpt2_can_be_targeted_nowhere_and_is_told_so() -> None:
    module = model("gpt2")
    with refused(ConfigError, "target-module-missing", match="Conv1D"):
        choose_targets(module, linear(module))
    with refused(ConfigError, "target-module-unknown", match="Conv1D"):
        find_targets(linear(module), plan())


def test_a_head_alone_is_named_and_not_chosen() -> None:
    module = model("gpt2", tie_word_embeddings=False)
    with refused(ConfigError, "target-module-missing", match="lm_head$"):
        choose_targets(module, linear(module))
