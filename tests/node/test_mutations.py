"""Every known way to break private training is caught, each by a test of its name.

A check states a property that an outsider can measure, through ``fit`` alone. Each
test first sees the check hold, then breaks the product in one place and sees the
same check fail. A check that nothing breaks would prove nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from torch import Tensor

from tapestry.errors import ConfigError, ResourceError
from tapestry.privacy import clipping, gaussian
from tapestry.privacy.gaussian import NoiseSource
from tapestry.workloads.language.tokens import TokenExample
from tapestry_node.training import dp_sgd, per_example_gradients
from tapestry_node.training.dp_sgd import Runtime, StepProgress, fit
from tapestry_node.training.per_example_gradients import Gradients, Problem, Tally
from tests.support import plans, tiny_models
from tests.support.canaries import audit
from tests.support.refusals import refused

Patch = pytest.MonkeyPatch
Norms = npt.NDArray[np.float64]


def moved(
    problem: Problem,
    units: Sequence[TokenExample],
    *,
    multiplier: str = "1",
    steps: int = 1,
    runtime: Runtime | None = None,
) -> np.ndarray:
    """Run steps of SGD so scaled that the change is minus the noised sums."""
    before = [p.detach().clone() for _, p in problem.parameters]
    fit(
        problem,
        units,
        training=plans.training_plan(steps=steps, batch_size=8, learning_rate="8"),
        privacy=plans.privacy_plan(noise_multiplier=multiplier),
        records=max(8, len(units)),
        runtime=runtime or Runtime(),
    )
    changes = []
    with torch.no_grad():
        for (_, parameter), start in zip(problem.parameters, before, strict=True):
            changes.append((parameter.double() - start.double()).flatten())
            parameter.copy_(start)
    return torch.cat(changes).numpy()


def check_noise_scale() -> None:
    """An empty step moves each coordinate by N(0, 1)."""
    with tiny_models.full(tiny_models.llama()) as problem:
        change = moved(problem, [])
    assert stats.kstest(change, "norm").pvalue > 1e-6


def check_sensitivity(
    units: Sequence[TokenExample], *, losses: Any = tiny_models.losses_of
) -> None:
    """One unit more moves the sum by at most the bound, in whatever company."""
    with tiny_models.lora(tiny_models.llama()) as inner:
        problem = replace(inner, losses=partial(losses, inner.module))
        sums = [
            moved(problem, some, multiplier="0.0000001") for some in (units, units[1:])
        ]
    assert 0.01 < np.linalg.norm(sums[0] - sums[1]) <= 1.0


def check_poisson() -> None:
    """The size of a batch varies like a sum of coins."""
    drawn: list[int] = []

    def note(progress: StepProgress) -> None:
        drawn.append(progress.drawn)

    units = [TokenExample(rows=((5, 6),))] * 32
    with tiny_models.lora(tiny_models.llama()) as problem:
        moved(problem, units, steps=100, runtime=Runtime(progress=note))
    assert 0.4 < np.var(drawn) / (32 * 0.25 * 0.75) < 2.0


def check_fresh_noise() -> None:
    """Noise of two steps, and of two runs, has nothing in common."""
    with tiny_models.full(tiny_models.llama()) as problem:
        one, other = (moved(problem, []) for _ in range(2))
        two = moved(problem, [], steps=2)
    limit = 6 * np.sqrt(one.size)
    assert abs(one @ other) < limit
    assert abs(two @ two / 2 - one.size) < 2 * limit  # equal noise would give double


def test_noise_halved_is_caught(monkeypatch: Patch) -> None:
    check_noise_scale()
    right = gaussian.add_gaussian

    def halved(total: Tensor, *, stddev: float, source: NoiseSource) -> None:
        right(total, stddev=stddev / 2, source=source)

    monkeypatch.setattr(dp_sgd, "add_gaussian", halved)
    with pytest.raises(AssertionError):
        check_noise_scale()


def test_noise_of_low_precision_is_caught(monkeypatch: Patch) -> None:
    def coarse(total: Tensor, *, stddev: float, source: NoiseSource) -> None:
        drawn = torch.empty_like(total)
        source.normals(drawn)
        total += (drawn * stddev).bfloat16()

    monkeypatch.setattr(dp_sgd, "add_gaussian", coarse)
    with tiny_models.full(tiny_models.llama()) as problem:
        assert np.unique(moved(problem, []).round(5)).size < 0.3 * problem.length
    monkeypatch.undo()
    with tiny_models.full(tiny_models.llama()) as problem:
        assert np.unique(moved(problem, []).round(5)).size > 0.9 * problem.length


def test_clip_doubled_is_caught(monkeypatch: Patch) -> None:
    units = [tiny_models.units(1)[0]] + [TokenExample(rows=((9, 9),))] * 7
    loud = partial(_scaled, factor=100.0)
    check_sensitivity(units, losses=loud)
    right = clipping.factors

    def doubled(norms: Norms, *, clip_norm: float) -> Norms:
        return right(norms, clip_norm=2 * clip_norm)

    monkeypatch.setattr(clipping, "factors", doubled)
    with pytest.raises(AssertionError):
        check_sensitivity(units, losses=loud)


def _by_sequence(units: Sequence[TokenExample]) -> list[int]:
    return list(range(sum(len(unit.rows) for unit in units)))


def test_clipping_sequences_instead_of_records_is_caught(monkeypatch: Patch) -> None:
    many = TokenExample(rows=((5, 6, 7, 8),) * 6)
    units = [many] + [TokenExample(rows=((9, 9),))] * 7
    loud = partial(_scaled, factor=100.0)
    check_sensitivity(units, losses=loud)
    monkeypatch.setattr(per_example_gradients, "_owners", _by_sequence)
    with pytest.raises(AssertionError):
        check_sensitivity(units, losses=loud)


@pytest.mark.slow
def test_a_shuffled_loader_is_caught(monkeypatch: Patch) -> None:
    check_poisson()

    def shuffled(
        units: Sequence[TokenExample], _: Any, source: NoiseSource
    ) -> list[TokenExample]:
        order = np.argsort(source.words(len(units)))
        return [units[i] for i in order.tolist()[:8]]

    monkeypatch.setattr(dp_sgd, "_draw", shuffled)
    with pytest.raises(AssertionError):
        check_poisson()


def test_an_empty_batch_skipped_is_caught(monkeypatch: Patch) -> None:
    check_noise_scale()
    right: Callable[..., Tally] = dp_sgd._descend

    def skipping(held: Gradients, units: Sequence[TokenExample], *rest: Any) -> Tally:
        if units:
            return right(held, units, *rest)
        held.apply(torch.zeros(sum(p.numel() for p in held._parameters)), scale=1.0)
        return Tally()

    monkeypatch.setattr(dp_sgd, "_descend", skipping)
    monkeypatch.setattr(dp_sgd, "_check_moved", lambda *_: None)
    with pytest.raises(AssertionError):
        check_noise_scale()


def test_an_empty_batch_skipped_is_caught_by_the_first_step(monkeypatch: Patch) -> None:
    monkeypatch.setattr(dp_sgd, "_descend", lambda *_: Tally())
    with refused(ResourceError, "training-without-effect"):
        check_noise_scale()


def test_a_token_mean_loss_is_caught_at_start() -> None:
    with refused(ConfigError, "gradients-differ"):
        check_sensitivity(tiny_models.units(8), losses=tiny_models.token_mean_losses)


def test_a_token_mean_loss_would_be_caught_by_what_it_does(monkeypatch: Patch) -> None:
    long = TokenExample(rows=(tuple(range(3, 40)),))
    units = [long] + [TokenExample(rows=((9, 9),))] * 7
    check_sensitivity(units)
    monkeypatch.setattr(per_example_gradients, "check_per_unit", lambda *_: None)
    with pytest.raises(AssertionError):
        check_sensitivity(units, losses=tiny_models.token_mean_losses)


def test_a_seed_reused_by_the_next_step_is_caught(monkeypatch: Patch) -> None:
    check_fresh_noise()

    def rewinding(self: NoiseSource, size: int) -> None:
        again = NoiseSource(bytes(32))
        again._stream.update_into(memoryview(self._zeros)[:size], self._buffer)

    monkeypatch.setattr(NoiseSource, "_refill", rewinding)
    with pytest.raises(AssertionError):
        check_fresh_noise()


def test_a_seed_reused_by_the_next_run_is_caught(monkeypatch: Patch) -> None:
    monkeypatch.setattr("tapestry.privacy.gaussian.secrets.token_bytes", bytes)
    with pytest.raises(AssertionError):
        check_fresh_noise()


def test_dividing_by_the_drawn_batch_is_caught(monkeypatch: Patch) -> None:
    units = [tiny_models.units(1)[0]] + [TokenExample(rows=((9, 9),))] * 7
    loud = partial(_scaled, factor=100.0)
    right: Callable[..., Tally] = dp_sgd._descend

    def dividing(
        held: Gradients, units: Sequence[TokenExample], recipe: Any, *rest: Any
    ) -> Any:
        return right(held, units, replace(recipe, batch_size=max(1, len(units))), *rest)

    monkeypatch.setattr(dp_sgd, "_descend", dividing)
    with pytest.raises(AssertionError):
        check_sensitivity(units[:3], losses=loud)


def _scaled(
    module: Any, sequences: Sequence[Sequence[int]], *, factor: float
) -> Tensor:
    return factor * tiny_models.losses_of(module, sequences)


@pytest.mark.slow
def test_the_gaussian_audit_finds_the_clean_build_below_its_claim() -> None:
    bound, claim = audit(NoiseSource.unsafe_from_key(bytes([3]) * 32))
    assert 0.4 * claim < bound < claim


@pytest.mark.slow
def test_the_gaussian_audit_convicts_halved_noise(monkeypatch: Patch) -> None:
    right = gaussian.add_gaussian

    def halved(total: Tensor, *, stddev: float, source: NoiseSource) -> None:
        right(total, stddev=stddev / 2, source=source)

    monkeypatch.setattr(dp_sgd, "add_gaussian", halved)
    bound, claim = audit(NoiseSource.unsafe_from_key(bytes([3]) * 32))
    assert bound > claim


@pytest.mark.slow
def test_the_gaussian_audit_convicts_a_doubled_clip(monkeypatch: Patch) -> None:
    right = clipping.factors

    def doubled(norms: Norms, *, clip_norm: float) -> Norms:
        return right(norms, clip_norm=2 * clip_norm)

    monkeypatch.setattr(clipping, "factors", doubled)
    bound, claim = audit(NoiseSource.unsafe_from_key(bytes([3]) * 32))
    assert bound > claim
