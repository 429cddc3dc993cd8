"""DP-SGD on the institution's own records: records and a base in, an update out.

One logical step::

    coins   every unit enters with probability q = batch_size / declared records
    sum     each unit's gradient, clipped to clip_norm
    noise   once per step: N(0, (noise_multiplier * clip_norm)**2) per coordinate
    step    SGD or Adam on (sum + noise) / batch_size

Its security rests on parts that are tested alone: ``per_example_gradients`` (no unit
moves the sum by more than the bound), ``tapestry.privacy.gaussian`` (unpredictable
coins and noise), ``tapestry.privacy.accounting`` (the price of the steps). The
algorithm is that of Abadi et al., Deep Learning with Differential Privacy (CCS 2016).

Guarantees:
    With ``noise = "local"`` all steps together, and whatever is computed from the
    result, cost ``accounting.epsilon`` of ``plan_checks.local_steps``: against
    any observer, without trust outside the institution, if every unit is one record
    and the number of declared records is public.

Edge cases:
    A draw of no units is a step of noise alone: skipping it would tell that nothing
    was drawn. The divisor is the expected batch, never the drawn one. A gradient
    that is not finite counts as zero and raises a local alarm.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, ResourceError
from tapestry.privacy import accounting, clipping
from tapestry.privacy.gaussian import NoiseSource, add_gaussian
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.round_manifest import (
    PrivacyPlan,
    RoundManifest,
    TrainingPlan,
)
from tapestry.vectors import FloatVector, IntegerVector
from tapestry.workloads import plan_checks
from tapestry.workloads.base import Example, Workload
from tapestry_node.training.microbatches import BatchLimits
from tapestry_node.training.per_example_gradients import (
    Gradients,
    Problem,
    Tally,
    attached,
)
from tapestry_node.training.step_memory import StepMemory, StepSize

_log = logging.getLogger(__name__)
_TOGETHER = 16  # units of a group, as expected


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProgress:
    """One step done; ``loss`` and ``drawn`` are private."""

    step: int
    steps: int
    drawn: int
    loss: float | None  # mean over the drawn units


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The surroundings of a training; its source of noise must be fresh."""

    source: NoiseSource = field(default_factory=NoiseSource.fresh)
    limits: BatchLimits = field(default_factory=BatchLimits)
    progress: Callable[[StepProgress], None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Counts of a training; private, for the institution's own eyes."""

    steps: int
    empty_steps: int
    drawn: int
    clipped: int
    non_finite: int
    losses: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Trained minus shared parameters, in the order of the layout; still private."""

    values: FloatVector
    fit: Fit


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    rate: float
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    clip_norm: float
    stddev: float  # 0: without privacy

    @property
    def private(self) -> bool:
        return self.stddev > 0


def problem_of(
    workload: Workload, parameters: Sequence[tuple[str, torch.nn.Parameter]]
) -> Problem:
    """Build the problem of gradients of a workload and its trained parameters."""
    return Problem(
        module=workload.module,
        parameters=parameters,
        losses=workload.losses,
        probe=workload.probe(),
        check_private=workload.check_private,
        recomputing=workload.recomputing,
    )


def probe(workload: Workload, training: TrainingPlan, *, limits: BatchLimits) -> None:
    """Compare per-row gradients with the one-example loop, without any record.

    ``per_example_gradients.attached`` does so before the first training of a model
    anyway; this does it while nothing is paid for. The workload is left as it was.

    Raises:
        ConfigError: The gradients cannot be computed, or differ.
    """
    with workload.attach(training) as parameters:
        problem = problem_of(workload, parameters)
        with attached(problem, limits, private=True):
            pass


def measure(
    workload: Workload,
    training: TrainingPlan,
    *,
    private: bool,
    most: BatchLimits,
    memory: int | None,
) -> StepSize:
    """Choose physical batches for the memory of a device, without any record.

    Raises:
        ConfigError: The plan does not fit the model.
        ResourceError: Not one row of the plan's longest length fits.
    """
    with workload.attach(training) as parameters:
        problem = problem_of(workload, parameters)
        return StepMemory.of(problem, private=private).choose(
            most, longest=workload.longest_row(training.options), memory=memory
        )


def update(
    workload: Workload,
    units: Sequence[Example],
    *,
    training: TrainingPlan,
    privacy: PrivacyPlan,
    records: int,
    runtime: Runtime,
) -> Update:
    """Train on the records and return the change; the workload is left as it was.

    Raises:
        ConfigError: A setting is out of range, or the model's per-unit gradients cannot
            be computed.
        ResourceError: The weights did not change in the first step.
    """
    with workload.attach(training) as parameters:
        problem = problem_of(workload, parameters)
        before = [p.detach().clone() for _, p in parameters]
        done = fit(
            problem,
            units,
            training=training,
            privacy=privacy,
            records=records,
            runtime=runtime,
        )
        changes = [
            (p.detach() - b).flatten().cpu()
            for (_, p), b in zip(parameters, before, strict=True)
        ]
        return Update(values=torch.cat(changes).numpy(), fit=done)


def noiseless_step(
    workload: Workload,
    units: Sequence[Example],
    *,
    manifest: RoundManifest,
    records: int,
    runtime: Runtime,
) -> IntegerVector:
    """Take one step of SGD on one Poisson sample, in grid steps, without any noise.

    For noise that nodes share: the caller bounds the step and adds its share
    (``tapestry_node.round.contribution``) before anything leaves. One record adds
    integers of norm ``NoiseShare.unit_bound`` at most to the result, exactly. Several
    local steps on a share of the noise would be far less private than they look, so a
    plan of more than one is refused.

    Raises:
        ConfigError: The plan has more than one step or no shared noise, a setting is
            out of range, or the model's per-unit gradients cannot be computed.
        ProtocolError: The noise cannot be shared (``noise_shares``).
    """
    training, share = manifest.training, NoiseShare.of(manifest)
    recipe = _read(training, manifest.privacy, records)
    if recipe.steps != 1 or share is None or training.optimizer != "sgd":
        raise ConfigError(
            "shared noise takes one private step of SGD a round, the plan has"
            f" {recipe.steps} of {training.optimizer}, noise"
            f" {manifest.privacy.noise!r}",
            code="shared-noise-plan-invalid",
        )
    alone = replace(runtime.limits, gradient_bytes=0)  # no batch of several units
    with workload.attach(training) as parameters:
        problem = problem_of(workload, parameters)
        with attached(problem, alone, private=True) as gradients:
            drawn = _draw(units, recipe, runtime.source)
            total, tally = gradients.integer_sum(
                drawn, share=share, clip_norm=recipe.clip_norm
            )
    _alarm(tally)
    runtime.progress(_progress(1, recipe, tally))
    return np.negative(total, out=total)


def fit(
    problem: Problem,
    units: Sequence[Example],
    *,
    training: TrainingPlan,
    privacy: PrivacyPlan,
    records: int,
    runtime: Runtime,
) -> Fit:
    """Train the problem's parameters in place.

    Args:
        problem: The model and what is trained in it, float32.
        units: The records, encoded when they are drawn; fewer than declared, where some
            may not train, or more, as the declared number is rounded down. One without
            rows adds nothing.
        training: Steps, expected batch, optimizer.
        privacy: Clip norm and noise; ``none`` trains without either.
        records: How many records the institution declared; sets the sampling rate.
        runtime: Noise, sizes of physical batches, and a callback for progress.

    Raises:
        ConfigError: A setting is out of range, or the model's per-unit gradients cannot
            be computed.
        ResourceError: The weights did not change: the optimizer does not reach them.
    """
    recipe = _read(training, privacy, records)
    _check_rounding(problem, recipe)
    optimizer = _optimizer(problem, training.optimizer, recipe)
    tallies: list[Tally] = []
    with attached(problem, runtime.limits, private=recipe.private) as gradients:
        for step in range(1, recipe.steps + 1):
            drawn = _draw(units, recipe, runtime.source)
            before = _fingerprint(problem) if step == 1 else None
            tallies.append(_descend(gradients, drawn, recipe, runtime.source))
            _decay(problem, recipe)
            optimizer.step()
            if before is not None and (drawn or recipe.private):
                _check_moved(before, _fingerprint(problem))
            runtime.progress(_progress(step, recipe, tallies[-1]))
    _alarm(sum(tallies, Tally()))
    return _fit(tallies)


def _fit(tallies: Sequence[Tally]) -> Fit:
    total = sum(tallies, Tally())
    return Fit(
        steps=len(tallies),
        empty_steps=sum(not seen.units for seen in tallies),
        drawn=total.units,
        clipped=total.clipped,
        non_finite=total.non_finite,
        losses=tuple(seen.mean_loss for seen in tallies),
    )


def _check_rounding(problem: Problem, recipe: _Recipe) -> None:
    try:
        if recipe.private:
            multiplier = recipe.stddev / recipe.clip_norm
            clipping.check_rounding(multiplier, length=problem.length)
    except ValueError as error:
        raise ConfigError(str(error), code="rounding-too-coarse") from None


def _draw(
    units: Sequence[Example], recipe: _Recipe, source: NoiseSource
) -> list[Example]:
    """Draw a Poisson sample: one secret coin per unit, independent of the others.

    A unit of which nothing can be learned has no rows. It is drawn as any other, and
    left out afterwards: its gradient is zero.
    """
    coins = source.coins(len(units), probability=recipe.rate)
    drawn = (units[int(place)] for place in np.flatnonzero(coins))
    return [unit for unit in drawn if unit.rows]


def _separate(
    units: Sequence[Example], recipe: _Recipe, source: NoiseSource
) -> list[list[Example]]:
    """Let each unit pick its group by secret coins of its own.

    A unit moves the parts of those in its group (``clipping.DRIFT``), which are few
    however large the batch, and moves no unit to another group.
    """
    groups: list[list[Example]] = [
        [] for _ in range(math.ceil(recipe.batch_size / _TOGETHER))
    ]
    for unit, word in zip(units, source.words(len(units)), strict=True):
        groups[int(word) % len(groups)].append(unit)
    return groups


def _descend(
    gradients: Gradients, units: Sequence[Example], recipe: _Recipe, source: NoiseSource
) -> Tally:
    """Leave the mean gradient, noised, where the optimizer looks for it."""
    if recipe.private:
        first, *others = _separate(units, recipe, source)
        summed, tally = gradients.clipped_sum(first, clip_norm=recipe.clip_norm)
        for group in others:
            more, seen = gradients.clipped_sum(group, clip_norm=recipe.clip_norm)
            summed += more
            tally += seen
        total = summed.cpu()
        add_gaussian(total, stddev=recipe.stddev, source=source)
        total = total.to(summed.device)
    else:
        total, tally = gradients.plain_sum(units)
    gradients.apply(total, scale=1 / recipe.batch_size)
    return tally


def _read(training: TrainingPlan, privacy: PrivacyPlan, records: int) -> _Recipe:
    plan_checks.check_numbers(training, privacy)
    plan_checks.check_records(training, privacy, records=records)
    rate = accounting.sampling_rate(training.batch_size, records=records)
    clip_norm, stddev = 0.0, 0.0
    if privacy.noise != "none":
        clip_norm = decode_decimal(privacy.clip_norm)
        stddev = clip_norm * decode_decimal(privacy.noise_multiplier)
    return _Recipe(
        rate=rate,
        steps=training.steps,
        batch_size=training.batch_size,
        learning_rate=decode_decimal(training.learning_rate),
        weight_decay=decode_decimal(training.weight_decay),
        clip_norm=clip_norm,
        stddev=stddev,
    )


def _optimizer(problem: Problem, kind: str, recipe: _Recipe) -> torch.optim.Optimizer:
    parameters = [p for _, p in problem.parameters]
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.learning_rate)
    if kind == "adam":
        return torch.optim.Adam(parameters, lr=recipe.learning_rate)
    raise ConfigError(
        f"no optimizer {kind!r}; use sgd or adam", code="optimizer-unknown"
    )


@torch.no_grad()
def _decay(problem: Problem, recipe: _Recipe) -> None:
    """Decay the weights apart from the gradient (AdamW); this reads no record."""
    if recipe.weight_decay:
        for _, parameter in problem.parameters:
            parameter.mul_(1 - recipe.learning_rate * recipe.weight_decay)


def _fingerprint(problem: Problem) -> list[torch.Tensor]:
    """Copy a few thousand values of each parameter, enough to see that it moved."""
    return [
        p.detach().flatten()[:: max(1, p.numel() // 4096)].clone()
        for _, p in problem.parameters
    ]


def _check_moved(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> None:
    """Refuse to train weights that never move (opacus issue 820)."""
    if all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        raise ResourceError(
            "the weights did not change in the first step: the optimizer does not reach"
            " them, or the learning rate is too small",
            code="training-without-effect",
        )


def _progress(step: int, recipe: _Recipe, seen: Tally) -> StepProgress:
    return StepProgress(
        step=step, steps=recipe.steps, drawn=seen.units, loss=seen.mean_loss
    )


def _alarm(tally: Tally) -> None:
    if tally.non_finite or not math.isfinite(tally.loss):
        _log.warning(
            "%d of %d gradients were not finite and counted as zero",
            tally.non_finite,
            tally.units,
        )
