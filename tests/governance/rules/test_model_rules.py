"""Attacks on the rules; numbers in brackets are rows of the attack matrix."""

import pytest

from tapestry.errors import RuleError
from tapestry.protocol.stages import RoundStage
from tapestry_governance.events.event_body import Body
from tapestry_governance.events.privacy_events import DpAccounted, UnboundedLoss
from tapestry_governance.events.round_events import RoundAborted, RoundOpened
from tapestry_governance.rules.replay import apply
from tests.support.log_world import (
    NAMES,
    World,
    changed,
    fake_digest,
    renamed,
    with_loss,
    without_noise,
)
from tests.support.refusals import refused


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
    ("change", "code", "value"),
    [
        ({"epsilon_run": "8.1"}, "epsilon-above-cap", "8.1 .* allows 8"),
        ({"loss": UnboundedLoss(mechanism="none")}, "noise-not-allowed", "fr"),
        ({"noise_multiplier": "0.9"}, "noise-too-low", "noise_multiplier 0.9"),
        ({"own_multiplier": "0.9", "noise_multiplier": "0.9"}, "noise-too-low", "0.9"),
        ({"clip_norm": "2"}, "privacy-terms-differ", "clip_norm 2,"),
        ({"target_delta": "0.000001"}, "privacy-terms-differ", "0.000001"),
        ({"shares": 2}, "privacy-terms-differ", "shares 2, planned was 1"),
        ({"target_delta": "0.1"}, "delta-above-policy", "delta 0.1"),
        ({"steps": 19}, "steps-differ", "19"),
        ({"sampling_rate": "0.04"}, "sampling-rate-too-low", "0.04"),
        ({"round_number": 2}, "node-not-in-cohort", "fr .* 2, 1"),
    ],
)
def test_accounting_that_does_not_match_the_plan_is_refused(  # [22, 23]
    world: World, change: dict[str, object], code: str, value: str
) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    account = world.account(manifest)
    with refused(RuleError, code, match=value):
        world.add(_changed(account, change), "fr", "node")
    world.add(account, "fr", "node")
    with refused(RuleError, "account-duplicated"):
        world.add(account, "fr", "node")


def test_epsilon_never_falls_within_a_run(world: World) -> None:
    world.run_round(1)
    manifest = world.manifest(2)
    world.add(RoundOpened(manifest=manifest))
    with refused(RuleError, "epsilon-decreased", match="from 2 to 1"):
        world.add(world.account(manifest, epsilon="1"), "fr", "node")


def test_training_without_noise_voids_the_promise_of_a_run() -> None:
    world = World(rules={"noise": ("local", "none")}).found()
    bare = changed(without_noise(world.adapter_account()), run_id="run")
    world.add(bare, "fr", "node")
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    with refused(RuleError, "run-without-noise", match="fr .* run run"):
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
    with refused(RuleError, "data-not-declared", match="fr"):
        world.add(world.account(manifest), "fr", "node")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model_digest": fake_digest("other")}, "release-model-differs"),
        ({"round_number": 2}, "release-of-old-round"),
        ({"previous": "base-0"}, "release-predecessor-differs"),
    ],
)
def test_a_release_of_something_else_is_refused(
    world: World, change: dict[str, object], code: str
) -> None:
    world.run_round(1)
    with refused(RuleError, code):
        world.add(changed(world.release(1), **change))
    world.add(world.release(1))
    world.run_round(2)
    with refused(RuleError, "release-name-not-next", match="base-1"):
        world.add(changed(world.release(2), name="base-1"))


def test_a_round_is_released_once_whatever_the_files_of_another_release(
    world: World,
) -> None:
    world.run_round(1)
    world.add(world.release(1))
    for changes in ({}, {"name": "base-2"}, {"manifest_digest": fake_digest("x")}):
        again = changed(world.release(1), **{"name": "base-2", **changes})
        with refused(RuleError, "release-duplicated", match=r"1\) .* as base-1"):
            world.add(again)


def test_a_release_is_the_rounded_model_and_a_new_run_starts_from_it(
    world: World,
) -> None:
    rounded = fake_digest("rounded")
    manifest, commitments = world.manifest(), {}
    world.add(RoundOpened(manifest=manifest))
    for name in NAMES:
        commitments[name] = world.add(world.commitment(name, manifest), name, "node")
        world.add(world.account(manifest), name, "node")
    closing = world.closing(manifest, commitments)
    world.add(changed(closing, release_digest=rounded))
    assert world.folded.base == world.base(1)
    with refused(RuleError, "release-model-differs", match=rounded):
        world.add(world.release(1))
    world.add(changed(world.release(1), model_digest=rounded))
    fresh = renamed(world.manifest(1), run_id="run-2", model_digest=rounded)
    apply(world.folded, world.entry(RoundOpened(manifest=fresh)), len(world.entries))
    wide = renamed(fresh, model_digest=world.base(1))
    with refused(RuleError, "base-not-allowed", match=world.base(1)):
        world.add(RoundOpened(manifest=wide))
    world.add(RoundOpened(manifest=world.manifest(2)))  # the run itself goes on


def test_a_release_waits_for_the_round_to_close(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    with refused(RuleError, "release-without-round"):
        world.add(world.release(1))


@pytest.mark.parametrize(
    ("change", "code", "value"),
    [
        ({"base": "base-3"}, "adapter-base-unpublished", "base-3"),
        ({"base_digest": fake_digest("other")}, "adapter-base-unpublished", "base-1"),
        ({"licence": "Proprietary"}, "licence-not-allowed", "Proprietary"),
        ({"epsilon": "1"}, "adapter-epsilon-differs", "epsilon 1"),
        (
            {"epsilon": None, "target_delta": None},
            "adapter-epsilon-differs",
            "epsilon None",
        ),
        ({"name": "fr-other"}, "adapter-not-accounted", "fr-other"),
        ({"name": "base-2"}, "adapter-name-reserved", "base-2"),
    ],
)
def test_an_adapter_outside_the_rules_is_refused(
    world: World, change: dict[str, object], code: str, value: str
) -> None:
    publishable(world)
    with refused(RuleError, code, match=value):
        world.add(changed(world.adapter(1), **change), "fr", "community")


def test_an_adapter_has_one_publisher_and_rising_versions(world: World) -> None:
    publishable(world)
    world.add(world.adapter(1), "fr", "community")
    with refused(RuleError, "adapter-version-not-next", match="1 after 1"):
        world.add(world.adapter(1), "fr", "community")
    with refused(RuleError, "adapter-not-accounted", match="fr-culture"):
        world.add(changed(world.adapter(1), version=2), "fr", "community")
    with refused(RuleError, "adapter-name-taken", match="is fr's"):
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
        survivors=(),
    )
