"""DP-SGD on records: steps, noise, refusals, and the update that comes out."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from tapestry.errors import ConfigError, ResourceError
from tapestry.privacy.accounting import Steps
from tapestry.privacy.gaussian import NoiseSource
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.round_manifest import RoundManifest, TrainingPlan
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.tokens import TokenExample
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry.workloads.lazy_sequence import LazySequence
from tapestry.workloads.plan_checks import local_steps
from tapestry_node.training import dp_sgd
from tapestry_node.training.dp_sgd import (
    Fit,
    Runtime,
    StepProgress,
    fit,
    noiseless_step,
    update,
)
from tapestry_node.training.microbatches import BatchLimits
from tapestry_node.training.per_example_gradients import Gradients, Problem
from tests.support import plans, tiny_models
from tests.support.linear_regression import LinearRegression, OneRow
from tests.support.refusals import refused
from tests.support.secagg_cohort import manifest_for, members
from tests.support.worst_neighbours import SEED, shared_manifest, step, worst_tables


def runtime(key: int = 1, **changes: Any) -> Runtime:
    source = NoiseSource.unsafe_from_key(bytes([key]) * 32)
    return Runtime(source=source, **changes)


def values(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for _, p in problem.parameters])


def run(
    units: Sequence[TokenExample],
    *,
    plan: dict[str, Any] | None = None,
    privacy: dict[str, Any] | None = None,
    records: int | None = None,
    runtime_: Runtime | None = None,
) -> tuple[np.ndarray, Fit]:
    """Train a tiny Llama's B; return the change and the report."""
    with tiny_models.lora(tiny_models.llama()) as problem:
        before = values(problem)
        done = fit(
            problem,
            units,
            training=plans.training_plan(**(plan or {})),
            privacy=plans.privacy_plan(**(privacy or {})),
            records=records or len(units),
            runtime=runtime_ or runtime(),
        )
        return (values(problem) - before).double().numpy(), done


def test_without_privacy_training_is_plain_sgd() -> None:
    units = tiny_models.units(8, sequences=2)
    plan = {"batch_size": 8, "steps": 3, "learning_rate": "0.5", "weight_decay": "0.1"}
    got, done = run(units, plan=plan, privacy={"noise": "none"})
    with tiny_models.lora(tiny_models.llama()) as problem:
        start = values(problem)
        parameters = [p for _, p in problem.parameters]
        for _ in range(3):
            unit_losses = [problem.losses(u.rows).mean() for u in units]
            loss = torch.stack(unit_losses).sum() / 8
            grads = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, grad in zip(parameters, grads, strict=True):
                    parameter.mul_(1 - 0.5 * 0.1).sub_(0.5 * grad)
        want = (values(problem) - start).double().numpy()
    assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)
    assert (done.drawn, done.clipped, done.empty_steps) == (24, 0, 0)


def test_with_tiny_noise_and_a_loose_bound_private_training_is_plain() -> None:
    units = tiny_models.units(8)
    plan = {"batch_size": 8, "optimizer": "adam", "learning_rate": "0.01"}
    plain, _ = run(units, plan=plan, privacy={"noise": "none"})
    loose = {"clip_norm": "1000", "noise_multiplier": "0.000000001"}
    private, done = run(units, plan=plan, privacy=loose)
    assert done.clipped == 0
    assert np.linalg.norm(private - plain) < 1e-2 * np.linalg.norm(plain)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_private_training_lowers_the_loss(optimizer: str) -> None:
    units = [TokenExample(rows=((5, 6, 7, 8, 9, 10),))] * 16
    rate = {"sgd": "2", "adam": "0.05"}[optimizer]
    plan = {"optimizer": optimizer, "learning_rate": rate, "steps": 12}
    _, done = run(units, plan=plan, privacy={"noise_multiplier": "0.3"})
    seen = [loss for loss in done.losses if loss is not None]
    assert seen[-1] < 0.8 * seen[0]


def test_an_empty_draw_is_a_step_of_noise_alone() -> None:
    moved, done = run([], plan={"steps": 1, "learning_rate": "8"}, records=100)
    assert (done.empty_steps, done.drawn, done.losses) == (1, 0, (None,))
    assert stats.kstest(moved, "norm").pvalue > 1e-3  # lr 8 over batch 8, noise 1
    assert 0.88 < moved.std() < 1.12


def test_empty_draws_happen_and_are_survived() -> None:
    plan = {"steps": 40, "batch_size": 1}
    _, done = run(tiny_models.units(2), plan=plan, records=2)
    assert 1 <= done.empty_steps < 40
    assert done.steps == len(done.losses) == 40


def test_noise_is_drawn_once_a_step_however_many_physical_batches() -> None:
    units = tiny_models.units(30)
    plan = {"steps": 1, "batch_size": 15, "learning_rate": "15"}
    changes = [
        run(units, plan=plan, runtime_=runtime(limits=limits))[0]
        for limits in (
            BatchLimits(rows=1),
            BatchLimits(),
            BatchLimits(gradient_bytes=0),
        )
    ]
    for other in changes[1:]:
        assert np.linalg.norm(other - changes[0]) < 1e-4


@pytest.mark.slow
def test_batches_are_poisson_samples() -> None:
    drawn: list[int] = []

    def note(progress: StepProgress) -> None:
        drawn.append(progress.drawn)

    units = [TokenExample(rows=((5, 6),))] * 40
    run(
        units,
        plan={"steps": 150, "batch_size": 10},
        runtime_=runtime(progress=note),
    )
    assert np.mean(drawn) == pytest.approx(10, abs=1.0)
    assert np.var(drawn) == pytest.approx(40 * 0.25 * 0.75, rel=0.5)


class Tossed(NoiseSource):
    """A source whose coins a test names, for each unit; its noise is as ever."""

    mask: np.ndarray
    asked: list[tuple[int, float]]

    def coins(self, count: int, *, probability: float) -> np.ndarray:
        self.asked.append((count, probability))
        return self.mask


def tossed(mask: np.ndarray) -> Tossed:
    source = Tossed.unsafe_from_key(b"1" * 32)
    source.mask, source.asked = mask, []
    return source


@pytest.mark.parametrize("noise", ["local", "none"])
def test_a_record_without_rows_is_drawn_as_any_other_and_adds_nothing(
    noise: str,
) -> None:
    """What comes out is what came out when such records were left out before."""
    empty = TokenExample(rows=())
    some = tiny_models.units(6)
    units = [empty, some[0], some[1], empty, some[2], *some[3:], empty]
    mask = np.array([1, 1, 0, 1, 1, 1, 1, 0, 0], dtype=bool)
    full = np.array([bool(unit.rows) for unit in units])
    whole, left_out = tossed(mask), tossed(mask[full])
    plan = {"steps": 2, "batch_size": 3}
    got, done = run(
        units,
        plan=plan,
        privacy={"noise": noise},
        records=9,
        runtime_=Runtime(source=whole),
    )
    wanted, before = run(
        [unit for unit in units if unit.rows],
        plan=plan,
        privacy={"noise": noise},
        records=9,
        runtime_=Runtime(source=left_out),
    )
    assert np.array_equal(got, wanted)
    assert done == before
    # All records are asked for, at the rate of the declared number.
    assert [(n, round(rate, 6)) for n, rate in whole.asked] == [(9, 0.333333)] * 2


def test_only_drawn_records_are_encoded() -> None:
    seen: list[int] = []

    def encode(place: int) -> TokenExample:
        seen.append(place)
        return TokenExample(rows=((5, 6, 7),) if place % 2 else ())

    mask = np.array([1, 0, 0, 1, 1, 0, 0, 0], dtype=bool)
    run(
        LazySequence(8, encode),
        plan={"steps": 1, "batch_size": 2},
        records=8,
        runtime_=Runtime(source=tossed(mask)),
    )
    assert seen == [0, 3, 4]


def test_the_divisor_is_the_expected_batch_not_the_drawn_one() -> None:
    one = tiny_models.units(1)
    privacy = {"noise_multiplier": "0.000001", "clip_norm": "0.01"}
    plan = {"steps": 1, "batch_size": 4, "learning_rate": "4"}
    units = one * 4
    moved, done = run(units, plan=plan, privacy=privacy, records=4)
    assert done.drawn == 4
    assert np.linalg.norm(moved) == pytest.approx(0.04, rel=1e-2)
    alone, done = run(one, plan=plan, privacy=privacy, records=4)
    assert done.drawn == 1
    assert np.linalg.norm(alone) == pytest.approx(0.01, rel=1e-2)


def test_every_parameter_moves_in_the_first_step() -> None:
    for trained in (tiny_models.full, tiny_models.lora):
        with trained(tiny_models.llama()) as problem:
            before = [p.detach().clone() for _, p in problem.parameters]
            fit(
                problem,
                tiny_models.units(8),
                training=plans.training_plan(steps=1),
                privacy=plans.privacy_plan(),
                records=8,
                runtime=runtime(),
            )
            for (name, after), start in zip(problem.parameters, before, strict=True):
                assert not torch.equal(after, start), name


def test_weights_that_never_move_are_refused() -> None:
    plan = {"learning_rate": "0.000000000001", "steps": 1}
    with (
        refused(ResourceError, "training-without-effect"),
        tiny_models.full(tiny_models.llama()) as problem,
    ):
        fit(
            problem,
            tiny_models.units(8),
            training=plans.training_plan(**plan),
            privacy=plans.privacy_plan(),
            records=8,
            runtime=runtime(),
        )


@pytest.mark.parametrize("parameterization", ["full", "low_rank"])
def test_an_update_is_the_change_in_layout_order_and_leaves_the_base(
    parameterization: str,
) -> None:
    workload = build_tiny()
    low_rank = parameterization == "low_rank"
    plan = plans.training_plan(
        parameterization=parameterization,
        rank=4 if low_rank else 0,
        targets=("q_proj", "down_proj") if low_rank else (),
        learning_rate="0.01",
    )
    units = workload.encode(["first text here", "and a second"] * 8, sequence_length=16)
    before = workload.parameters()
    got = update(
        workload,
        units,
        training=plan,
        privacy=plans.privacy_plan(),
        records=len(units),
        runtime=runtime(),
    )
    layout = workload.layout(plan)
    assert got.values.shape == (layout.length,)
    assert got.values.dtype == np.float32
    for name, piece in layout.split(got.values).items():
        assert piece.any(), name
    for name, value in workload.parameters().items():
        assert np.array_equal(value, before[name]), name


def shared_round(workload: LanguageWorkload, plan: TrainingPlan) -> RoundManifest:
    """A round of four nodes that share their noise, with a clip norm that binds."""
    return manifest_for(
        members(4),
        length=workload.layout(plan).length,
        scale_bits=28,
        clip_value="0.5",
        training=plan,
        privacy=plans.privacy_plan(noise="shared", clip_norm="0.01"),
    )


def test_a_noiseless_step_for_shared_noise_is_one_clipped_release() -> None:
    workload = build_tiny()
    units = workload.encode(["some text", "other words"] * 6, sequence_length=16)
    plan = plans.training_plan(steps=1, batch_size=12, learning_rate="12")
    opened = shared_round(workload, plan)
    share = NoiseShare.of(opened)
    assert share is not None
    seen: list[StepProgress] = []
    got = noiseless_step(
        workload,
        units,
        manifest=opened,
        records=12,
        runtime=replace(runtime(), progress=seen.append),
    )
    assert got.shape == (workload.layout(plan).length,)
    assert got.dtype == np.int64
    length = np.linalg.norm(got.astype(np.float64))
    assert share.bound < length <= 12 * share.unit_bound
    assert [(each.step, each.steps, each.drawn) for each in seen] == [(1, 1, 12)]
    for wrong, code in (
        ({"steps": 2}, "shared-noise-plan-invalid"),
        ({"batch_size": 13}, "setting-out-of-range"),
    ):
        with refused(ConfigError, code):
            noiseless_step(
                workload,
                units,
                manifest=opened.model_copy(
                    update={"training": plan.model_copy(update=wrong)}
                ),
                records=12,
                runtime=runtime(),
            )


def test_no_tables_of_a_search_are_further_apart_than_is_paid_for() -> None:
    found = worst_tables(LinearRegression(), trials=60, seed=SEED)
    assert 0.5 < found.ratio <= 1


@pytest.mark.slow
def test_no_tables_of_a_long_search_are_further_apart_than_is_paid_for() -> None:
    found = worst_tables(LinearRegression(), trials=600, seed=SEED)
    assert 0.9 < found.ratio <= 1


@pytest.mark.parametrize("bad", [math.inf, math.nan, 3e38, 1e30])
def test_a_record_that_overflows_zeroes_its_own_part_alone(bad: float) -> None:
    """One overflow would otherwise throw away the sum of all others."""
    workload = LinearRegression()
    rows = [(1.0, 2.0, 0.0, 1.0, 1.0), (0.0, 1.0, 1.0, 0.0, 5.0)]
    units = [OneRow((row,)) for row in [*rows, (bad,) * 5]]
    opened = shared_manifest(workload, 3)
    want = step(workload, units[:2], opened)
    assert want.any()
    assert np.array_equal(step(workload, units, opened), want)


def test_a_records_part_of_a_shared_step_is_the_same_in_any_company() -> None:
    workload = build_tiny()
    texts = ["some text", "other", "other words that are longer", "x y"]
    units = workload.encode(texts * 3, sequence_length=16)
    plan = plans.training_plan(steps=1, batch_size=12, learning_rate="12")
    opened = shared_round(workload, plan)
    alone = [step(workload, [unit], opened) for unit in units[:4]]
    assert np.array_equal(step(workload, units, opened), 3 * np.sum(alone, axis=0))
    assert np.array_equal(step(workload, units[2:0:-1], opened), alone[1] + alone[2])


def test_a_record_shares_its_batch_with_few_whom_coins_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However large the sample: a unit moves the last bits of its mates' parts."""
    groups: list[list[Any]] = []
    right = Gradients.clipped_sum

    def watched(self: Gradients, units: Sequence[Any], *, clip_norm: float) -> Any:
        groups.append(list(units))
        return right(self, units, clip_norm=clip_norm)

    units = tiny_models.units(48)
    monkeypatch.setattr(Gradients, "clipped_sum", watched)
    seen = []
    for key in (1, 2):
        groups.clear()
        run(units, plan={"batch_size": 48, "steps": 1}, runtime_=runtime(key))
        inside = [each for each in groups if each and each[0] in units]
        assert len(inside) == 48 / 16
        assert sum(map(len, inside)) == 48
        assert max(map(len, inside)) < 40
        seen.append([sorted(units.index(u) for u in each) for each in inside])
    assert seen[0] != seen[1]


def test_a_broken_record_counts_as_zero_and_raises_a_local_alarm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def losses(sequences: Sequence[Sequence[int]]) -> Tensor:
        scale = [float("nan") if s[0] == 63 else 1.0 for s in sequences]
        return tiny_models.losses_of(problem.module, sequences) * torch.tensor(scale)

    bad = TokenExample(rows=((63, 63, 63),))
    with (
        tiny_models.lora(tiny_models.llama()) as problem,
        caplog.at_level(logging.WARNING),
    ):
        done = fit(
            replace(problem, losses=losses),
            [bad, *tiny_models.units(7)],
            training=plans.training_plan(steps=2),
            privacy=plans.privacy_plan(),
            records=8,
            runtime=runtime(),
        )
        assert bool(torch.isfinite(values(problem)).all())
    assert done.non_finite == 2
    assert "2 of 16 gradients were not finite" in caplog.text


def test_what_is_spent_is_known_before_training() -> None:
    plan = plans.training_plan(steps=7, batch_size=8)
    want = Steps(noise_multiplier=1.0, sampling_rate=0.08, steps=7)
    assert local_steps(plan, plans.privacy_plan(), records=100) == want
    assert local_steps(plan, plans.privacy_plan(noise="none"), records=100) is None


@pytest.mark.parametrize(
    ("plan", "privacy", "records", "code", "match"),
    [
        ({"batch_size": 9}, {}, 8, "setting-out-of-range", "batch size 9"),
        ({}, {"target_delta": "0.2"}, 8, "delta-too-large", "not below 1/8"),
        ({}, {"target_delta": "0"}, 8, "delta-out-of-range", "delta 0"),
        ({}, {"clip_norm": "0"}, 8, "noise-not-positive", "clip norm 0"),
        ({}, {"noise_multiplier": "0"}, 8, "noise-not-positive", "noise multiplier 0"),
        (
            {},
            {"noise_multiplier": "-1"},
            8,
            "noise-not-positive",
            "noise multiplier -1",
        ),
        ({"learning_rate": "0"}, {}, 8, "setting-out-of-range", "learning rate 0"),
        ({"weight_decay": "-1"}, {}, 8, "setting-out-of-range", "weight decay -1"),
    ],
)
def test_settings_out_of_range_are_refused_before_training(
    plan: dict[str, Any],
    privacy: dict[str, Any],
    records: int,
    code: str,
    match: str,
) -> None:
    with refused(ConfigError, code, match=match):
        run(tiny_models.units(8), plan=plan, privacy=privacy, records=records)


def test_training_takes_no_data_loader() -> None:
    """Only units go in; the sampler is inside, so that the rate is what it says."""
    assert set(Runtime.__dataclass_fields__) == {"source", "limits", "progress"}
    assert "sampler" not in dp_sgd.fit.__annotations__
