"""Models that private training must not take are refused by name, without a record."""

from typing import Any

import pytest
from torch import nn

from tapestry.errors import ConfigError
from tapestry.workloads.language.architecture_names import ARCHITECTURES
from tapestry.workloads.language.architectures import check_architecture
from tests.support import tiny_models
from tests.support.refusals import refused


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_a_tested_architecture_without_dropout_is_let_in(kind: str) -> None:
    check_architecture(tiny_models.llama(kind=kind))


@pytest.mark.parametrize("kind", ["phi", "gpt_neox", "mixtral"])
def test_another_architecture_is_refused_with_those_that_are_tested(kind: str) -> None:
    with refused(ConfigError, "architecture-not-private", match=f"'{kind}'.* llama, "):
        check_architecture(tiny_models.llama(kind=kind))


def test_a_module_without_a_configuration_is_refused() -> None:
    with refused(ConfigError, "architecture-not-private", match="None"):
        check_architecture(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "rates",
    [
        {"attention_dropout": 0.1},
        {"resid_pdrop": 0.1},
        {"text_config": {"hidden_dropout_prob": 0.2}},
        {"decoder_layerdrop": 0.5},
    ],
    ids=["attention", "residual", "a part's", "whole layers"],
)
def test_a_rate_of_dropout_in_the_configuration_is_refused(
    rates: dict[str, Any],
) -> None:
    module = tiny_models.llama()
    settings: Any = module.config
    for name, value in rates.items():
        setattr(settings, name, value)
    with refused(ConfigError, "dropout-not-private", match=r" is 0\.\d; "):
        check_architecture(module)


def test_a_rate_that_no_language_model_uses_does_not_matter() -> None:
    module = tiny_models.llama()
    settings: Any = module.config
    settings.classifier_dropout = 0.1
    check_architecture(module)


def test_dropout_in_a_module_is_refused_whatever_the_configuration_says() -> None:
    module: Any = tiny_models.llama()
    module.model.layers[1].extra = nn.Dropout(0.3)
    with refused(
        ConfigError, "dropout-not-private", match=r"model\.layers\.1\.extra\.p is 0\.3"
    ):
        check_architecture(module)
    module.model.layers[1].extra = nn.Dropout(0.0)
    check_architecture(module)
    module.model.layers[0].self_attn.attention_dropout = 0.2
    with refused(ConfigError, "dropout-not-private", match="attention_dropout"):
        check_architecture(module)


def test_dropout_of_an_attached_adapter_is_refused() -> None:
    import peft

    module = tiny_models.llama()
    config = peft.LoraConfig(r=2, lora_dropout=0.05, target_modules=["q_proj"])
    peft.LoraModel(module, {"default": config}, "default")
    with refused(ConfigError, "dropout-not-private", match=r"lora_dropout.*is 0\.05"):
        check_architecture(module)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(4), nn.SyncBatchNorm(4), nn.InstanceNorm1d(4)]
)
def test_statistics_over_a_batch_are_refused(norm: nn.Module) -> None:
    module: Any = tiny_models.llama()
    module.model.layers[0].norm_of_batch = norm
    kind = type(norm).__name__
    with refused(ConfigError, "architecture-not-private", match=kind):
        check_architecture(module)
