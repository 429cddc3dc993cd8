"""LoRA layers go in at zero and come out without a trace."""

import numpy as np
import pytest
import torch
from torch import nn

from tapestry.workloads.lora_layers import inserted, restoring

FACTOR = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]], np.float32)


def _module() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))


def _facts(module: nn.Module) -> tuple[object, ...]:
    names = [(name, type(each)) for name, each in module.named_modules()]
    flags = [each.requires_grad for each in module.parameters()]
    return names, flags, sorted(vars(module))


def test_b_starts_at_zero_over_the_given_factor_and_moves_the_layer() -> None:
    module, rows = _module(), torch.ones(1, 3)
    module.requires_grad_(requires_grad=False)
    before = module(rows)
    with inserted(module, {"0": FACTOR}) as left:
        assert {name: tuple(b.shape) for name, b in left.items()} == {"0": (2, 2)}
        assert [b.requires_grad for b in left.values()] == [True]
        trained = [p for p in module.parameters() if p.requires_grad]
        assert trained == [left["0"]]
        assert torch.equal(module(rows), before)
        with torch.no_grad():
            left["0"].copy_(torch.eye(2))
        moved = module[0](rows)
    wanted = module[0](rows) + rows @ torch.from_numpy(FACTOR).T
    assert torch.allclose(moved, wanted)
    assert torch.equal(module(rows), before)


def test_nothing_is_left_after_a_failure_inside() -> None:
    module = _module()
    module[0].weight.requires_grad = False
    before = _facts(module)

    def fail_inside() -> None:
        with inserted(module, {"0": FACTOR, "2": FACTOR[:, :2]}):
            assert _facts(module) != before
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail_inside()
    assert _facts(module) == before


def test_inserting_draws_nothing_from_the_global_generator() -> None:
    module = _module()
    state = torch.random.get_rng_state()
    with inserted(module, {"0": FACTOR}):
        pass
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_was_set_on_the_module_inside_is_taken_off() -> None:
    module = _module()
    before = _facts(module)
    with restoring(module):
        module.peft_config = {}  # type: ignore[assignment]  # as PEFT does
        module.requires_grad_(requires_grad=False)
        assert _facts(module) != before
    assert _facts(module) == before
