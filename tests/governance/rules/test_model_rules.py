"""Attacks on the rules; numbers in brackets are rows of the attack matrix."""

import pytest

from tapestry.errors import (
    RuleError,
)
from tapestry.protocol.stages import RoundStage
from tapestry_governance.events.types import (
    Body,
    DpAccounted,
    RoundAborted,
    RoundOpened,
    UnboundedLoss,
)
from tests.support.log_world import (
    World,
    changed,
    fake_digest,
    with_loss,
    without_noise,
)


@pytest.fixture
def world() -> World:
    return World().found()


def _changed(account: DpAccounted, change: dict[str, object]) -> Body:
    """Change a field of an account, or of its loss; the body stays a valid one."""
    fields = DpAccounted.model_fields
    kept = {name: value for name, value in change.items() if name in fields}
    rest = {name: value for name, value in change.items() if name not in fields}
    return changed(with_loss(account, **rest) if rest else account, **kept)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epsilon_run": "8.1"}, "the policy allows 8"),
        ({"loss": UnboundedLoss(mechanism="none")}, "without noise"),
        ({"noise_multiplier": "0.9"}, "is not the plan's"),
        ({"clip_norm": "2"}, "is not the plan's"),
        ({"target_delta": "0.000001"}, "is not the plan's"),
        ({"target_delta": "0.1"}, "delta 0.1"),
        ({"steps": 19}, "19 steps"),
        ({"sampling_rate": "0.04"}, "sampling rate"),
        ({"round_number": 2}, "no round"),
    ],
)
def test_accounting_that_does_not_match_the_plan_is_refused(  # [22, 23]
    world: World, change: dict[str, object], reason: str
) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    account = world.account(manifest)
    with pytest.raises(RuleError, match=reason):
        world.add(_changed(account, change), "fr", "node")
    world.add(account, "fr", "node")
    with pytest.raises(RuleError, match="accounted twice"):
        world.add(account, "fr", "node")


def test_epsilon_never_falls_within_a_run(world: World) -> None:
    world.run_round(1)
    manifest = world.manifest(2)
    world.add(RoundOpened(manifest=manifest))
    with pytest.raises(RuleError, match="falls from 2 to 1"):
        world.add(world.account(manifest, epsilon="1"), "fr", "node")


def test_training_without_noise_voids_the_promise_of_a_run() -> None:
    world = World(rules={"noise": ("local", "none")}).found()
    bare = changed(without_noise(world.adapter_account()), run_id="run")
    world.add(bare, "fr", "node")
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    with pytest.raises(RuleError, match="no epsilon holds"):
        world.add(world.account(manifest), "fr", "node")
    world.add(world.account(manifest), "de", "node")


def test_a_lost_round_can_be_accounted_for_later(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    world.add(abort(1))
    world.add(world.account(manifest), "fr", "node")
    assert world.folded.epsilon == {("fr", "run"): "2"}


def test_accounting_without_declared_data_is_refused() -> None:
    world = World()
    world.add(world.charter())
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    with pytest.raises(RuleError, match="declared no data"):
        world.add(world.account(manifest), "fr", "node")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parameters_digest": fake_digest("other")}, "the base is"),
        ({"round_number": 2}, "not of the last"),
        ({"previous": "base-0"}, "the latest is"),
    ],
)
def test_a_release_of_something_else_is_refused(
    world: World, change: dict[str, object], reason: str
) -> None:
    world.run_round(1)
    with pytest.raises(RuleError, match=reason):
        world.add(changed(world.release(1), **change))
    world.add(world.release(1))
    with pytest.raises(RuleError, match="does not come after"):
        world.add(world.release(1))


def test_a_release_waits_for_the_round_to_close(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    with pytest.raises(RuleError, match="follows a closed round"):
        world.add(world.release(1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"base": "base-3"}, "no release base-3"),
        ({"base_digest": fake_digest("other")}, "no release base-1"),
        ({"licence": "Proprietary"}, "licence Proprietary"),
        ({"epsilon": "1"}, "claims epsilon 1"),
        ({"epsilon": None, "target_delta": None}, "claims epsilon None"),
        ({"name": "fr-other"}, "accounted for no adapter"),
        ({"name": "base-2"}, "name for releases"),
    ],
)
def test_an_adapter_outside_the_rules_is_refused(
    world: World, change: dict[str, object], reason: str
) -> None:
    publishable(world)
    with pytest.raises(RuleError, match=reason):
        world.add(changed(world.adapter(1), **change), "fr", "community")


def test_an_adapter_has_one_publisher_and_rising_versions(world: World) -> None:
    publishable(world)
    world.add(world.adapter(1), "fr", "community")
    with pytest.raises(RuleError, match="1 after 1"):
        world.add(world.adapter(1), "fr", "community")
    with pytest.raises(RuleError, match="accounted for no adapter"):
        world.add(changed(world.adapter(1), version=2), "fr", "community")
    with pytest.raises(RuleError, match="is fr's"):
        world.add(changed(world.adapter(1), version=2), "de", "community")


def publishable(world: World) -> None:
    world.run_round(1)
    world.add(world.release(1))
    world.add(world.adapter_account(), "fr", "node")


def abort(attempt: int) -> RoundAborted:
    return RoundAborted(
        run_id="run",
        round_number=1,
        attempt=attempt,
        stage=RoundStage.COLLECT_MASKED_INPUTS,
        reason="too_few",
    )
