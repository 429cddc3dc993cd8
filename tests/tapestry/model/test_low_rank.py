"""B over a public A: the mean of the small matrices is the mean of the products."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.model.low_rank import expand, factor, round_seed
from tapestry.protocol.round_manifest import TrainingPlan
from tapestry.vectors import Layout
from tests.support.plans import training_plan
from tests.support.refusals import refused

SEED = "0123456789abcdef" * 4
KNOWN = [[0, 1, 0, 0, 0, 1, 0, 1], [1, 1, 1, 0, 0, 0, 0, 1]]


def _plan(rank: int, *, kind: str = "low_rank") -> TrainingPlan:
    return training_plan(
        parameterization=kind, rank=rank, targets=("q_proj",), factor_seed=SEED
    )


@given(rank=st.integers(1, 9), width=st.integers(1, 70))
def test_a_factor_has_one_power_of_two_as_its_only_size(rank: int, width: int) -> None:
    drawn = factor("w", rank=rank, width=width, seed=SEED)
    assert drawn.shape == (rank, width)
    assert drawn.dtype == np.float32
    sizes = np.unique(np.abs(drawn))
    assert sizes.size == 1
    assert np.log2(sizes[0]) == round(np.log2(sizes[0]))
    assert 2**-0.51 <= sizes[0] * np.sqrt(width) <= 2**0.51


def test_a_factor_is_the_same_on_every_machine() -> None:
    """A known answer: whoever draws another one cannot take part."""
    drawn = factor("w", rank=2, width=8, seed=SEED)
    again = factor("w", rank=2, width=8, seed=SEED)
    assert np.array_equal(drawn, again)
    signs = (np.sign(drawn) > 0).astype(int).tolist()
    assert signs == KNOWN


def test_factors_differ_by_weight_seed_and_shape() -> None:
    first = factor("w", rank=4, width=32, seed=SEED)
    for other in (
        factor("v", rank=4, width=32, seed=SEED),
        factor("w", rank=4, width=32, seed="f" * 64),
        factor("w", rank=4, width=33, seed=SEED)[:, :32],
    ):
        assert not np.array_equal(first, other)


def test_signs_are_balanced_and_rows_nearly_orthogonal() -> None:
    drawn = factor("w", rank=64, width=1024, seed=SEED)
    assert abs(np.sign(drawn).mean()) < 6 / np.sqrt(drawn.size)
    gram = drawn @ drawn.T * (1024 / 1024)
    off = gram - np.diag(np.diag(gram))
    assert np.allclose(np.diag(gram), 1.0)
    assert np.abs(off).max() < 6 / np.sqrt(1024)


def test_the_seed_of_a_round_follows_from_public_facts() -> None:
    seed = round_seed("run", 1, model_digest="sha256:" + "0" * 64)
    others = {
        round_seed("run", 2, model_digest="sha256:" + "0" * 64),
        round_seed("other", 1, model_digest="sha256:" + "0" * 64),
        round_seed("run", 1, model_digest="sha256:" + "1" * 64),
    }
    assert len({seed, *others}) == 4
    assert _plan(2).model_copy(update={"factor_seed": seed}).factor_seed == seed


@given(
    nodes=st.integers(1, 5),
    rank=st.integers(1, 4),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 12)),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_mean_of_the_updates_expands_to_the_mean_of_the_dense_updates(
    nodes: int, rank: int, shape: tuple[int, int], seed: int
) -> None:
    out, width = shape
    layout = Layout(tensors=(("w", (out, rank)),))
    parameters = {"w": np.zeros((out, width), dtype=np.float32)}
    generator = np.random.default_rng(seed)
    updates = [
        generator.standard_normal(out * rank).astype(np.float32) for _ in range(nodes)
    ]
    plan = _plan(rank)
    mean = np.asarray(np.mean(updates, axis=0), dtype=np.float32)
    small = expand(mean, layout=layout, plan=plan, parameters=parameters)["w"]
    dense = [
        expand(each, layout=layout, plan=plan, parameters=parameters)["w"]
        for each in updates
    ]
    exact = np.mean(dense, axis=0, dtype=np.float64)
    assert small.shape == (out, width)
    assert np.allclose(small, exact, rtol=1e-5, atol=1e-5)
    public = factor("w", rank=rank, width=width, seed=SEED)
    assert np.allclose(small, mean.reshape(out, rank) @ public, rtol=1e-5, atol=1e-5)


def test_trained_factors_on_both_sides_would_not_average() -> None:
    """Why A is public: with two trained factors the mean of products is another."""
    generator = np.random.default_rng(3)
    lefts = generator.standard_normal((2, 4, 2))
    rights = generator.standard_normal((2, 2, 5))
    true = np.mean([a @ b for a, b in zip(lefts, rights, strict=True)], axis=0)
    wrong = lefts.mean(axis=0) @ rights.mean(axis=0)
    assert not np.allclose(true, wrong, atol=0.1)


def test_full_parameters_are_only_cut_apart() -> None:
    layout = Layout(tensors=(("w", (2, 3)), ("v", (4,))))
    update = np.arange(10, dtype=np.float32)
    parameters = {
        "w": np.zeros((2, 3), dtype=np.float32),
        "v": np.zeros(4, dtype=np.float32),
    }
    found = expand(
        update, layout=layout, plan=_plan(0, kind="full"), parameters=parameters
    )
    assert np.array_equal(layout.flatten(found), update)


@pytest.mark.parametrize("length", [0, 3])
def test_an_update_of_another_length_is_refused(length: int) -> None:
    from tapestry.errors import ProtocolError

    layout = Layout(tensors=(("w", (2, 2)),))
    with refused(ProtocolError, "vector-length-differs"):
        expand(
            np.zeros(length, dtype=np.float32),
            layout=layout,
            plan=_plan(2),
            parameters={"w": np.zeros((2, 5), dtype=np.float32)},
        )
