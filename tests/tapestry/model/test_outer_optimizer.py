"""One outer step: the same bits everywhere, and the optimizers that were meant."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.encoding import canonical_json, digest
from tapestry.model.outer_optimizer import OuterState, advance
from tapestry.protocol.round_manifest import (
    OuterPlan,
    RoundManifest,
)
from tapestry.vectors import (
    FloatVector,
    Layout,
    Parameters,
    parameters_digest,
    tensor_digests,
)
from tests.support.log_world import World, renamed
from tests.support.plans import outer_plan

LAYOUT = Layout(tensors=(("w", (3, 4)), ("b", (3,))))
KNOWN = {
    "mean": "0b320763d8d5c44b",
    "nesterov": "cf2176b5f9b8ec0d",
    "adam": "cd9e5561f0343f0d",
}


_MANIFEST = World().found().manifest()


@pytest.fixture
def manifest() -> RoundManifest:
    return _MANIFEST


def _plan(optimizer: str, rate: str = "0.5", momentum: str = "0.9") -> OuterPlan:
    more = {"momentum": momentum} if optimizer == "nesterov" else {}
    return outer_plan(optimizer=optimizer, learning_rate=rate, **more)


def _spread(count: int, start: int) -> FloatVector:
    """Numbers between -1 and 1 that no library's generator decides on."""
    whole = (np.arange(start, start + count, dtype=np.uint64) * 2654435761) % 2**24
    return (whole.astype(np.float64) / 2**23 - 1).astype(np.float32)


def _start() -> dict[str, FloatVector]:
    return {
        "w": _spread(12, 1).reshape(3, 4),
        "b": _spread(3, 100),
        "frozen": np.ones(7, dtype=np.float32),
    }


def _means(count: int) -> list[FloatVector]:
    return [_spread(15, 1000 * (1 + number)) for number in range(count)]


def _run(
    manifest: RoundManifest, plan: OuterPlan, count: int
) -> tuple[Parameters, OuterState]:
    parameters: Parameters = _start()
    state = OuterState()
    for mean in _means(count):
        parameters, state = advance(
            parameters,
            state,
            mean=mean,
            layout=LAYOUT,
            manifest=renamed(manifest, outer=plan),
        )
    return parameters, state


def _flat(parameters: Parameters) -> FloatVector:
    return LAYOUT.flatten(parameters)


def test_the_mean_is_added_at_its_rate(manifest: RoundManifest) -> None:
    after, _ = _run(manifest, _plan("mean", "0.5"), 3)
    expected = _flat(_start()) + 0.5 * np.sum(_means(3), axis=0)
    assert np.allclose(_flat(after), expected, atol=1e-6)


def test_nesterov_is_that_of_diloco(manifest: RoundManifest) -> None:
    """Against torch's SGD with nesterov, whose gradient is minus the mean update."""
    import torch

    after, state = _run(manifest, _plan("nesterov", "0.7", "0.9"), 4)
    weight = torch.nn.Parameter(torch.from_numpy(_flat(_start()).copy()))
    optimizer = torch.optim.SGD([weight], lr=0.7, momentum=0.9, nesterov=True)
    for mean in _means(4):
        weight.grad = -torch.from_numpy(mean)
        optimizer.step()
    assert np.allclose(_flat(after), weight.detach().numpy(), atol=1e-5)
    assert state.step == 4
    assert not state.second


def test_adam_is_that_of_the_paper(manifest: RoundManifest) -> None:
    """Against torch's Adam with the same constants."""
    import torch

    after, state = _run(manifest, _plan("adam", "0.1"), 4)
    weight = torch.nn.Parameter(torch.from_numpy(_flat(_start()).copy()))
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=(0.9, 0.99), eps=1e-3)
    for mean in _means(4):
        weight.grad = -torch.from_numpy(mean)
        optimizer.step()
    assert np.allclose(_flat(after), weight.detach().numpy(), atol=1e-4)
    assert set(state.first) == set(state.second) == {"w", "b"}


@pytest.mark.parametrize("optimizer", ["mean", "nesterov", "adam"])
def test_a_step_gives_the_same_bits_as_ever(
    manifest: RoundManifest, optimizer: str
) -> None:
    """Known answers: another NumPy or processor must not change a base's name."""
    after, state = _run(manifest, _plan(optimizer), 3)
    hashes = tensor_digests(after)
    rows = [[name, list(after[name].shape), each] for name, each in hashes.items()]
    seen = hashlib.sha256((digest(canonical_json(rows)) + state.digest).encode())
    assert seen.hexdigest()[:16] == KNOWN[optimizer]


def test_unchanged_tensors_stay_the_same_objects(manifest: RoundManifest) -> None:
    before = _start()
    after, _ = advance(
        before,
        OuterState(),
        mean=_means(1)[0],
        layout=LAYOUT,
        manifest=renamed(manifest, outer=_plan("mean")),
    )
    assert after["frozen"] is before["frozen"]
    assert after["w"] is not before["w"]
    assert np.array_equal(before["w"], _start()["w"])


@given(st.integers(0, 2**32 - 1), st.sampled_from(["mean", "nesterov", "adam"]))
def test_a_step_depends_on_its_inputs_alone(seed: int, optimizer: str) -> None:
    manifest = renamed(_MANIFEST, outer=_plan(optimizer))
    mean = np.random.default_rng(seed).standard_normal(15).astype(np.float32)
    results = [
        advance(_start(), OuterState(), mean=mean, layout=LAYOUT, manifest=manifest)
        for _ in range(2)
    ]
    assert parameters_digest(results[0][0]) == parameters_digest(results[1][0])
    assert results[0][1].digest == results[1][1].digest
    assert all(v.dtype == np.float32 for v in results[0][0].values())


def test_the_state_of_the_optimizer_has_a_digest(manifest: RoundManifest) -> None:
    digests = {OuterState().digest}
    for optimizer in ("mean", "nesterov", "adam"):
        digests.add(_run(manifest, _plan(optimizer), 1)[1].digest)
        digests.add(_run(manifest, _plan(optimizer), 2)[1].digest)
    assert len(digests) == 7
