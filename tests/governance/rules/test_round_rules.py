"""Attacks on the rules; numbers in brackets are rows of the attack matrix."""

import pytest

from tapestry.errors import RuleError
from tapestry.protocol.messages import Reason
from tapestry.protocol.stages import RoundStage
from tapestry_governance.events.member_events import PauseProposal
from tapestry_governance.events.round_events import (
    COORDINATOR_LOST,
    ContributionRefused,
    Dropped,
    RoundAborted,
    RoundDisputed,
    RoundOpened,
)
from tapestry_governance.rules.replay import apply
from tests.support.log_world import NAMES, World, changed, fake_digest, renamed
from tests.support.proposals import new_coordinator, new_key, withdrawal
from tests.support.refusals import refused


@pytest.fixture
def world() -> World:
    return World().found()


@pytest.mark.parametrize(
    ("change", "code", "value"),
    [
        ({"federation": "other"}, "federation-differs", "other"),
        ({"round_number": 2}, "first-round-missing", r"2\.1"),
        ({"attempt": 2}, "first-round-missing", r"1\.2"),
        ({"attempt": 4}, "attempt-above-limit", "4"),
        (
            {"model_digest": fake_digest("mine")},
            "base-not-allowed",
            fake_digest("mine"),
        ),
        ({"policy_digest": fake_digest("lax")}, "policy-differs", fake_digest("lax")),
        ({"roster_digest": fake_digest("us")}, "roster-differs", fake_digest("us")),
        ({"min_cohort": 2}, "cohort-too-small", "at least 2; .* 3"),
        ({"max_colluding": 0}, "max-colluding-too-small", "0 .* 1"),
        ({"threshold": 2}, "threshold-out-of-range", "threshold 2"),
        ({"threshold": 5}, "threshold-out-of-range", "threshold 5"),
    ],
)
def test_a_round_outside_the_policy_is_refused(
    world: World, change: dict[str, object], code: str, value: str
) -> None:
    manifest = renamed(world.manifest(), **change)
    with refused(RuleError, code, match=value):
        world.append(world.entry(RoundOpened(manifest=manifest)))


@pytest.mark.parametrize(
    ("change", "code", "value"),
    [
        ({"noise": "none"}, "noise-not-allowed", "'none'"),
        ({"target_delta": "0.0001"}, "delta-above-policy", r"0\.0001"),
        ({"noise_multiplier": "0"}, "noise-not-positive", "multiplier 0"),
        ({"clip_norm": "0"}, "noise-not-positive", "clip norm 0"),
    ],
)
def test_a_round_without_the_promised_privacy_is_refused(
    world: World, change: dict[str, object], code: str, value: str
) -> None:
    manifest = world.manifest()
    privacy = manifest.privacy.model_dump() | change
    if change == {"noise": "none"}:
        privacy = change
    with refused(RuleError, code, match=value):
        world.add(RoundOpened(manifest=renamed(manifest, privacy=privacy)))


def test_a_stranger_or_a_foreign_key_in_the_cohort_is_refused(world: World) -> None:
    manifest = world.manifest()
    first, *rest = manifest.participants
    foreign = first.model_copy(update={"key": str(world.log_key.verify_key)})
    extra = first.model_copy(update={"name": "zz"})
    for participants in ((foreign, *rest), (*manifest.participants, extra)):
        with refused(RuleError, "participant-not-in-roster"):
            world.add(
                RoundOpened(manifest=renamed(manifest, participants=participants))
            )


def test_rounds_follow_one_another(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    with refused(RuleError, "round-still-open", match=r"\('run', 1, 1\)"):
        world.add(RoundOpened(manifest=world.manifest(attempt=2)))
    world.add(abort(1))
    with refused(RuleError, "round-not-next", match=r"\('run', 1, 1\), not"):
        world.add(RoundOpened(manifest=manifest))
    other = renamed(world.manifest(attempt=2), model_digest=fake_digest("base 1"))
    with refused(RuleError, "base-not-current", match=fake_digest("base 1")):
        world.add(RoundOpened(manifest=other))
    world.add(RoundOpened(manifest=world.manifest(attempt=2)))
    world.add(abort(2))
    world.add(RoundOpened(manifest=world.manifest(attempt=3)))
    world.add(abort(3))
    with refused(RuleError, "attempt-above-limit", match="attempt 4"):
        world.add(RoundOpened(manifest=world.manifest(attempt=4)))


def test_a_new_run_goes_on_from_any_approved_release_or_starts_anew(
    world: World,
) -> None:
    world.run_round(1)
    world.add(world.release(1))
    world.approve("base-1")
    world.run_round(2)
    fresh = renamed(world.manifest(1), run_id="run-2", model_digest=world.base(1))
    given = renamed(fresh, model_digest=world.base(0))
    for manifest in (fresh, given):
        apply(
            world.folded,
            world.entry(RoundOpened(manifest=manifest)),
            len(world.entries),
        )
    unreleased = renamed(fresh, model_digest=world.base(2))
    with refused(RuleError, "base-not-allowed", match=world.base(2)):
        world.add(RoundOpened(manifest=unreleased))
    back = renamed(world.manifest(3), model_digest=world.base(0))
    with refused(RuleError, "base-not-current", match=world.base(0)):
        world.add(RoundOpened(manifest=back))


def test_a_round_that_was_never_logged_has_no_commitments(world: World) -> None:
    manifest = world.manifest()  # [21]
    commitment = world.commitment("fr", manifest)
    with refused(RuleError, "round-not-open", match="open is none"):
        world.add(commitment, "fr", "node")
    world.add(RoundOpened(manifest=manifest))
    world.commit("fr", manifest)
    with refused(RuleError, "commitment-duplicated"):
        world.add(commitment, "fr", "node")


def test_a_round_names_only_software_that_the_policy_lists() -> None:
    listed = tuple(sorted(map(fake_digest, ("x86", "arm", "mac"))))
    other = fake_digest("patched")
    for software, is_allowed in (
        (listed, True),
        (listed[1:2], True),
        (tuple(sorted((listed[0], other))), False),
        ((other,), False),
    ):
        world = World(rules={"software": listed}).found()
        opened = RoundOpened(manifest=renamed(world.manifest(), software=software))
        if is_allowed:
            world.add(opened)
            continue
        with refused(RuleError, "software-not-allowed", match=other):
            world.add(opened)


def test_a_commitment_to_another_plan_is_refused(world: World) -> None:  # [22]
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    other = renamed(manifest, software=(fake_digest("patched"),))
    with refused(RuleError, "commitment-differs", match="fr"):
        world.add(world.commitment("fr", other), "fr", "node")


def test_a_node_commits_or_refuses_but_not_both(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    world.commit("fr", manifest)
    with refused(RuleError, "attempt-committed", match="fr"):
        world.add(refusal(), "fr", "node")
    world.add(refusal(), "de", "node")
    with refused(RuleError, "attempt-refused", match="de"):
        world.add(world.commitment("de", manifest), "de", "node")


def test_a_refusal_is_of_an_attempt_in_the_log_and_comes_once(world: World) -> None:
    for unknown in (refusal(), changed(refusal(), round_number=9)):
        with refused(RuleError, "node-not-in-cohort"):
            world.add(unknown, "de", "node")
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    with refused(RuleError, "node-not-in-cohort"):
        world.add(changed(refusal(), attempt=2), "de", "node")
    world.add(refusal(), "de", "node")
    with refused(RuleError, "refusal-duplicated"):
        world.add(changed(refusal(), reason=Reason.MAINTENANCE), "de", "node")
    world.add(
        RoundAborted(
            run_id="run",
            round_number=1,
            attempt=1,
            stage=None,
            reason="quorum_missed",
            survivors=(),
        )
    )
    world.add(refusal(), "fr", "node")  # it came late
    with refused(RuleError, "refusal-duplicated"):
        world.add(refusal(), "fr", "node")


def test_a_node_commits_once_to_an_attempt(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    world.commit("fr", manifest)
    with refused(RuleError, "commitment-duplicated", match="fr"):
        world.add(world.commitment("fr", manifest), "fr", "node")


def opened(world: World, names: tuple[str, ...] = NAMES) -> dict[str, int]:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    indexes = {}
    for name in names:
        indexes[name] = world.commit(name, manifest)
    return indexes


@pytest.mark.parametrize(
    ("change", "code", "value"),
    [
        ({"commitments": (10, 13, 15, 17)}, "commitment-unknown", "entry 10 .* de's"),
        ({"commitments": (11, 13, 17, 15)}, "commitment-unknown", "entry 17 .* fr's"),
        ({"base_before": fake_digest("x")}, "base-before-differs", fake_digest("x")),
        (
            {"included": NAMES[:3], "commitments": (10, 12, 14)},
            "participants-differ",
            r"\['id'\]",
        ),
        (
            {"dropped": (Dropped(name="id", stage=RoundStage.COLLECT_MASKED_INPUTS),)},
            "participants-differ",
            "4 participants",
        ),
        ({"round_number": 2}, "round-not-open", r"\('run', 2, 1\), open is"),
        ({"attempt": 2}, "round-not-open", r"\('run', 1, 2\), open is"),
        (
            {"outcome": "rejected", "reason": "norm"},
            "rejected-round-moved-base",
            fake_digest("base 1"),
        ),
        (
            {
                "outcome": "rejected",
                "reason": "norm",
                "base_after": fake_digest("given"),
                "release_digest": fake_digest("another"),
            },
            "rejected-round-moved-base",
            fake_digest("another"),
        ),
        (
            {
                "included": NAMES[:2],
                "commitments": (10, 12),
                "dropped": tuple(
                    Dropped(name=n, stage=RoundStage.COLLECT_MASKED_INPUTS)
                    for n in NAMES[2:]
                ),
            },
            "sum-too-small",
            "a sum of 2, at least 3",
        ),
    ],
)
def test_a_round_closed_falsely_is_refused(  # [24]
    world: World, change: dict[str, object], code: str, value: str
) -> None:
    closing = world.closing(world.manifest(), opened(world))
    with refused(RuleError, code, match=value):
        world.add(changed(closing, **change))
    world.add(closing)


def test_a_rejected_round_leaves_the_base(world: World) -> None:
    closing = world.closing(world.manifest(), opened(world))
    rejected = changed(
        closing,
        outcome="rejected",
        reason="norm",
        base_after=closing.base_before,
        release_digest=closing.base_before,
    )
    world.add(rejected)
    assert world.folded.base == world.base(0)


def test_an_upload_is_accounted_for_before_its_sum_may_be_known(world: World) -> None:
    """However the round ends: without it there is no commitment, and so no end."""
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    world.commit("fr", manifest)
    with refused(RuleError, "account-missing", match="de"):
        world.add(world.commitment("de", manifest), "de", "node")
    with refused(RuleError, "commitment-unknown", match="de"):
        world.add(changed(abort(1), survivors=("de", "fr")))
    world.add(changed(abort(1), survivors=("fr",)))
    world.add(RoundOpened(manifest=world.manifest(attempt=2)))
    with refused(RuleError, "account-missing", match="fr"):  # its account was of 1.1
        world.add(world.commitment("fr", world.manifest(attempt=2)), "fr", "node")


def dispute(**changes: object) -> RoundDisputed:
    found = RoundDisputed(
        run_id="run", round_number=1, attempt=1, subject="gate", chunk=None
    )
    body = changed(found, **changes)
    assert isinstance(body, RoundDisputed)
    return body


def test_a_member_disputes_each_part_of_a_closed_round_once(world: World) -> None:
    with refused(RuleError, "dispute-without-round", match="'run', 1, 1"):
        world.add(dispute(), "fr", "node")
    world.run_round()
    for actor in ("fr", "de"):
        world.add(dispute(), actor, "node")
    world.add(dispute(subject="sum", chunk=3), "fr", "node")
    for again in (dispute(), dispute(subject="sum", chunk=4)):
        with refused(RuleError, "dispute-duplicated", match="fr disputed"):
            world.add(again, "fr", "node")
    for other in ({"run_id": "other"}, {"attempt": 2}, {"round_number": 2}):
        with refused(RuleError, "dispute-without-round"):
            world.add(dispute(**other), "es", "node")


@pytest.mark.parametrize(("subject", "chunk"), [("sum", None), ("gate", 0)])
def test_a_dispute_names_a_chunk_of_a_sum_alone(
    subject: str, chunk: int | None
) -> None:
    with pytest.raises(ValueError, match="chunk is named"):
        dispute(subject=subject, chunk=chunk)


def test_the_survivors_of_an_aborted_round_have_committed(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    world.commit("fr", manifest)
    with refused(RuleError, "commitment-unknown", match="de"):
        world.add(changed(abort(1), survivors=("de", "fr")))
    with pytest.raises(ValueError, match="in order"):
        changed(abort(1), survivors=("fr", "de"))
    world.add(changed(abort(1), survivors=("fr",)))


def test_a_coordinator_is_called_lost_by_another_that_members_named(
    world: World,
) -> None:
    """So none that is there hides by that whose sum it knows."""
    lost = changed(abort(1), reason=COORDINATOR_LOST)
    world.add(RoundOpened(manifest=world.manifest()))
    lead = world.folded.lead
    with refused(RuleError, "coordinator-not-replaced"):
        world.add(lost)
    same = {"name": "coordinator", "key": lead.coordinator.key, "log": lead.log}
    world.decide(new_coordinator(world, **same))  # it moves
    with refused(RuleError, "coordinator-not-replaced"):
        world.add(lost)
    world.decide(new_coordinator(world))
    world.append(world.entry(lost, "rivers", signers=[new_key("rivers")]))
    state = world.folded
    assert state.open_round is None
    assert state.aborted_round(("run", 1, 1)) is not None


def abort(attempt: int) -> RoundAborted:
    return RoundAborted(
        run_id="run",
        round_number=1,
        attempt=attempt,
        stage=RoundStage.COLLECT_MASKED_INPUTS,
        reason="too_few",
        survivors=(),
    )


def refusal() -> ContributionRefused:
    return ContributionRefused(
        run_id="run", round_number=1, attempt=1, reason=Reason.MAINTENANCE
    )


def test_a_paused_federation_opens_no_round_and_ends_the_one_that_is_open(
    world: World,
) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    world.decide(PauseProposal(kind="pause"), "fr", "de")
    committed = {name: world.commit(name, manifest) for name in NAMES}
    world.add(world.closing(manifest, committed))
    paused = world.folded.paused
    with refused(RuleError, "federation-paused", match=f"since entry {paused}"):
        world.add(RoundOpened(manifest=world.manifest(2)))


def test_a_run_starts_from_no_candidate_and_from_nothing_that_was_withdrawn(
    world: World,
) -> None:
    world.run_round(1)
    world.add(world.release(1))
    start = renamed(world.manifest(1), run_id="run-2", model_digest=world.base(1))
    index = world.folded.release_named("base-1").index
    world.vote(index, "de", "es")
    with refused(RuleError, "base-not-allowed", match="approved"):
        world.add(RoundOpened(manifest=start))
    decided = world.vote(index, "fr")
    with refused(RuleError, "base-not-allowed"):  # not seen in a checkpoint
        entry = world.entry(RoundOpened(manifest=start), seen=world.seen(decided))
        world.append(entry)
    state = world.folded
    apply(state, world.entry(RoundOpened(manifest=start)), state.size)
    world.decide(withdrawal(world, "base-1"), "de", "es", "fr")
    with refused(RuleError, "base-not-allowed"):
        world.add(RoundOpened(manifest=start))
