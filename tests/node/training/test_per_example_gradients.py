"""Sums in which no unit weighs more than the bound, on every tested architecture."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tapestry.errors import ConfigError
from tapestry.privacy.clipping import DRIFT, SLACK
from tapestry.workloads.language import architectures
from tapestry.workloads.language.architecture_names import ARCHITECTURES
from tapestry.workloads.language.architectures import ROTARY, check_rotary
from tapestry.workloads.language.tokens import TokenExample
from tapestry_node.training import per_example_gradients
from tapestry_node.training.microbatches import BatchLimits
from tapestry_node.training.per_example_gradients import Problem, attached
from tests.support import tiny_models
from tests.support.refusals import refused
from tests.support.worst_neighbours import SEED, worst_batches

LOOP = BatchLimits(gradient_bytes=0)
Trained = Callable[[nn.Module], AbstractContextManager[Problem]]
TRAINED: dict[str, Trained] = {
    "full": tiny_models.full,
    "B": tiny_models.lora,
    "A and B": partial(tiny_models.lora, both=True),
}


def clipped_sum(
    problem: Problem,
    units: Sequence[TokenExample],
    clip_norm: float,
    limits: BatchLimits,
) -> Tensor:
    with attached(problem, limits, private=True) as gradients:
        assert gradients.by_rows == (limits.gradient_bytes > 0)
        return gradients.clipped_sum(units, clip_norm=clip_norm)[0]


def by_hand(
    problem: Problem, units: Sequence[TokenExample], clip_norm: float
) -> Tensor:
    """One unit at a time, in float64 throughout the sum; shares nothing."""
    total = torch.zeros(problem.length, dtype=torch.float64)
    parameters = [p for _, p in problem.parameters]
    for unit in units:
        loss = torch.stack([problem.losses([s])[0] for s in unit.rows]).mean()
        grads = torch.autograd.grad(loss, parameters)
        flat = torch.cat([g.flatten().double() for g in grads])
        total += flat * min(1.0, clip_norm * (1 - SLACK) / float(flat.norm()))
    return total


@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize("clip_norm", [0.05, 1e6])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("trained", TRAINED)
def test_rows_and_loop_both_give_the_sum_by_hand(
    trained: str, tied: bool, clip_norm: float, sequences: int
) -> None:
    units = tiny_models.units(9, sequences=sequences)
    with TRAINED[trained](tiny_models.llama(tied=tied)) as problem:
        want = by_hand(problem, units, clip_norm)
        for limits in (BatchLimits(), LOOP):
            got = clipped_sum(problem, units, clip_norm, limits)
            assert float((got - want).norm()) < 1e-5 * float(want.norm())


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
@pytest.mark.parametrize("trained", TRAINED)
def test_every_allowed_architecture_gives_the_sum_by_hand(
    kind: str, trained: str
) -> None:
    with TRAINED[trained](tiny_models.llama(kind=kind)) as problem:
        units = tiny_models.units(5)
        want = by_hand(problem, units, 0.05)
        got = clipped_sum(problem, units, 0.05, BatchLimits())
        assert float((got - want).norm()) < 1e-5 * float(want.norm())


@pytest.mark.slow
@settings(max_examples=15)
@given(
    rows=st.integers(1, 9),
    tokens=st.integers(8, 60),
    sequences=st.integers(1, 4),
    data=st.data(),
)
def test_physical_batches_never_show_in_the_sum(
    rows: int, tokens: int, sequences: int, data: st.DataObject
) -> None:
    units = tiny_models.units(7, sequences=sequences)
    shuffled = data.draw(st.permutations(units))
    limits = BatchLimits(rows=rows, elements=tokens)
    with tiny_models.lora(tiny_models.llama()) as problem:
        want = clipped_sum(problem, units, 0.05, LOOP)
        got = clipped_sum(problem, shuffled, 0.05, limits)
    assert float((got - want).norm()) < 1e-5 * float(want.norm())


@pytest.mark.parametrize("limits", [BatchLimits(), BatchLimits(rows=3), LOOP])
@pytest.mark.parametrize("clip_norm", [1e-3, 0.1, 10.0])
def test_one_unit_more_moves_the_sum_by_less_than_the_bound(
    clip_norm: float, limits: BatchLimits
) -> None:
    units = tiny_models.units(12, sequences=2)
    with tiny_models.full(tiny_models.llama()) as problem:
        with_it = clipped_sum(problem, units, clip_norm, limits)
        without = clipped_sum(problem, units[1:], clip_norm, limits)
    assert 0 < float((with_it - without).norm()) <= clip_norm * (1 - SLACK / 2)


@pytest.mark.parametrize("trained", ["full", "B"])
def test_a_unit_moves_the_others_by_no_more_than_was_measured(trained: str) -> None:
    clip_norm = 0.01
    units = tiny_models.units(200, seed=3)
    with TRAINED[trained](tiny_models.llama()) as problem:
        everything = clipped_sum(problem, units, clip_norm, BatchLimits())
        for place in (0, 120):
            others = [*units[:place], *units[place + 1 :]]
            own = clipped_sum(problem, [units[place]], clip_norm, BatchLimits())
            rest = clipped_sum(problem, others, clip_norm, BatchLimits())
            moved = float((everything - own - rest).norm())
            assert moved < DRIFT * clip_norm


@pytest.mark.slow
def test_a_unit_moves_its_mates_by_far_less_than_is_paid_for() -> None:
    found = worst_batches(trials=20, seed=SEED)
    assert found.ratio <= 10 * DRIFT


def test_a_record_of_many_sequences_counts_as_one() -> None:
    (one,) = tiny_models.units(1)
    many = TokenExample(rows=one.rows * 50)
    with tiny_models.lora(tiny_models.llama()) as problem:
        for limits in (BatchLimits(), BatchLimits(rows=64, elements=10_000), LOOP):
            short = clipped_sum(problem, [one], 0.01, limits)
            long = clipped_sum(problem, [many], 0.01, limits)
            assert float(long.norm()) == pytest.approx(0.01, rel=5e-3)
            assert float((long - short).norm()) < 1e-5 * float(short.norm())


def test_memory_for_gradients_bounds_the_rows_and_then_picks_the_loop() -> None:
    largest = 0

    def losses(sequences: Sequence[Sequence[int]]) -> Tensor:
        nonlocal largest
        largest = max(largest, len(sequences))
        return tiny_models.losses_of(problem.module, sequences)

    with tiny_models.lora(tiny_models.llama()) as problem:
        watched = replace(problem, losses=losses)
        for rows, by_rows, most in ((16, True, 9), (3, True, 3), (1, False, 2)):
            largest = 0
            limits = BatchLimits(gradient_bytes=8 * problem.length * rows)
            with attached(watched, limits, private=True) as gradients:
                assert gradients.by_rows == by_rows
                gradients.clipped_sum(tiny_models.units(9), clip_norm=1.0)
            assert largest == most  # two is the start-up check of the losses


def test_no_units_give_zero_without_running_the_model() -> None:
    with (
        tiny_models.full(tiny_models.llama()) as problem,
        attached(problem, BatchLimits(), private=True) as gradients,
    ):
        object.__setattr__(problem, "losses", None)
        total, tally = gradients.clipped_sum([], clip_norm=1.0)
    assert not total.any()
    assert tally.units == 0


@pytest.mark.parametrize("limits", [BatchLimits(), LOOP])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_counts_as_zero(
    bad: float, limits: BatchLimits
) -> None:
    poison = TokenExample(rows=((9, 9, 9),))

    def losses(sequences: Sequence[Sequence[int]]) -> Tensor:
        good = tiny_models.losses_of(problem.module, sequences)
        scale = [bad if tuple(s) == (9, 9, 9) else 1.0 for s in sequences]
        return good * torch.tensor(scale)

    with tiny_models.lora(tiny_models.llama()) as problem:
        units = tiny_models.units(5)
        want = clipped_sum(problem, units, 0.1, limits)
        with attached(replace(problem, losses=losses), limits, private=True) as g:
            got, tally = g.clipped_sum([*units, poison], clip_norm=0.1)
    assert (tally.units, tally.non_finite) == (6, 1)
    assert float((got - want).norm()) < 1e-5 * float(want.norm())


def test_plain_gradients_are_neither_clipped_nor_different() -> None:
    units = tiny_models.units(9, sequences=2)
    with tiny_models.full(tiny_models.llama()) as problem:
        want = by_hand(problem, units, 1e9)
        with attached(problem, BatchLimits(rows=5), private=False) as gradients:
            got, tally = gradients.plain_sum(units)
    assert float((got.double() - want).norm()) < 2e-3 * float(want.norm())
    assert tally.units == 9


def test_a_frozen_factor_gets_no_gradient_at_all() -> None:
    with (
        tiny_models.lora(tiny_models.llama()) as problem,
        attached(problem, BatchLimits(), private=True) as gradients,
    ):
        gradients.clipped_sum(tiny_models.units(3), clip_norm=1.0)
        named = {id(p) for _, p in problem.parameters}
        others = [p for p in problem.module.parameters() if id(p) not in named]
        assert not any(hasattr(p, "grad_sample") for p in others)
        assert all(p.grad is None for p in others)


def test_nothing_of_opacus_stays_behind() -> None:
    model = tiny_models.llama()
    with tiny_models.full(model) as problem:
        with attached(problem, BatchLimits(), private=True) as gradients:
            gradients.clipped_sum(tiny_models.units(3), clip_norm=1.0)
        assert not model.training
        for parameter in model.parameters():
            assert not hasattr(parameter, "grad_sample")
            assert parameter.grad is None
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._backward_hooks
            assert not hasattr(module, "activations")


def test_training_loads_no_statistics_and_leaves_opacus_whole() -> None:
    program = (
        "import sys, tapestry_node.training.dp_sgd\n"
        "assert not {'scipy.stats', 'scipy.optimize'} & sys.modules.keys()\n"
        "from opacus import PrivacyEngine\n"
        "from opacus.grad_sample import GradSampleHooks"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_failed_batch_leaves_nothing_to_the_next_training() -> None:
    def losses(sequences: Sequence[Sequence[int]]) -> Tensor:
        if len(sequences) == 16:
            tiny_models.losses_of(problem.module, sequences)
            raise MemoryError
        return tiny_models.losses_of(problem.module, sequences)

    units = tiny_models.units(24)
    with tiny_models.full(tiny_models.llama()) as problem:
        want = clipped_sum(problem, units, 0.1, LOOP)
        failing = replace(problem, losses=losses)
        with pytest.raises(MemoryError):
            clipped_sum(failing, units, 0.1, BatchLimits())
        for module in problem.module.modules():
            assert not hasattr(module, "activations")
            assert not hasattr(module, "max_batch_len")
        got = clipped_sum(problem, units, 0.1, BatchLimits())
    assert float((got - want).norm()) < 1e-5 * float(want.norm())


def test_a_loss_averaged_over_the_tokens_of_a_batch_is_refused() -> None:
    with tiny_models.full(tiny_models.llama()) as problem:
        mean = replace(
            problem, losses=partial(tiny_models.token_mean_losses, problem.module)
        )
        with (
            refused(ConfigError, "gradients-differ"),
            attached(mean, BatchLimits(), private=True),
        ):
            pass


@pytest.mark.parametrize("factor", [0.0, 1e36])
def test_a_base_that_cannot_learn_is_refused_in_words(factor: float) -> None:
    module = tiny_models.llama()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)
    with (
        tiny_models.full(module) as problem,
        refused(ConfigError, "probe-not-finite"),
        attached(problem, BatchLimits(), private=True),
    ):
        pass


@pytest.mark.parametrize(
    "limits", [BatchLimits(), BatchLimits(rows=1), BatchLimits(elements=8)]
)
def test_wrong_gradients_of_a_layer_are_refused_whatever_the_limits(
    monkeypatch: pytest.MonkeyPatch, limits: BatchLimits
) -> None:
    from opacus.grad_sample import GradSampleHooks

    right = GradSampleHooks.GRAD_SAMPLERS[nn.Linear]

    def wrong(layer: nn.Linear, activations: list[Tensor], backprops: Tensor) -> object:
        return {p: g.flip(0) for p, g in right(layer, activations, backprops).items()}

    monkeypatch.setitem(GradSampleHooks.GRAD_SAMPLERS, nn.Linear, wrong)
    with tiny_models.full(tiny_models.llama()) as problem:
        for tried in (limits, BatchLimits()):
            with (
                refused(ConfigError, "gradients-differ"),
                attached(problem, tried, private=True),
            ):
                pass


def test_a_model_is_checked_at_its_first_use_and_after_each_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked: list[Problem] = []
    right = per_example_gradients.check_per_unit

    def check(summing: per_example_gradients.Gradients, problem: Problem) -> None:
        checked.append(problem)
        right(summing, problem)

    def use(problem: Problem) -> int:
        with attached(problem, BatchLimits(), private=True):
            return len(checked)

    monkeypatch.setattr(per_example_gradients, "check_per_unit", check)
    with (
        tiny_models.full(tiny_models.llama()) as problem,
        tiny_models.full(tiny_models.llama()) as other,
    ):
        assert [use(problem), use(problem), use(other)] == [1, 1, 2]
        mean = partial(tiny_models.token_mean_losses, problem.module)
        wrong = replace(problem, losses=mean)
        for count in (3, 4):
            with refused(ConfigError, "gradients-differ"):
                use(wrong)
            assert len(checked) == count
        assert use(problem) == 4


def test_dropout_is_refused() -> None:
    """By the configuration first, and by what it does if nobody looked at that."""
    with tiny_models.full(tiny_models.llama(attention_dropout=0.5)) as problem:
        unlisted = replace(problem, check_private=lambda: None)
        for given, code in (
            (problem, "dropout-not-private"),
            (unlisted, "gradients-differ"),
        ):
            with (
                refused(ConfigError, code),
                attached(given, BatchLimits(), private=True),
            ):
                pass


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", None])
def test_an_architecture_that_is_not_tested_is_refused(
    monkeypatch: pytest.MonkeyPatch, kind: str | None
) -> None:
    with tiny_models.full(tiny_models.llama()) as problem:
        monkeypatch.setattr(problem.module, "config", SimpleNamespace(model_type=kind))
        with (
            refused(ConfigError, "architecture-not-private"),
            attached(problem, BatchLimits(), private=True),
        ):
            pass


OLD_LENGTH = {"original_max_position_embeddings": 16}
ROPE: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {},
    "yarn": OLD_LENGTH,
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0} | OLD_LENGTH,
    "dynamic": {},
    "longrope": {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
    | {"original_max_position_embeddings": 100},
}


def rotary_llama(kind: str) -> nn.Module:
    """Build a tiny Llama of 64 positions with a rotary type."""
    factor = {} if kind == "default" else {"factor": 4.0}
    rope = {"rope_type": kind, "rope_theta": 10_000.0} | factor | ROPE[kind]
    return tiny_models.llama(rope_parameters=rope)


def moved_by_a_long_unit(module: nn.Module, limits: BatchLimits) -> float:
    """Say how far a unit of 140 tokens moves a sum of shorter ones bounded by 1."""
    generator = torch.Generator().manual_seed(1)
    *short, long = (
        TokenExample(rows=(tuple(drawn.tolist()),))
        for length in (70, 72, 74, 76, 140)
        for drawn in [torch.randint(3, 64, (length,), generator=generator)]
    )
    with (
        tiny_models.full(module) as problem,
        attached(problem, limits, private=True) as gradients,
    ):
        without, _ = gradients.clipped_sum(short, clip_norm=1.0)
        with_it, _ = gradients.clipped_sum([*short, long], clip_norm=1.0)
    return float((with_it - without).norm())


@pytest.mark.parametrize("limits", [BatchLimits(), LOOP])
@pytest.mark.parametrize("kind", sorted(ROTARY))
def test_sequences_longer_than_a_models_positions_keep_the_bound(
    kind: str, limits: BatchLimits
) -> None:
    assert 0.9 < moved_by_a_long_unit(rotary_llama(kind), limits) <= 1 - SLACK / 2


@pytest.mark.parametrize(
    ("kind", "limits"),
    [("longrope", BatchLimits()), ("dynamic", BatchLimits()), ("dynamic", LOOP)],
)
def test_rotary_frequencies_that_depend_on_the_batch_break_the_bound_and_are_refused(
    monkeypatch: pytest.MonkeyPatch, kind: str, limits: BatchLimits
) -> None:
    with refused(
        ConfigError,
        "architecture-not-private",
        match=f"rotary type '{kind}'.*fixed are default",
    ):
        moved_by_a_long_unit(rotary_llama(kind), limits)
    monkeypatch.setattr(architectures, "check_rotary", lambda _: None)
    assert moved_by_a_long_unit(rotary_llama(kind), limits) > 1.05


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_parameters": {"rope_type": "dynamic"}},
        {"rope_scaling": {"type": "longrope"}},
        {"rope_scaling": {"rope_type": "default", "type": "dynamic"}},
        {"rope_parameters": {"full": {"rope_type": "yarn"}, "far": {"type": "su"}}},
        {"text_config": {"rope_parameters": {"rope_type": "yarn-dynamic"}}},
        {"parts": [None, {"rope_scaling": {"type": "longrope"}}]},
        {"rope_type": "longrope"},
    ],
)
def test_a_rotary_type_is_found_in_every_spelling_and_part(
    settings: dict[str, Any],
) -> None:
    with refused(ConfigError, "architecture-not-private"):
        check_rotary(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_scaling": None, "rope_theta": 100_000, "rope_interleaved": False},
        {"rope_parameters": {"full": {"rope_type": "llama3"}, "none": None}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"type": "dynamic"},
    ],
    ids=["SmolLM2", "layers", "old spelling", "no rotary setting"],
)
def test_fixed_rotary_frequencies_are_let_in(settings: dict[str, Any]) -> None:
    check_rotary(settings)


@pytest.mark.parametrize("limits", [BatchLimits(), LOOP], ids=["rows", "loop"])
def test_layers_that_are_computed_anew_wrongly_are_refused(
    limits: BatchLimits,
) -> None:
    """What a library changes about it shows before any record trains."""

    @contextmanager
    def wrong() -> Iterator[None]:
        head: Any = found.module.get_submodule("lm_head")
        hook = head.register_forward_hook(lambda _, __, logits: 2 * logits)
        try:
            yield
        finally:
            hook.remove()

    with tiny_models.lora(tiny_models.llama()) as found:
        problem = replace(found, recomputing=wrong)
        with attached(problem, limits, private=True):
            pass
        with (
            refused(ConfigError, "gradients-differ"),
            attached(problem, replace(limits, recompute=True), private=True),
        ):
            pass


def test_half_precision_is_refused() -> None:
    with (
        tiny_models.full(tiny_models.llama().bfloat16()) as problem,
        refused(ConfigError, "training-not-float32", match="float32"),
        attached(problem, BatchLimits(), private=True),
    ):
        pass


def test_a_trainable_parameter_that_is_not_named_is_a_bug() -> None:
    with tiny_models.full(tiny_models.llama()) as problem:
        fewer = replace(problem, parameters=problem.parameters[1:])
        with (
            pytest.raises(ValueError, match="trainable"),
            attached(fewer, BatchLimits(), private=True),
        ):
            pass
