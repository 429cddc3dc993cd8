"""Attacks on the rules; numbers in brackets are rows of the attack matrix."""

import pytest

from tapestry.errors import RuleError
from tapestry.protocol.stages import RoundStage
from tapestry_governance.events.event_body import Body
from tapestry_governance.events.privacy_events import (
    BlockEpsilon,
    DpAccounted,
    NoisedSegment,
    UnboundedLoss,
)
from tapestry_governance.events.round_events import RoundAborted, RoundOpened
from tapestry_governance.rules.replay import apply
from tests.support.log_world import (
    NAMES,
    World,
    changed,
    fake_digest,
    one_block,
    renamed,
    with_loss,
    without_noise,
)
from tests.support.refusals import refused

TWO = (BlockEpsilon(block=2, epsilon="2", epsilon_fallback=None),)
SEGMENT = NoisedSegment(name="a", sensitivity="1", noise_multiplier="1")


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
        ({"epsilon": "8.1"}, "epsilon-above-cap", "8.1 .* allows 8"),
        ({"blocks": one_block("2") + TWO}, "blocks-differ", r"\[1, 2\]"),
        ({"blocks": TWO}, "blocks-differ", r"\[2\], declared 1 to 1"),
        ({"segments": (SEGMENT,)}, "segments-differ", "1 segments"),
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


def test_epsilon_of_a_block_never_falls(world: World) -> None:
    world.run_round(1)
    manifest = world.manifest(2)
    world.add(RoundOpened(manifest=manifest))
    with refused(RuleError, "epsilon-decreased", match="from 2 to 1"):
        world.add(world.account(manifest, epsilon="1"), "fr", "node")


def test_training_without_noise_voids_the_promise_of_every_later_run() -> None:
    world = World(rules={"noise": ("local", "none")}).found()
    world.run_round(1)
    world.add(world.release(1))
    world.add(without_noise(world.adapter_account()), "fr", "node")
    manifest = renamed(world.manifest(), run_id="another", model_digest=world.base(1))
    world.add(RoundOpened(manifest=manifest))
    with refused(RuleError, "training-without-noise", match="fr .* entry"):
        world.add(world.account(manifest), "fr", "node")
    world.add(world.account(manifest), "de", "node")


def test_adapters_under_invented_runs_are_refused(world: World) -> None:
    publishable(world)
    for run in ("invented-1", "invented-2"):
        adapter = changed(world.adapter_account("fr-other"), run_id=run)
        with refused(RuleError, "adapter-run-unreleased", match=run):
            world.add(adapter, "fr", "node")


def test_an_adapter_is_accounted_for_in_the_run_of_its_release(world: World) -> None:
    publishable(world)
    other = renamed(world.manifest(), run_id="other", model_digest=world.base(1))
    world.add(RoundOpened(manifest=other))
    commitments = {}
    for name in NAMES:
        commitments[name] = world.add(world.commitment(name, other), name, "node")
        world.add(world.account(other, epsilon="3"), name, "node")
    closing = world.closing(other, commitments)
    after = fake_digest("release of other")
    wide = fake_digest("base of other")
    world.add(changed(closing, base_after=wide, release_digest=after))
    second = changed(
        world.release(2),
        run_id="other",
        round_number=1,
        model_digest=after,
    )
    world.add(second)
    adapter = changed(world.adapter(1), base="base-2", base_digest=after)
    with refused(RuleError, "adapter-run-differs", match="run run, base-2 is of other"):
        world.add(adapter, "fr", "community")
    assert world.folded.released.last is not None
    assert world.folded.released.last.ancestry == {"run", "other"}


def test_a_member_has_a_number_of_adapter_accounts_by_release() -> None:
    world = World(rules={"max_accounts": 2}).found()
    publishable(world)
    world.add(world.adapter_account("fr-two"), "fr", "node")
    with refused(RuleError, "accounts-too-many", match="fr .* 3 .* allows 2"):
        world.add(world.adapter_account("fr-three"), "fr", "node")
    world.run_round(2, names=("de", "es", "id"))
    world.add(world.release(2))
    world.add(world.adapter_account("de-one"), "de", "node")
    world.add(world.adapter_account("fr-three"), "fr", "node")


def test_the_cap_holds_over_all_runs_and_adapters(world: World) -> None:
    publishable(world)
    for number in range(4, 9):
        adapter = world.adapter_account(f"fr-{number}")
        world.add(with_loss(adapter, epsilon=f"{number}"), "fr", "node")
    over = with_loss(world.adapter_account("fr-9"), epsilon="8.000001")
    with refused(RuleError, "epsilon-above-cap", match="fr .* block 1"):
        world.add(over, "fr", "node")


def test_a_smaller_epsilon_at_a_larger_delta_has_not_fallen(world: World) -> None:
    publishable(world)
    small = with_loss(world.adapter_account("a"), epsilon="4", target_delta="0.000001")
    world.add(small, "fr", "node")
    with refused(RuleError, "epsilon-decreased", match="from 4 to 3"):
        world.add(with_loss(small, epsilon="3"), "fr", "node")
    world.add(with_loss(world.adapter_account("b"), epsilon="3.5"), "fr", "node")


def test_versions_of_data_follow_one_another(world: World) -> None:
    again = changed(world.declaration("fr"), unit="person")
    for change in ({"version": 1}, {"version": 3}, {"block": 3}):
        with refused(RuleError, "data-version-not-next", match="after version 1"):
            world.add(changed(again, **change), "fr", "node")
    world.add(changed(again, block=2), "fr", "node")
    fewer = changed(world.declaration("fr"), block=1, unit="person")
    with refused(RuleError, "data-version-not-next", match="with block 1 after"):
        world.add(fewer, "fr", "node")


def test_single_records_have_one_block_for_ever(world: World) -> None:
    """Nothing tells a record that was edited from a new one, with a fresh budget."""
    again = world.declaration("fr")
    with refused(RuleError, "block-without-key", match="block 2 of single records"):
        world.add(changed(again, block=2), "fr", "node")
    world.add(again, "fr", "node")


def test_a_lost_round_can_be_accounted_for_later(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    world.add(abort(1))
    world.add(world.account(manifest), "fr", "node")
    assert world.folded.epsilon == {("fr", 1): ("2", "0.00001")}


def test_accounting_without_declared_data_is_refused() -> None:
    world = World().adopt()
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
