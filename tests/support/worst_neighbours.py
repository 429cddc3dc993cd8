"""Searches for the two data sets, one record apart, that come out furthest apart.

Each goes through the product's own code, from crafted inputs, and climbs from the worst
that it has seen: most of the trials change a little of it, the others start anew.
"""

import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from tapestry.privacy.gaussian import NoiseSource
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.vectors import IntegerVector
from tapestry.workloads.base import Example, Workload
from tapestry.workloads.language.tokens import TokenExample
from tapestry_node.round.contribution import prepare
from tapestry_node.training.dp_sgd import Runtime, noiseless_step
from tapestry_node.training.microbatches import BatchLimits
from tapestry_node.training.per_example_gradients import Gradients, attached
from tests.support import plans, tiny_models
from tests.support.linear_regression import OneRow
from tests.support.secagg_cohort import manifest_for, members


def _commit() -> int:
    """The commit as a number, so that no seed is chosen; 0 outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(found.stdout[:12] or "0", 16)


SEED = _commit()
Generator = np.random.Generator
Case = TypeVar("Case")
_ANEW = 0.3  # of the trials
_ALIKE = 0.3  # of the batches, and of the vectors
EXTREMES = (0.0, 1e-45, 1e-38, 1e-20, 1e-3, 1.0, 1e3, 1e19, 3e38, np.inf, np.nan)


@dataclass(frozen=True, slots=True)
class Found:
    """The largest ratio of a search and the case that gave it."""

    ratio: float
    case: Any


def climb(
    start: Callable[[Generator], Case],
    change: Callable[[Generator, Case], Case],
    ratio: Callable[[Case], float],
    *,
    trials: int,
    generator: Generator,
) -> Found:
    """Search for the case with the largest ratio; NaN would count as the largest."""
    case = start(generator)
    best = Found(ratio(case), case)
    for _ in range(trials - 1):
        anew = generator.random() < _ANEW
        case = start(generator) if anew else change(generator, best.case)
        found = ratio(case)
        if not found <= best.ratio:
            best = Found(found, case)
    return best


def shared_manifest(workload: Workload, records: int, **changes: Any) -> RoundManifest:
    """A round with shared noise in which every record is drawn."""
    training = plans.training_plan(
        workload=workload.name,
        steps=1,
        batch_size=records,
        learning_rate=str(records),
        options=dict(workload.least_options()),
    )
    return manifest_for(
        members(4),
        **{
            "length": workload.layout(training).length,
            "clip_norm": "4",
            "clip_value": "0.5",
            "scale_bits": 28,
            "training": training,
            "privacy": plans.privacy_plan(noise="shared", clip_norm="0.25"),
            **changes,
        },
    )


def prepared(update: npt.NDArray[Any], manifest: RoundManifest) -> npt.NDArray[Any]:
    """What a node masks; noise and rounding are the same at each call."""
    found = prepare(
        update,
        manifest=manifest,
        random=bytes,
        noise=NoiseSource.unsafe_from_key(bytes(32)),
    )
    return found.values


def apart(one: npt.NDArray[Any], other: npt.NDArray[Any], share: NoiseShare) -> float:
    """How far two uploads are apart, over what is accounted for."""
    difference = (one - other).view(np.int32).astype(np.float64)
    return float(np.linalg.norm(difference)) / share.bound


def worst_sums(manifest: RoundManifest, *, trials: int, seed: int) -> Found:
    """Search over sums, around the bounds of a node, and a unit more in them."""
    share = NoiseShare.of(manifest)
    assert share is not None
    grid = 2.0**manifest.scale_bits
    reach = float(manifest.clip_norm) * grid

    def start(generator: Generator) -> tuple[IntegerVector, IntegerVector]:
        sparse = generator.random(manifest.length) < generator.choice([0.1, 0.5, 1])
        total = _sized(generator.standard_normal(manifest.length) * sparse, reach)
        total *= generator.choice([0, 1e-6, 0.5, 1 - 1e-6, 1, 1 + 1e-6, 1.00002, 2, 50])
        if generator.random() < _ALIKE:
            some = [_flat(generator, manifest.length) * reach for _ in range(200)]
            total = max(some, key=_too_long)
        toward = generator.standard_normal(manifest.length)
        kind = generator.integers(4)
        if kind == 1:
            toward = total
        elif kind == 2:
            toward = -total
        elif kind == 3:  # at a right angle
            toward -= total * (toward @ total) / max(float(total @ total), 1.0)
        return _whole(total), _whole(_sized(toward, share.unit_bound))

    def change(
        generator: Generator, case: tuple[IntegerVector, IntegerVector]
    ) -> tuple[IntegerVector, IntegerVector]:
        total, unit = case
        size = 10.0 ** generator.uniform(-9, -1)
        moved = generator.standard_normal((2, manifest.length)) * size
        total = _whole(total + moved[0] * reach + total * moved[0, 0])
        toward = unit + moved[1] * share.bound
        return total, _whole(_sized(toward, share.unit_bound))

    def ratio(case: tuple[IntegerVector, IntegerVector]) -> float:
        total, unit = case
        return apart(prepared(total + unit, manifest), prepared(total, manifest), share)

    generator = np.random.default_rng(seed)
    return climb(start, change, ratio, trials=trials, generator=generator)


def worst_tables(workload: Workload, *, trials: int, seed: int) -> Found:
    """Search over tables of numbers, up to those that overflow, and a row more.

    Through the whole of a node: gradients, clipping, sum, bounds.
    """
    records = 6
    manifest = shared_manifest(workload, records)
    share = NoiseShare.of(manifest)
    assert share is not None

    def start(generator: Generator) -> npt.NDArray[np.float64]:
        sizes = generator.choice(EXTREMES, p=_LIKELY, size=(records, 1))
        return np.asarray(generator.standard_normal((records, 5)) * sizes)

    def change(
        generator: Generator, case: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        size = 10.0 ** generator.uniform(-8, 0)
        moved = case * (1 + size * generator.standard_normal((records, 5)))
        row = generator.integers(records)
        moved[row] *= generator.choice([1, 1, 1 + 1e-7, 1 - 1e-7, 10, 0.1])
        return np.asarray(moved)

    def ratio(case: npt.NDArray[np.float64]) -> float:
        units = [OneRow((tuple(row),)) for row in case.tolist()]
        one, other = (
            prepared(step(workload, some, manifest), manifest)
            for some in (units, units[1:])
        )
        return apart(one, other, share)

    generator = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        return climb(start, change, ratio, trials=trials, generator=generator)


def step(
    workload: Workload, units: Sequence[Example], manifest: RoundManifest
) -> IntegerVector:
    """Take one step on all of some units."""
    return noiseless_step(
        workload,
        units,
        manifest=manifest,
        records=manifest.training.batch_size,
        runtime=Runtime(source=NoiseSource.unsafe_from_key(bytes(32))),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A physical batch, and units of which each may join it."""

    clip_norm: float
    mates: Sequence[TokenExample]
    joining: Sequence[TokenExample]


JOINING = 8  # neighbours in one trial


def worst_batches(*, trials: int, seed: int) -> Found:
    """Search for the unit that moves the parts of its batch mates the most.

    Over clip norms around those of single gradients, and units of any length, of
    several rows, all alike or nearly so. The ratio is to the clip norm.
    """
    generator = np.random.default_rng(seed)
    found = []
    for kind in (tiny_models.full, tiny_models.lora):
        with (
            kind(tiny_models.llama()) as problem,
            attached(problem, BatchLimits(), private=True) as gradients,
        ):
            assert gradients.by_rows
            ratio = partial(_moved, gradients)
            found.append(
                climb(_batch, _other, ratio, trials=trials // 2, generator=generator)
            )
    return max(found, key=lambda each: each.ratio)


def _moved(gradients: Gradients, case: Batch) -> float:
    def summed(units: Sequence[TokenExample]) -> torch.Tensor:
        return gradients.clipped_sum(units, clip_norm=case.clip_norm)[0]

    without = summed(case.mates)
    moved = [
        summed([*case.mates, one]) - without - summed([one]) for one in case.joining
    ]
    return max(float(torch.linalg.norm(each)) for each in moved) / case.clip_norm


def _batch(generator: Generator) -> Batch:
    count = int(generator.choice([1, 4, 12, 32]))
    mates = [_unit(generator) for _ in range(count)]
    if generator.random() < _ALIKE:
        mates = mates[:1] * count
    return Batch(
        clip_norm=float(10.0 ** generator.uniform(-2, 1)),
        mates=mates,
        joining=[_unit(generator) for _ in range(JOINING)],
    )


def _other(generator: Generator, case: Batch) -> Batch:
    mates = list(case.mates)
    for _ in range(int(generator.integers(0, 3))):
        mates[int(generator.integers(len(mates)))] = _unit(generator)
    factor = float(generator.choice([1, 1, generator.uniform(0.7, 1.4)]))
    return Batch(
        clip_norm=case.clip_norm * factor,
        mates=mates,
        joining=[_unit(generator) for _ in range(JOINING)],
    )


def _unit(generator: Generator) -> TokenExample:
    rows = int(generator.choice([1, 1, 1, 2, 5]))
    lengths = generator.choice([2, 3, 5, 12, 30], size=rows)
    low = int(generator.choice([3, 60]))  # many tokens, or a handful
    return TokenExample(
        rows=tuple(
            tuple(generator.integers(low, tiny_models.VOCABULARY, size=n).tolist())
            for n in lengths
        )
    )


_LIKELY = np.array([1, 1, 1, 2, 6, 6, 6, 2, 2, 1, 1]) / 29


def _flat(generator: Generator, length: int) -> npt.NDArray[np.float64]:
    """One large coordinate among equal ones, whose squares round to one side."""
    vector = np.ones(length)
    vector[0] = generator.uniform(0.5, 0.65) * math.sqrt(length)
    return _sized(vector, 1.0)


def _too_long(vector: npt.NDArray[np.float64]) -> float:
    """How much too long a vector seems where squares are summed in float32."""
    coarse = vector.astype(np.float32)
    return float(np.sqrt(coarse @ coarse) / np.linalg.norm(vector))


def _sized(vector: npt.NDArray[Any], length: float) -> npt.NDArray[np.float64]:
    size = float(np.linalg.norm(vector))
    return vector * (length / size if size else 0.0)


def _whole(vector: npt.NDArray[Any]) -> IntegerVector:
    return np.asarray(np.trunc(vector), dtype=np.int64)
