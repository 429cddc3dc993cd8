"""A torch module of any kind: its parameters, and what a plan makes trainable."""

import numpy as np
import pytest
import torch
from torch import nn

from tapestry.errors import ConfigError, ProtocolError
from tapestry.protocol.round_manifest import TrainingPlan
from tapestry.workloads.torch_model import TorchModel
from tests.support.plans import training_plan
from tests.support.refusals import refused

FULL = training_plan()
LOW_RANK = training_plan(parameterization="low_rank", rank=1, targets=("2", "0"))


@pytest.fixture
def model() -> TorchModel:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return TorchModel(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))


def test_full_training_has_all_parameters_in_the_order_of_the_module(
    model: TorchModel,
) -> None:
    assert model.layout(FULL).tensors == (
        ("0.weight", (4, 3)),
        ("0.bias", (4,)),
        ("2.weight", (2, 4)),
        ("2.bias", (2,)),
    )
    assert model.choose_targets() == ("0", "2")


def test_low_rank_training_has_b_of_each_target_in_the_order_of_the_module(
    model: TorchModel,
) -> None:
    assert model.layout(LOW_RANK).tensors == (
        ("0.weight", (4, 1)),
        ("2.weight", (2, 1)),
    )
    with refused(ConfigError, "target-module-unknown", match="'9'"):
        model.layout(LOW_RANK.model_copy(update={"targets": ("9",)}))


def test_a_tied_parameter_is_named_once() -> None:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    assert list(TorchModel(module).parameters()) == ["0.weight"]


def test_parameters_go_out_as_copies_and_in_exactly(model: TorchModel) -> None:
    before = model.parameters()
    changed = {name: value + 1 for name, value in before.items()}
    for value in model.parameters().values():
        np.add(value, 5, out=value)
    assert all(np.array_equal(v, before[n]) for n, v in model.parameters().items())
    model.load(changed)
    assert all(np.array_equal(v, changed[n]) for n, v in model.parameters().items())


def test_parameters_of_other_names_or_shapes_are_refused_whole(
    model: TorchModel,
) -> None:
    good = model.parameters()
    changed = {name: value + 1 for name, value in good.items()}
    lacking = {n: v for n, v in changed.items() if n != "2.bias"}
    shorter = {**changed, "2.bias": changed["2.bias"][:1]}
    for bad, code, values in (
        ({**changed, "extra": changed["2.bias"]}, "tensor-set-differs", "'extra'"),
        (lacking, "tensor-set-differs", "'2.bias'"),
        (shorter, "tensor-shape-differs", r"'2.bias' of shape \(1,\)"),
    ):
        with refused(ProtocolError, code, match=values):
            model.load(bad)
        assert all(np.array_equal(v, good[n]) for n, v in model.parameters().items())


@pytest.mark.parametrize("plan", [FULL, LOW_RANK], ids=lambda p: p.parameterization)
def test_attaching_makes_the_layout_trainable_and_leaves_no_trace(
    model: TorchModel, plan: TrainingPlan
) -> None:
    before = model.parameters()
    model.module.eval()
    model.module[0].bias.requires_grad = False  # type: ignore[index]

    def fail_inside() -> None:
        with model.attach(plan) as trained:
            assert [n for n, _ in trained] == [n for n, _ in model.layout(plan).tensors]
            wanted = [p for p in model.module.parameters() if p.requires_grad]
            assert {id(p) for p in wanted} == {id(p) for _, p in trained}
            assert model.module.training
            model.module(torch.ones(1, 3)).sum().backward()
            with torch.no_grad():
                for _, parameter in trained:
                    parameter.add_(1)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail_inside()
    assert not model.module.training
    assert all(np.array_equal(v, before[n]) for n, v in model.parameters().items())
    named = dict(model.module.named_parameters())
    assert list(named) == list(before)
    assert [n for n, p in named.items() if not p.requires_grad] == ["0.bias"]
    assert all(p.grad is None for p in named.values())


def test_an_update_moves_the_module_while_it_is_attached(model: TorchModel) -> None:
    rows = torch.ones(1, 3)
    before = model.module(rows)
    length = model.layout(LOW_RANK).length
    with model.moved(np.ones(length, np.float32), LOW_RANK):
        assert not torch.allclose(model.module(rows), before)
    assert torch.equal(model.module(rows), before)
    with model.moved(np.zeros(length, np.float32), LOW_RANK):
        assert torch.equal(model.module(rows), before)
    with (
        refused(ProtocolError, "vector-length-differs"),
        model.moved(np.ones(length + 1, np.float32), LOW_RANK),
    ):
        pass
