"""Attacks on the rules; numbers in brackets are rows of the attack matrix."""

import pytest

from tapestry.encoding import digest
from tapestry.errors import RuleError
from tapestry.protocol.stages import RoundStage
from tapestry_governance.events.privacy_events import Unit
from tapestry_governance.events.publication_events import AdapterWithdrawn
from tapestry_governance.events.round_events import RoundAborted, RoundOpened
from tapestry_governance.rules.model_rules import check_title
from tapestry_governance.rules.replay import apply
from tapestry_governance.vote_count import adapter_standing
from tests.support.log_world import (
    NAMES,
    World,
    changed,
    fake_digest,
    renamed,
    with_loss,
)
from tests.support.proposals import withdrawal
from tests.support.refusals import refused


@pytest.fixture
def world() -> World:
    return World().found()


def test_an_adapter_is_accounted_for_in_the_run_of_its_release(world: World) -> None:
    publishable(world)
    world.approve("base-1")
    other = renamed(world.manifest(), run_id="other", model_digest=world.base(1))
    world.add(RoundOpened(manifest=other))
    commitments = {}
    for name in NAMES:
        commitments[name] = world.commit(name, other, epsilon="3")
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


def test_versions_of_data_follow_one_another() -> None:
    world = World(unit="person").found()
    again = world.declaration("fr")
    for change in ({"version": 1}, {"version": 3}, {"block": 3}):
        with refused(RuleError, "data-version-not-next", match="after version 1"):
            world.add(changed(again, **change), "fr", "node")
    world.add(changed(again, block=2), "fr", "node")
    fewer = changed(world.declaration("fr"), block=1)
    with refused(RuleError, "data-version-not-next", match="with block 1 after"):
        world.add(fewer, "fr", "node")


@pytest.mark.parametrize("unit", ["record", "person"])
def test_the_unit_of_privacy_stays_what_it_was(unit: Unit) -> None:
    """With another unit, what was spent would be of nobody in particular."""
    world = World(unit=unit).found()
    other = "person" if unit == "record" else "record"
    with refused(RuleError, "unit-differs", match=f"each {other} after {unit}"):
        world.add(changed(world.declaration("fr"), unit=other), "fr", "node")


def test_single_records_have_one_block_for_ever(world: World) -> None:
    """Nothing tells a record that was edited from a new one, with a fresh budget."""
    again = world.declaration("fr")
    with refused(RuleError, "block-without-key", match="block 2 of single records"):
        world.add(changed(again, block=2), "fr", "node")
    world.add(again, "fr", "node")


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
        commitments[name] = world.commit(name, manifest)
    closing = world.closing(manifest, commitments)
    world.add(changed(closing, release_digest=rounded))
    assert world.folded.base == world.base(1)
    with refused(RuleError, "release-model-differs", match=rounded):
        world.add(world.release(1))
    fresh = renamed(world.manifest(1), run_id="run-2", model_digest=rounded)
    with refused(RuleError, "base-not-allowed", match=rounded):  # not published yet
        world.add(RoundOpened(manifest=fresh))
    world.add(changed(world.release(1), model_digest=rounded))
    with refused(RuleError, "base-not-allowed", match=rounded):  # a candidate
        world.add(RoundOpened(manifest=fresh))
    world.approve("base-1")
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


def test_an_adapter_is_published_with_the_account_of_its_version(world: World) -> None:
    publishable(world)
    third = with_loss(changed(world.adapter_account(), version=3), epsilon="4")
    paid = world.add(third, "fr", "node")
    for version, epsilon in ((2, "2.9"), (3, "2.9"), (1, "4")):
        other = changed(world.adapter(1), version=version, epsilon=epsilon)
        code = "adapter-not-accounted" if version == 2 else "adapter-epsilon-differs"
        with refused(RuleError, code):
            world.add(other, "fr", "community")
    world.add(changed(world.adapter(1), version=3, epsilon="4"), "fr", "community")
    assert world.folded.paid_by == {"fr-culture": paid}


def test_an_adapter_is_published_within_the_policy_in_force(world: World) -> None:
    publishable(world)
    world.change_policy(epsilon_cap="2.8")
    with refused(RuleError, "epsilon-above-cap", match="allows 2.8"):
        world.add(world.adapter(1), "fr", "community")


def test_a_members_name_is_its_own_for_adapters() -> None:
    world = World(names=("de", "es", "es-sur", "id")).adopt()
    own = {
        "es": "es", "es-songs": "es", "es-sur": "es-sur", "es-sur-2": "es-sur",
        "es-surf": "es", "de-es": "de", "id-": "id",
    }  # fmt: skip
    for name, owner in own.items():
        check_title(world.folded, name, 1, actor=owner)
        for other in {"de", "es", "es-sur", "id"} - {owner}:
            with refused(RuleError, "adapter-name-reserved", match=f"of {owner}"):
                check_title(world.folded, name, 1, actor=other)
    for actor in ("de", "es", "es-sur", "id"):
        for name in ("songs", "esperanto", "ide", "d"):  # of whoever comes first
            check_title(world.folded, name, 1, actor=actor)


def test_an_adapter_under_the_name_of_another_member_is_refused(world: World) -> None:
    publishable(world)
    for name in ("de", "de-archive"):
        world.add(world.adapter_account(name), "fr", "node")
        with refused(RuleError, "adapter-name-reserved", match=f"{name} .* of de"):
            world.add(changed(world.adapter(1), name=name), "fr", "community")


def test_an_adapter_has_one_publisher_and_rising_versions(world: World) -> None:
    publishable(world)
    world.add(world.adapter(1), "fr", "community")
    with refused(RuleError, "adapter-version-not-next", match="1 after 1"):
        world.add(world.adapter(1), "fr", "community")
    with refused(RuleError, "adapter-not-accounted", match="fr-culture"):
        world.add(changed(world.adapter(1), version=2), "fr", "community")
    with refused(RuleError, "adapter-name-reserved", match="of fr"):
        world.add(changed(world.adapter(1), version=2), "de", "community")
    for name, code in (("fr", None), ("es", "adapter-name-taken")):  # a free name
        world.add(world.adapter_account("chants"), name, "node")
        body = changed(world.adapter(1), name="chants")
        if code is None:
            world.add(body, name, "community")
            continue
        with refused(RuleError, code, match="is fr's"):
            world.add(body, name, "community")


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


def test_a_release_is_a_candidate_that_members_vote_on(world: World) -> None:
    world.run_round()
    index = world.add(world.release())
    ballot = world.folded.ballots[index]
    assert (ballot.kind, ballot.release, ballot.outcome) == (
        "release",
        "base-1",
        "open",
    )
    assert ballot.entry == digest(world.entries[index])
    assert index not in world.folded.open_proposals  # it never lapses
    assert world.folded.standing == []


def test_no_adapter_is_published_on_a_release_that_was_withdrawn(world: World) -> None:
    publishable(world)
    world.decide(withdrawal(world, "base-1"), "de", "es", "id")
    with refused(RuleError, "release-withdrawn", match="base-1"):
        world.add(world.adapter(1), "fr", "community")


def withdrawn(world: World, **changes: object) -> AdapterWithdrawn:
    """Withdraw the only version of ``fr-culture``."""
    adapter = world.adapter(1)
    body = AdapterWithdrawn(
        name=adapter.name,
        version=adapter.version,
        manifest_digest=adapter.manifest_digest,
        reason="superseded",
    )
    return changed(body, **changes)


def published(world: World) -> None:
    publishable(world)
    world.add(world.adapter(1), "fr", "community")


def test_an_owner_withdraws_a_version_at_once_and_without_a_vote(world: World) -> None:
    published(world)
    at = world.add(withdrawn(world), "fr", "community")
    adapter = world.adapter(1)
    files = adapter.name, adapter.manifest_digest
    assert world.folded.is_withdrawn(*files)
    said = adapter_standing(world.folded, adapter, size=at).withdrawn
    assert said is not None
    assert (said.reason, said.decided) == ("superseded", at)
    again = changed(adapter, version=2, manifest_digest=fake_digest("version 2"))
    world.add(changed(world.adapter_account(), version=2, number=3), "fr", "node")
    world.add(again, "fr", "community")  # another version is another adapter
    assert not world.folded.is_withdrawn(again.name, again.manifest_digest)
    world.add(withdrawn(world, reason="compromised"), "fr", "community")  # graver
    standing = adapter_standing(world.folded, adapter, size=len(world.entries))
    assert standing.withdrawn is not None
    assert standing.withdrawn.reason == "compromised"


@pytest.mark.parametrize(
    ("change", "actor", "code"),
    [
        ({}, "id", "adapter-name-taken"),
        ({"version": 2}, "fr", "withdrawal-subject-unknown"),
        ({"name": "fr-other"}, "fr", "withdrawal-subject-unknown"),
        (
            {"manifest_digest": fake_digest("other files")},
            "fr",
            "withdrawal-subject-unknown",
        ),
    ],
    ids=["another-member", "version", "name", "manifest"],
)
def test_a_withdrawal_of_what_is_not_the_owners_is_refused(
    world: World, change: dict[str, object], actor: str, code: str
) -> None:
    published(world)
    with refused(RuleError, code):
        world.add(withdrawn(world, **change), actor, "community")


def test_an_owner_withdraws_a_version_once_by_one_reason(world: World) -> None:
    published(world)
    world.add(withdrawn(world), "fr", "community")
    with refused(RuleError, "withdrawn-already"):
        world.add(withdrawn(world), "fr", "community")
    with refused(RuleError, "role-not-allowed"):
        world.add(withdrawn(world, reason="compromised"), "fr", "node")
