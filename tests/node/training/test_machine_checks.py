"""What this machine cannot train is refused before it is paid for."""

from typing import Any

import pytest

from tapestry.errors import ResourceError
from tapestry.protocol.messages import Reason
from tapestry.vectors import Layout
from tapestry.workloads.hardware import Machine
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_node.refusal import Refused
from tapestry_node.training import dp_sgd
from tapestry_node.training.machine_checks import Trainable, check_memory
from tapestry_node.training.microbatches import BatchLimits
from tapestry_node.training.step_memory import LIBRARIES
from tests.support import plans
from tests.support.refusals import refused

UNKNOWN = Machine(memory=None)
PLAN = plans.training_plan(parameterization="low_rank", rank=2, targets=("q_proj",))


@pytest.fixture
def model() -> LanguageWorkload:
    return build_tiny()


def asked(
    model: LanguageWorkload, *, memory: int | None = None, **changes: Any
) -> Refused | None:
    plan = PLAN.model_copy(update=changes)
    found = Trainable(
        workload=model, records=64, limits=BatchLimits(), machine=Machine(memory=memory)
    )
    try:
        found.check(plan, plans.privacy_plan(), load=lambda: None)
    except Refused as error:
        return error
    return None


def test_what_fits_is_tried_once_for_each_plan(
    model: LanguageWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    honest = dp_sgd.probe

    def probe(workload: Any, plan: Any, *, limits: BatchLimits) -> None:
        tries.append(plan.factor_seed)
        honest(workload, plan, limits=limits)

    monkeypatch.setattr(dp_sgd, "probe", probe)
    found = Trainable(workload=model, records=64, limits=BatchLimits(), machine=UNKNOWN)
    for seed in ("0", "1", "1"):
        plan = PLAN.model_copy(update={"factor_seed": seed * 64})
        found.check(plan, plans.privacy_plan(), load=lambda: None)
    assert tries == ["0" * 64]  # the factors of a round change nothing about it
    wider = PLAN.model_copy(update={"targets": ("v_proj",)})
    found.check(wider, plans.privacy_plan(), load=lambda: None)
    assert len(tries) == 2


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"targets": ("no",)}, "target-module-unknown"),
        ({"batch_size": 65}, "setting-out-of-range"),
        ({"options": {"sequence_length": 2000}}, "sequence-too-long"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_by_the_code_of_its_rule(
    model: LanguageWorkload, changes: dict[str, Any], code: str
) -> None:
    fault = asked(model, **changes)
    assert fault is not None
    assert (fault.reason, fault.code) == (Reason.PLAN_UNSUPPORTED, code)


def test_gradients_that_fail_are_refused_in_words_and_not_as_a_crash(
    model: LanguageWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe(*_: Any, **__: Any) -> None:
        raise IndexError("index 5 is out of range\nof 4")

    monkeypatch.setattr(dp_sgd, "probe", probe)
    fault = asked(model)
    assert fault is not None
    assert fault.reason is Reason.MODEL_UNSUPPORTED
    assert fault.code == "gradients-not-computable"
    assert fault.detail == (
        "gradients of single examples fail: IndexError: index 5 is out of range of 4"
    )


def test_another_bases_broken_values_are_no_fault_of_the_model(
    model: LanguageWorkload,
) -> None:
    good = model.parameters()
    name = next(iter(good))
    model.load({**good, name: good[name] * float("nan")})
    found = Trainable(workload=model, records=64, limits=BatchLimits(), machine=UNKNOWN)
    with refused(Refused, "probe-not-finite", match="^model_unsupported: "):
        found.check(PLAN, plans.privacy_plan(), load=lambda: None)
    found.check(PLAN, plans.privacy_plan(), load=lambda: model.load(good))


def test_a_gradient_that_memory_cannot_hold_is_refused(
    model: LanguageWorkload,
) -> None:
    layout = Layout(tensors=(("w", (1 << 30,)),))
    check_memory(layout, available=20 << 30)
    check_memory(layout, available=None)
    with refused(
        ResourceError,
        "memory-too-small",
        match=r"takes 20\.0 GiB .*has 19\.0; train fewer",
    ):
        check_memory(layout, available=19 << 30)
    fault = asked(model, memory=1000)
    assert fault is not None
    assert (fault.reason, fault.code) == (Reason.MACHINE_UNFIT, "memory-too-small")


def test_a_step_that_memory_cannot_hold_is_refused_before_it_is_tried(
    model: LanguageWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dp_sgd, "probe", None)
    fault = asked(model, memory=LIBRARIES + 1_800_000)
    assert fault is not None
    assert (fault.reason, fault.code) == (Reason.MACHINE_UNFIT, "memory-too-small")
    assert "one sequence of 16 takes about 0.7 GB" in str(fault)
