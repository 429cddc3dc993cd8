"""Attacks on the rules; numbers in brackets are rows of the attack matrix."""

import dataclasses

import pytest

from tapestry.encoding import canonical_json, decode_json, encode_base64
from tapestry.errors import (
    IncompleteError,
    ProtocolError,
    RuleError,
    VerificationError,
)
from tapestry.keys import SigningKey
from tapestry.merkle import leaf_hash, root
from tapestry.protocol import Reason
from tapestry_governance.entries import Seen
from tapestry_governance.events import (
    ContributionRefused,
    Dropped,
    PolicyAdopted,
    Role,
    RoundAborted,
    RoundOpened,
)
from tapestry_governance.fold import apply, apply_all
from tapestry_governance.state import FederationState
from tests.governance.world import NAMES, World, changed, fake_digest, renamed


@pytest.fixture
def world() -> World:
    return World().found()


def test_a_whole_history_is_valid_and_leaves_the_expected_state() -> None:
    state = World().grow().folded
    assert state.base == fake_digest("base 2")
    assert state.epsilon["fr", "run"] == "2.5"
    assert state.epsilon["id", "run"] == "2"
    assert list(state.releases) == ["base-2"]
    assert state.publishers == {"fr-culture": "fr"}
    assert state.next_rounds == (("run", 3, 1),)


def test_the_same_entries_give_the_same_state() -> None:
    world = World().grow()
    again = apply_all(None, world.entries)
    assert again is not None
    assert again.root == world.folded.root == root(map(leaf_hash, world.entries))
    one = dataclasses.replace(again, past=world.folded.past)
    assert one == world.folded


def test_a_state_is_not_changed_by_what_follows_it(world: World) -> None:
    before = world.folded
    root_before = before.root
    left = world.entry(world.declaration("de"), "de", "node")
    right = world.entry(world.declaration("es"), "es", "node")
    one = apply(before, left, before.size)
    other = apply(before, right, before.size)
    assert before.root == root_before
    assert one.root != other.root
    assert one.past.root(before.size) == other.past.root(before.size)
    with pytest.raises(RuleError, match="already"):
        apply(other, right, other.size)
    apply(other, left, other.size)  # unknown on this branch


def test_a_log_starts_with_its_charter_and_has_one(world: World) -> None:
    with pytest.raises(RuleError, match="starts with its charter"):
        apply(None, world.entries[1], 0)
    with pytest.raises(RuleError, match="one charter"):
        world.append(world.entry(world.charter()))


def test_a_duplicate_event_is_refused(world: World) -> None:  # [16]
    with pytest.raises(RuleError, match="in the log already"):
        world.append(world.entries[2])


def test_an_event_by_a_key_that_is_not_the_actors_is_refused(world: World) -> None:
    body = world.declaration("fr")  # [17]
    cases = [
        [world.keys["de", "node"]],
        [world.keys["fr", "community"]],
        [world.coordinator_key],
        [SigningKey.generate("fr.example/node")],
        [world.keys["fr", "node"], world.keys["de", "node"]],
    ]
    for signers in cases:
        with pytest.raises(RuleError, match="sign"):
            world.append(world.entry(body, "fr", "node", signers=signers))
    with pytest.raises(RuleError, match="is not a node"):
        world.append(
            world.entry(body, "xx", "node", signers=[world.keys["fr", "node"]])
        )


def test_a_node_key_cannot_speak_in_another_role(world: World) -> None:  # [18]
    world.run_round(1)
    stolen = [world.keys["fr", "node"]]
    claims: list[tuple[str, Role]] = [
        ("fr", "node"),
        ("fr", "root"),
        ("coordinator", "coordinator"),
    ]
    for actor, role in claims:
        with pytest.raises(RuleError):
            world.append(world.entry(world.release(1), actor, role, signers=stolen))
    policy = PolicyAdopted(policy=world.policy(version=2))
    with pytest.raises(RuleError):
        world.append(world.entry(policy, "fr", "node", signers=stolen))


def test_a_forged_signature_is_a_cryptographic_failure(world: World) -> None:
    entry = world.entry(world.declaration("fr"), "fr", "node")
    envelope = decode_json(entry)
    envelope["signatures"][0]["sig"] = encode_base64(bytes(64))
    with pytest.raises(VerificationError, match="entry 5: bad signature"):
        world.append(canonical_json(envelope))


def test_bytes_that_are_no_event_stop_the_fold(world: World) -> None:  # [10]
    with pytest.raises(ProtocolError):
        world.append(b"{}")
    envelope = decode_json(world.entry(world.declaration("fr"), "fr", "node"))
    envelope["payload"] = encode_base64(b'{"type":"vote.cast","v":1}')
    with pytest.raises(IncompleteError, match="unknown type"):
        world.append(canonical_json(envelope))


def test_an_event_of_another_federation_is_refused(world: World) -> None:
    body = world.declaration("fr")
    with pytest.raises(RuleError, match="federation"):
        world.append(world.entry(body, "fr", "node", federation="federation.b"))


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (Seen(size=6, root="0" * 64), "claims to have seen 6"),
        (Seen(size=5, root="0" * 64), "fork: fr saw another log of 5"),
        (Seen(size=1, root="0" * 64), "claims to have seen 1"),
        (None, "says none"),
    ],
    ids=["ahead", "fork", "behind", "silent"],
)
def test_a_view_that_is_no_prefix_of_the_log_is_refused(  # [5]
    world: World, seen: Seen | None, reason: str
) -> None:
    with pytest.raises(RuleError, match=reason):
        world.append(world.entry(world.declaration("fr"), "fr", "node", seen=seen))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"federation": "other"}, "round of other"),
        ({"round_number": 2}, "starts with round"),
        ({"attempt": 2}, "starts with round"),
        ({"attempt": 4}, "attempt 4"),
        ({"model_digest": fake_digest("mine")}, "names no base"),
        ({"policy_digest": fake_digest("lax")}, "not in force"),
        ({"roster_digest": fake_digest("us")}, "roster"),
        ({"min_cohort": 2}, "at least 2"),
        ({"max_colluding": 0}, "tolerates 0"),
        ({"threshold": 2}, "threshold 2"),
        ({"threshold": 5}, "threshold 5"),
    ],
)
def test_a_round_outside_the_policy_is_refused(
    world: World, change: dict[str, object], reason: str
) -> None:
    manifest = renamed(world.manifest(), **change)
    with pytest.raises(RuleError, match=reason):
        world.append(world.entry(RoundOpened(manifest=manifest)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"noise": "none"}, "noise 'none'"),
        ({"target_delta": "0.0001"}, "delta 0.0001"),
        ({"noise_multiplier": "0"}, "positive"),
        ({"clip_norm": "0"}, "positive"),
    ],
)
def test_a_round_without_the_promised_privacy_is_refused(
    world: World, change: dict[str, object], reason: str
) -> None:
    manifest = world.manifest()
    privacy = manifest.privacy.model_copy(update=change)
    with pytest.raises(RuleError, match=reason):
        world.add(RoundOpened(manifest=renamed(manifest, privacy=privacy)))


def test_a_stranger_or_a_foreign_key_in_the_cohort_is_refused(world: World) -> None:
    manifest = world.manifest()
    first, *rest = manifest.participants
    foreign = first.model_copy(update={"key": str(world.log_key.verify_key)})
    extra = first.model_copy(update={"name": "zz"})
    for participants in ((foreign, *rest), (*manifest.participants, extra)):
        with pytest.raises(RuleError, match="no member with this node key"):
            world.add(
                RoundOpened(manifest=renamed(manifest, participants=participants))
            )


def test_rounds_follow_one_another(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    with pytest.raises(RuleError, match="still open"):
        world.add(RoundOpened(manifest=world.manifest(attempt=2)))
    world.add(abort(1))
    with pytest.raises(RuleError, match=r"\('run', 1, 1\), not"):
        world.add(RoundOpened(manifest=manifest))
    other = renamed(world.manifest(attempt=2), model_digest=fake_digest("base 1"))
    with pytest.raises(RuleError, match="to go on from"):
        world.add(RoundOpened(manifest=other))
    world.add(RoundOpened(manifest=world.manifest(attempt=2)))
    world.add(abort(2))
    world.add(RoundOpened(manifest=world.manifest(attempt=3)))
    world.add(abort(3))
    with pytest.raises(RuleError, match="attempt 4"):
        world.add(RoundOpened(manifest=world.manifest(attempt=4)))


def test_a_new_run_goes_on_from_the_base_or_starts_anew(world: World) -> None:
    world.run_round(1)
    fresh = renamed(world.manifest(1), run_id="run-2", model_digest=world.base(1))
    given = renamed(fresh, model_digest=world.base(0))
    for manifest in (fresh, given):
        apply(
            world.folded,
            world.entry(RoundOpened(manifest=manifest)),
            len(world.entries),
        )
    back = renamed(world.manifest(2), model_digest=world.base(0))
    with pytest.raises(RuleError, match="to go on from"):
        world.add(RoundOpened(manifest=back))


def test_a_round_that_was_never_logged_has_no_commitments(world: World) -> None:
    manifest = world.manifest()  # [21]
    commitment = world.commitment("fr", manifest)
    with pytest.raises(RuleError, match="open is none"):
        world.add(commitment, "fr", "node")
    world.add(RoundOpened(manifest=manifest))
    world.add(commitment, "fr", "node")
    with pytest.raises(RuleError, match="twice"):
        world.add(commitment, "fr", "node")


def test_a_commitment_to_another_plan_is_refused(world: World) -> None:  # [22]
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    other = renamed(manifest, software_digest=fake_digest("patched"))
    with pytest.raises(RuleError, match="another manifest"):
        world.add(world.commitment("fr", other), "fr", "node")


def test_a_node_commits_or_refuses_but_not_both(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    world.add(world.commitment("fr", manifest), "fr", "node")
    with pytest.raises(RuleError, match="committed to this attempt"):
        world.add(refusal(), "fr", "node")
    world.add(refusal(), "de", "node")
    with pytest.raises(RuleError, match="refused this attempt"):
        world.add(world.commitment("de", manifest), "de", "node")
    world.add(changed(refusal(), round_number=9), "fr", "node")  # of a round unknown


def opened(world: World, names: tuple[str, ...] = NAMES) -> dict[str, int]:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    indexes = {}
    for name in names:
        indexes[name] = world.add(world.commitment(name, manifest), name, "node")
        world.add(world.account(manifest), name, "node")
    return indexes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"commitments": (5, 7, 9, 11)}, "is not de's commitment"),
        ({"commitments": (6, 8, 12, 10)}, "is not fr's commitment"),
        ({"base_before": fake_digest("x")}, "opened from"),
        ({"included": NAMES[:3], "commitments": (6, 8, 10)}, "not the participants"),
        ({"dropped": (Dropped(name="id", phase="upload"),)}, "not the participants"),
        ({"round_number": 2}, "open is"),
        ({"attempt": 2}, "open is"),
        ({"outcome": "rejected", "reason": "norm"}, "leaves the base"),
        (
            {
                "included": NAMES[:2],
                "commitments": (6, 8),
                "dropped": tuple(Dropped(name=n, phase="upload") for n in NAMES[2:]),
            },
            "a sum of 2",
        ),
    ],
)
def test_a_round_closed_falsely_is_refused(  # [24]
    world: World, change: dict[str, object], reason: str
) -> None:
    closing = world.closing(world.manifest(), opened(world))
    with pytest.raises(RuleError, match=reason):
        world.add(changed(closing, **change))
    world.add(closing)


def test_a_rejected_round_leaves_the_base(world: World) -> None:
    closing = world.closing(world.manifest(), opened(world))
    rejected = changed(
        closing, outcome="rejected", reason="norm", base_after=closing.base_before
    )
    world.add(rejected)
    assert world.folded.base == world.base(0)


def test_a_contribution_without_accounting_cannot_be_summed(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    indexes = {
        name: world.add(world.commitment(name, manifest), name, "node")
        for name in NAMES
    }
    with pytest.raises(RuleError, match="accounted for no privacy loss"):
        world.add(world.closing(manifest, indexes))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epsilon_run": "8.1"}, "the policy allows 8"),
        ({"epsilon_run": None}, "no epsilon is promised"),
        ({"mechanism": "none", "epsilon_run": None}, "without noise"),
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
        world.add(changed(account, **change), "fr", "node")
    world.add(account, "fr", "node")
    with pytest.raises(RuleError, match="accounted twice"):
        world.add(account, "fr", "node")


def test_epsilon_never_falls_within_a_run(world: World) -> None:
    world.run_round(1)
    manifest = world.manifest(2)
    world.add(RoundOpened(manifest=manifest))
    with pytest.raises(RuleError, match="falls from 2 to 1"):
        world.add(world.account(manifest, epsilon="1"), "fr", "node")


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
        ({"epsilon": None}, "claims epsilon None"),
        ({"name": "fr-other"}, "accounted for no adapter"),
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


def test_a_policy_needs_the_roots_of_most_members(world: World) -> None:  # [26]
    body = PolicyAdopted(policy=world.policy(version=2, min_cohort=4))
    roots = [world.keys[name, "root"] for name in NAMES]

    def sign(*keys: SigningKey) -> bytes:
        return world.entry(body, "de", "root", signers=keys)

    for keys in (roots[:1], roots[:2]):
        with pytest.raises(RuleError, match="no majority"):
            world.append(sign(*keys))
    with pytest.raises(RuleError, match="not by de"):
        world.append(sign(*roots[1:]))
    with pytest.raises(RuleError, match="may not sign"):
        world.append(sign(*roots[:3], world.keys["id", "node"]))
    world.append(sign(*roots[:3]))
    assert world.folded.policy.min_cohort == 4
    with pytest.raises(RuleError, match="policy 2 after 2"):
        world.append(sign(*roots[:3]))


def test_the_policy_does_not_change_within_a_round(world: World) -> None:  # [25]
    world.add(RoundOpened(manifest=world.manifest()))
    body = PolicyAdopted(policy=world.policy(version=2))
    roots = [world.keys[name, "root"] for name in NAMES]
    with pytest.raises(RuleError, match="between rounds"):
        world.append(world.entry(body, "de", "root", signers=roots))


def test_a_state_says_who_speaks_with_which_key(world: World) -> None:
    state: FederationState = world.folded
    assert state.key_of("fr", "node") == world.keys["fr", "node"].verify_key
    assert state.key_of("fr", "coordinator") is None
    assert state.key_of("coordinator", "node") is None


def publishable(world: World) -> None:
    world.run_round(1)
    world.add(world.release(1))
    world.add(world.adapter_account(), "fr", "node")


def abort(attempt: int) -> RoundAborted:
    return RoundAborted(
        run_id="run",
        round_number=1,
        attempt=attempt,
        phase="upload",
        reason="too_few",
    )


def refusal() -> ContributionRefused:
    return ContributionRefused(
        run_id="run", round_number=1, attempt=1, reason=Reason.MAINTENANCE
    )
