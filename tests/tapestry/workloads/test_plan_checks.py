"""Whatever of a plan cannot be is refused with value, rule and remedy."""

from typing import Any

import pytest

from tapestry.errors import ConfigError
from tapestry.protocol.round_manifest import NesterovStep
from tapestry.workloads import plan_checks
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.workload import LanguageWorkload
from tests.support import plans, tiny_models
from tests.support.refusals import refused


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
    ("training", "privacy", "code", "values"),
    [
        (
            {"options": {"sequence_length": 1025}},
            {},
            "sequence-too-long",
            "1025 .* 1024 ",
        ),
        ({"learning_rate": "0"}, {}, "setting-out-of-range", "learning rate 0 "),
        ({"learning_rate": "1000001"}, {}, "setting-out-of-range", "1000001 .* 1e"),
        ({"weight_decay": "-1"}, {}, "setting-out-of-range", "weight decay -1 "),
        ({"weight_decay": "10"}, {}, "setting-out-of-range", "weight decay 10 "),
        (
            plans.LOW_RANK | {"targets": ("no",)},
            {},
            "target-module-unknown",
            "'no'.*down_proj",
        ),
        (plans.LOW_RANK | {"rank": 0}, {}, "rank-zero", "rank 0 "),
        (plans.LOW_RANK | {"rank": 97}, {}, "rank-too-high", "rank 97 .* 96"),
        ({}, {"clip_norm": "0"}, "noise-not-positive", "clip norm 0 "),
        ({}, {"noise_multiplier": "0"}, "noise-not-positive", "multiplier 0 "),
        ({}, {"noise_multiplier": "0.19"}, "noise-too-small", "0.19 .* 0.2 "),
        ({}, {"noise": "shared"}, "shared-noise-plan-invalid", "3 of sgd"),
        ({}, {"noise_multiplier": "10000000"}, "rounding-too-coarse", "1e"),
    ],
)
def test_what_a_plan_asks_in_vain_is_named(
    model: LanguageWorkload,
    training: dict[str, Any],
    privacy: dict[str, Any],
    code: str,
    values: str,
) -> None:
    with refused(ConfigError, code, match=values):
        plan_checks.check_plan(
            model,
            plans.training_plan(**training),
            plans.privacy_plan(**privacy),
        )


def test_declared_records_bound_batch_and_delta() -> None:
    plan, privacy = plans.training_plan(batch_size=9), plans.privacy_plan()
    plan_checks.check_records(plan, privacy, records=9)
    with refused(ConfigError, "setting-out-of-range", match=r"9 .* 8 records"):
        plan_checks.check_records(plan, privacy, records=8)
    with refused(ConfigError, "delta-too-large", match="1/100000"):
        plan_checks.check_records(plan, privacy, records=100_000)


def test_without_noise_any_architecture_will_do() -> None:
    model = LanguageWorkload(tiny_models.llama(kind="phi"), build_tiny().tokenizer)
    plan_checks.check_model(model, plans.privacy_plan(noise="none"))
    with refused(ConfigError, "architecture-not-private", match="'phi'"):
        plan_checks.check_model(model, plans.privacy_plan())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": "0"}, "outer.learning_rate 0 "),
        ({"max_norm": "0"}, "outer.max_norm 0 "),
        ({"momentum": "1"}, "outer.momentum 1 "),
        ({"max_loss_increase": "-0.1"}, "outer.max_loss_increase -0.1 "),
        ({"momentum": "-0.1"}, "outer.momentum -0.1 "),
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
    with refused(ConfigError, "setting-out-of-range", match=said):
        plan_checks.check_outer(NesterovStep.model_validate(fit | changes))
