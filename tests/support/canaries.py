"""Gradient canaries beside a tiny Llama, trained by the product's own path."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tapestry.privacy.accounting import epsilon
from tapestry.privacy.gaussian import NoiseSource
from tapestry.workloads.language.tokens import TokenExample
from tapestry.workloads.plan_checks import local_steps
from tapestry_node.training.dp_sgd import Runtime, fit
from tapestry_node.training.per_example_gradients import Problem
from tests.support import plans, tiny_models
from tests.support.empirical_audit import gaussian_bound

_FIRST = 1000  # sequences that start with token 1000 + i carry canary i
_LOUD = 1e4  # drowns the language model's gradient, so that clipping leaves e_i


class Audited(nn.Module):
    """A language model and a coordinate per canary."""

    def __init__(self, model: nn.Module, count: int) -> None:
        super().__init__()
        self.model = model
        self.config: Any = model.config
        self.canary = nn.Embedding(count, 1)
        nn.init.zeros_(self.canary.weight)

    def losses(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        marks = [s[0] - _FIRST if s[0] >= _FIRST else -1 for s in sequences]
        texts = [s[1:] if s[0] >= _FIRST else s for s in sequences]
        loud = torch.tensor([_LOUD if mark >= 0 else 0.0 for mark in marks])
        moved: Tensor = self.canary(torch.tensor([[max(mark, 0)] for mark in marks]))
        return tiny_models.losses_of(self.model, texts) + loud * moved[:, 0, 0]


@contextmanager
def audited(count: int) -> Iterator[Problem]:
    """Train B of a LoRA and the canaries' coordinates."""
    model = tiny_models.llama()
    with tiny_models.lora(model) as inner:
        module = Audited(model, count)
        coordinates = module.get_parameter("canary.weight")
        yield Problem(
            module=module,
            parameters=[*inner.parameters, ("canary", coordinates)],
            losses=module.losses,
            probe=inner.probe,
            check_private=inner.check_private,
        )


def audit(
    source: NoiseSource, *, count: int = 1000, steps: int = 64, noise: str = "2"
) -> tuple[float, float]:
    """Train once with half of the canaries; return the bound and the claim."""
    inside = np.random.default_rng(5).random(count) < 0.5
    text = (5, 6, 7)
    units = [
        TokenExample(rows=((_FIRST + i, *text),)) for i in range(count) if inside[i]
    ]
    training = plans.training_plan(steps=steps, batch_size=len(units) // 4)
    privacy = plans.privacy_plan(noise_multiplier=noise)
    with audited(count) as problem:
        fit(
            problem,
            units,
            training=training,
            privacy=privacy,
            records=len(units),
            runtime=Runtime(source=source),
        )
        moved = -problem.parameters[-1][1].detach().double().numpy()[:, 0]
    cost = local_steps(training, privacy, records=len(units))
    assert cost is not None
    claim = epsilon([cost], target_delta=1e-5)
    bound = gaussian_bound(
        moved[inside], moved[~inside], target_delta=1e-5, confidence=0.999
    )
    return bound, claim
