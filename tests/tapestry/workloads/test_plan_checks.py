"""Whatever of a plan cannot be is refused with value, rule and remedy."""

from typing import Any

import pytest

from tapestry.errors import ConfigError
from tapestry.protocol.round_manifest import NesterovStep
from tapestry.workloads import plan_checks
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.workload import LanguageWorkload
from tests.support import plans, tiny_models


@pytest.fixture(scope="module")
def model() -> LanguageWorkload:
    return build_tiny()


def test_a_plan_that_fits_gives_its_layout(model: LanguageWorkload) -> None:
    for changes in ({}, plans.LOW_RANK):
        plan = plans.training_plan(**changes)
        found = plan_checks.check_plan(model, plan, plans.privacy_plan())
        assert found == model.layout(plan)
    plan_checks.check_model(model, plans.privacy_plan())


@pytest.mark.parametrize(
    ("training", "privacy", "said"),
    [
        (
            {"options": {"sequence_length": 1025}},
            {},
            "1025 is above the 1024 positions .*; lower it",
        ),
        ({"learning_rate": "0"}, {}, "learning rate 0 is not positive"),
        ({"learning_rate": "1000001"}, {}, "learning rate 1000001 is above 1e"),
        ({"weight_decay": "-1"}, {}, "weight decay -1 is out of range"),
        ({"weight_decay": "10"}, {}, "weight decay 10 is out of range"),
        (
            plans.LOW_RANK | {"targets": ("no",)},
            {},
            "no linear module 'no'.*may be down_proj",
        ),
        (plans.LOW_RANK | {"rank": 0}, {}, "rank 0 trains nothing"),
        (plans.LOW_RANK | {"rank": 97}, {}, "rank 97 is above the 96"),
        ({}, {"clip_norm": "0"}, "clip norm 0 .* must both be positive"),
        ({}, {"noise_multiplier": "0"}, "multiplier 0 must both .*noise = 'none'"),
        ({}, {"noise_multiplier": "0.19"}, "0.19 gives no finite epsilon; take 0.2"),
        ({}, {"noise": "shared"}, "shared noise takes one .*; the plan has 3 of sgd"),
        ({}, {"noise_multiplier": "10000000"}, "noise"),
    ],
)
def test_what_a_plan_asks_in_vain_is_named(
    model: LanguageWorkload,
    training: dict[str, Any],
    privacy: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_checks.check_plan(
            model,
            plans.training_plan(**training),
            plans.privacy_plan(**privacy),
        )


def test_declared_records_bound_batch_and_delta() -> None:
    plan, privacy = plans.training_plan(batch_size=9), plans.privacy_plan()
    plan_checks.check_records(plan, privacy, records=9)
    with pytest.raises(ConfigError, match=r"batch size 9 .* the 8 records"):
        plan_checks.check_records(plan, privacy, records=8)
    with pytest.raises(ConfigError, match="not below 1/100000"):
        plan_checks.check_records(plan, privacy, records=100_000)


def test_a_model_that_is_not_float32_is_refused_even_without_noise() -> None:
    model = build_tiny()
    model.module.bfloat16()
    for noise in ("none", "local"):
        with pytest.raises(ConfigError, match=r"is torch\.bfloat16; training needs fl"):
            plan_checks.check_model(model, plans.privacy_plan(noise=noise))


def test_without_noise_any_architecture_will_do() -> None:
    model = LanguageWorkload(tiny_models.llama(kind="phi"), build_tiny().tokenizer)
    plan_checks.check_model(model, plans.privacy_plan(noise="none"))
    with pytest.raises(ConfigError, match="architecture 'phi'"):
        plan_checks.check_model(model, plans.privacy_plan())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": "0"}, "outer.learning_rate 0 is not positive"),
        ({"max_norm": "0"}, "outer.max_norm 0 is not positive"),
        ({"momentum": "1"}, "outer.momentum 1 is not in"),
        ({"momentum": "-0.1"}, "outer.momentum -0.1 is not in"),
    ],
)
def test_an_outer_step_in_vain_is_named(changes: dict[str, str], said: str) -> None:
    fit = {
        "optimizer": "nesterov",
        "learning_rate": "1",
        "momentum": "0",
        "max_norm": "1",
        "max_loss_increase": "0",
    }
    plan_checks.check_outer(NesterovStep.model_validate(fit))
    with pytest.raises(ConfigError, match=said):
        plan_checks.check_outer(NesterovStep.model_validate(fit | changes))
