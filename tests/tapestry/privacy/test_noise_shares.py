"""How noise is split: shares that add up, a grid that is fine enough, room for both."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ProtocolError
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.round_manifest import RoundManifest, SharedNoise
from tapestry.secagg.quantization import Encoding
from tests.support.log_world import World, renamed
from tests.support.refusals import refused

GIVEN = World().found().manifest()


def manifest(**changes: Any) -> RoundManifest:
    """Four nodes, threshold 3, one may collude: two shares are counted on."""
    privacy = SharedNoise.model_validate(
        {
            **GIVEN.privacy.model_dump(),
            "noise": "shared",
            "clip_norm": "0.5",
            "noise_multiplier": changes.pop("noise_multiplier", "1"),
            "min_share": changes.pop("min_share", "0"),
        }
    )
    training = GIVEN.training.model_copy(
        update={
            "steps": changes.pop("steps", 1),
            "optimizer": "sgd",
            "batch_size": 8,
            "learning_rate": "0.1",
            "weight_decay": changes.pop("weight_decay", "0"),
        }
    )
    fixed = {"length": 10_000, "clip_norm": "0.5", "clip_value": "0.5"}
    plans = {"scale_bits": 28, "privacy": privacy, "training": training}
    return renamed(GIVEN, **{**fixed, **plans, **changes})


def share(**changes: Any) -> NoiseShare:
    found = NoiseShare.of(manifest(**changes))
    assert found is not None
    return found


def test_noise_that_is_not_shared_has_no_shares() -> None:
    assert NoiseShare.of(GIVEN) is None


def test_a_share_is_the_whole_noise_over_the_shares_that_are_counted_on() -> None:
    found = share()
    assert found.shares == manifest().threshold - manifest().max_colluding == 2
    assert found.bound == pytest.approx(0.5 * 0.1 / 8 * 2**28)
    assert found.deviation**2 * 2 == pytest.approx(found.bound**2)
    assert found.own_multiplier == pytest.approx(math.sqrt(0.5))


@given(st.integers(1, 10**8), st.integers(20, 30))
def test_a_unit_and_what_bounding_a_sum_adds_are_within_what_is_paid_for(
    length: int, scale_bits: int
) -> None:
    added = math.sqrt(length) * (1 + 2.0**-17)
    if added > 0.5 * 0.1 / 8 * 2.0 ** (scale_bits - 11):
        with refused(ProtocolError, "grid-too-coarse"):
            share(length=length, scale_bits=scale_bits)
        return
    found = share(length=length, scale_bits=scale_bits)
    assert found.unit_bound + added <= found.bound
    assert found.unit_bound >= found.bound * (1 - 2.0**-10) - 1
    assert found.unit_scale * 0.5 == pytest.approx(found.bound)


@given(st.floats(0.3, 8), st.floats(0, 8))
def test_the_counted_shares_have_at_least_the_noise_of_the_plan(
    whole: float, floor: float
) -> None:
    found = share(noise_multiplier=f"{whole:.3f}1", min_share=f"{floor:.3f}1")
    assert found.noise_multiplier >= float(f"{whole:.3f}1")
    assert found.own_multiplier >= float(f"{floor:.3f}1")
    together = found.shares * found.own_multiplier**2
    assert together == pytest.approx(found.noise_multiplier**2)


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"scale_bits": 13}, "noise-below-grid", "at least 1000"),
        ({"scale_bits": 20}, "grid-too-coarse", "at most 0.00049"),
        ({"noise_multiplier": "0"}, "noise-share-not-positive", "noise_multiplier 0,"),
        ({"min_share": "-1"}, "noise-share-not-positive", "min_share -1 "),
        ({"threshold": 2, "max_colluding": 2}, "noise-share-not-positive", "of 0 "),
    ],
)
def test_a_share_that_protects_nothing_is_refused(
    changes: dict[str, Any], code: str, values: str
) -> None:
    with refused(ProtocolError, code, match=rf"round \d+: .*{values}"):
        NoiseShare.of(manifest(**changes))


def test_the_ring_has_room_for_the_noise_as_well() -> None:
    assert Encoding.of(manifest()).noise == share().deviation
    with refused(ProtocolError, "sum-may-overflow"):
        Encoding.of(manifest(noise_multiplier="200"))


@pytest.mark.parametrize(
    "changes", [{"steps": 2}, {"weight_decay": "0.1"}, {"optimizer": "adam"}]
)
def test_a_manifest_of_several_steps_shares_no_noise(changes: dict[str, Any]) -> None:
    good = manifest()
    training = good.training.model_copy(update=changes)
    bad = good.model_copy(update={"training": training}).encode()
    with refused(ProtocolError, "schema-violated"):
        RoundManifest.decode(bad)
    assert RoundManifest.decode(good.encode()) == good
