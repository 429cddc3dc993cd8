"""Everybody's own copy of the base, moved by the published sum."""

import math

import numpy as np
import pytest

from tapestry.artifacts.model_identity import ModelContent
from tapestry.errors import VerificationError
from tapestry.model import replica
from tapestry.model.replica import Measured, Replica, measure
from tapestry.protocol.round_manifest import NesterovStep, RoundManifest
from tapestry.tensor_types import narrow, type_name, widen
from tapestry.vectors import Layout, tensor_digests
from tests.support.log_world import World, renamed
from tests.support.refusals import refused
from tests.support.replicas import replica_of

LAYOUT = Layout(tensors=(("w", (4, 5)),))


def _parameters() -> dict[str, np.ndarray]:
    return {
        "w": np.arange(20, dtype=np.float32).reshape(4, 5),
        "frozen": np.ones(3, dtype=np.float32),
    }


def _manifest(replica: Replica, **changes: object) -> RoundManifest:
    outer = NesterovStep(
        optimizer="nesterov",
        learning_rate="1",
        momentum="0.5",
        max_norm="100",
        max_loss_increase="1",
    )
    fixed = {
        "model_digest": replica.digest,
        "layout_digest": LAYOUT.digest,
        "length": LAYOUT.length,
        "clip_norm": "16",
        "clip_value": "16",
        "scale_bits": 10,
        "outer": outer,
    }
    return renamed(World().found().manifest(), **{**fixed, **changes})


def _total(value: float, nodes: int) -> np.ndarray:
    return np.full(20, round(value * nodes * 2**10), dtype=np.int32).view(np.uint32)


def test_a_sum_moves_the_base_by_its_mean() -> None:
    start = replica_of(_parameters())
    after = start.after(
        _total(0.25, 3),
        survivors=3,
        manifest=_manifest(start),
        layout=LAYOUT,
    )
    # Nesterov's first step is (1 + momentum) times the mean.
    assert np.allclose(after.parameters["w"], start.parameters["w"] + 0.375)
    assert after.parameters["frozen"] is start.parameters["frozen"]
    assert after.optimizer.step == 1
    assert after.digest == ModelContent(tensors=after.parameters).digest
    assert after.release_digest == after.digest
    assert after.hashes == tensor_digests(after.parameters)
    assert after.digest != start.digest


def test_equal_sums_give_equal_replicas() -> None:
    ends = []
    for _ in range(2):
        replica = replica_of(_parameters())
        for value in (0.5, -0.25, 0.125):
            replica = replica.after(
                _total(value, 4),
                survivors=4,
                manifest=_manifest(replica),
                layout=LAYOUT,
            )
        ends.append((replica.digest, replica.optimizer.digest))
    assert ends[0] == ends[1]


def test_the_order_of_sums_matters() -> None:
    ends = set()
    for values in ((0.5, -0.25), (-0.25, 0.5)):
        replica = replica_of(_parameters())
        for value in values:
            replica = replica.after(
                _total(value, 4),
                survivors=4,
                manifest=_manifest(replica),
                layout=LAYOUT,
            )
        ends.add(replica.digest)
    assert len(ends) == 2


@pytest.mark.parametrize(
    ("name", "code"),
    [("model_digest", "base-differs"), ("layout_digest", "layout-differs")],
)
def test_a_round_of_another_base_or_layout_moves_nothing(name: str, code: str) -> None:
    start, other = (
        replica_of(_parameters()),
        "sha256:" + "0" * 64,
    )
    with refused(VerificationError, code, match=other):
        start.after(
            _total(1, 4),
            survivors=4,
            manifest=_manifest(start, **{name: other}),
            layout=LAYOUT,
        )
    assert start.digest == replica_of(_parameters()).digest


def test_a_sum_of_another_length_moves_nothing() -> None:
    start = replica_of(_parameters())
    with refused(VerificationError, "layout-differs"):
        start.after(
            _total(1, 4)[:-1],
            survivors=4,
            manifest=_manifest(start),
            layout=LAYOUT,
        )


def test_the_length_of_a_mean_is_measured_in_whole_numbers() -> None:
    manifest = _manifest(replica_of(_parameters()))
    found = measure(_total(0.25, 3), survivors=3, manifest=manifest)
    assert found == Measured(norm=math.sqrt(20 * 768**2) * (1 / 3 / 2**10), fault=None)
    total = np.full(20, -(2**31), dtype=np.int64).astype(np.int32).view(np.uint32)
    assert replica.squares(total) == 20 * 2**62


@pytest.mark.parametrize(
    ("value", "max_norm", "fault"),
    [
        (0.25, "1.2", None),  # 0.25 * sqrt(20) = 1.118
        (0.25, "1.1", "norm_too_large"),
        (-0.25, "1.1", "norm_too_large"),
        (3.5, "100", None),
        (4.0, "100", "sum_out_of_range"),  # a node may be 16 long
        (17.0, "1000", "sum_out_of_range"),
    ],
)
def test_a_sum_out_of_range_or_too_long_is_named(
    value: float, max_norm: str, fault: str | None
) -> None:
    start = replica_of(_parameters())
    outer = _manifest(start).outer.model_copy(update={"max_norm": max_norm})
    manifest = _manifest(start, outer=outer)
    found = measure(_total(value, 3), survivors=3, manifest=manifest)
    assert found.fault == fault
    assert (found.norm == 0) == (fault == "sum_out_of_range")


KINDS = {"F32": 0.0, "BF16": 2**-8, "F16": 2**-11}  # error of a rounded value


def _stored(kind: str) -> Replica:
    values = np.random.default_rng(3).uniform(0.5, 1, (4, 5)).astype(np.float32)
    frozen = np.linspace(-2, 2, 7, dtype=np.float32)
    return replica_of({"w": narrow(values, kind), "frozen": narrow(frozen, kind)})


def _moved(replica: Replica, total: np.ndarray) -> Replica:
    outer = _manifest(replica).outer.model_copy(update={"momentum": "0"})
    manifest = _manifest(replica, outer=outer, scale_bits=20, clip_norm="4")
    return replica.after(total, survivors=4, manifest=manifest, layout=LAYOUT)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_tensor_keeps_its_type_until_it_moves_and_has_it_again_in_a_release(
    kind: str,
) -> None:
    start = _stored(kind)
    assert start.release_digest == start.digest
    after = _moved(start, _total(256, 4))
    assert after.parameters["w"].dtype == np.float32
    assert after.parameters["frozen"] is start.parameters["frozen"]
    released = after.rounded()
    assert [type_name(each) for each in released.values()] == [kind, kind]
    assert released["frozen"] is start.parameters["frozen"]
    assert after.release_digest == replica_of(released).digest
    assert (after.release_digest == after.digest) == (kind == "F32")
    assert replica_of(released).digest != start.digest


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("relative", [1e-3, 3e-4])
def test_small_steps_add_up_through_the_rounds_of_a_run(
    kind: str, relative: float
) -> None:
    """Rounding each step to bfloat16 keeps half of a step of a thousandth, or less."""
    replica = start = _stored(kind)
    before = widen(start.parameters["w"])
    step = np.round(before.reshape(-1) * relative * 4 * 2**20).astype(np.int32)
    rounds = 40
    for _ in range(rounds):
        replica = _moved(replica, step.view(np.uint32))
    gained = (widen(replica.parameters["w"]) - before).sum()
    want = before.sum() * relative * rounds
    assert 0.99 < gained / want < 1.01
    released = widen(replica.rounded()["w"])
    error = np.abs(released - widen(replica.parameters["w"])) / before
    assert error.max() <= KINDS[kind] * 1.1


def test_other_settings_files_are_another_base() -> None:
    tensors = _parameters()
    one = Replica.start(ModelContent(tensors=tensors, files={"config.json": b"{}"}))
    other = Replica.start(ModelContent(tensors=tensors, files={"config.json": b"{ }"}))
    assert one.digest != other.digest
    moved = [
        each.after(
            _total(1, 4), survivors=4, manifest=_manifest(each), layout=LAYOUT
        ).digest
        for each in (one, other)
    ]
    assert moved[0] != moved[1]
