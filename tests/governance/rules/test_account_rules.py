"""An account is judged by itself, whenever the log gets it.

Numbers in brackets are rows of the attack matrix.
"""

import itertools

import pytest

from tapestry.errors import RuleError
from tapestry.protocol.round_manifest import NoNoise
from tapestry_governance.events.event_body import Body
from tapestry_governance.events.privacy_events import (
    BlockEpsilon,
    DpAccounted,
    NoisedSegment,
    UnboundedLoss,
)
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply
from tests.governance.rules.test_model_rules import abort, publishable
from tests.support.log_world import (
    World,
    changed,
    one_block,
    renamed,
    with_loss,
    without_noise,
)
from tests.support.refusals import refused

TWO = (BlockEpsilon(block=2, epsilon="2", epsilon_fallback=None),)
SHARED = {"shares": 2, "trust_model": "shared", "epsilon_fallback": "9"}
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
        ({"unit": "person"}, "unit-differs", "each person, declared record"),
        ({"segments": (SEGMENT,)}, "segments-differ", "1 segments"),
        ({"loss": UnboundedLoss(mechanism="none")}, "noise-not-allowed", "fr"),
        ({"own_multiplier": "0.9", "noise_multiplier": "0.9"}, "noise-too-low", "0.9"),
        ({"clip_norm": "2"}, "privacy-terms-differ", "clip_norm 2,"),
        ({"target_delta": "0.000001"}, "privacy-terms-differ", "0.000001"),
        (SHARED, "privacy-terms-differ", "shares 2, planned was 1"),
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


@pytest.mark.parametrize("blocks", [(1,), (2,), (1, 2)], ids=str)
def test_a_spent_block_is_left_out_and_another_is_accounted_for(
    blocks: tuple[int, ...],
) -> None:
    world = World(unit="person").found()
    world.add(changed(world.declaration("fr"), block=2), "fr", "node")
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    said = tuple(
        BlockEpsilon(block=each, epsilon="2", epsilon_fallback=None) for each in blocks
    )
    world.add(with_loss(world.account(manifest), blocks=said), "fr", "node")
    (account,) = world.folded.spending_of("fr")
    assert account.promise is not None
    assert account.promise.blocks == said


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
    world.approve("base-1")
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
        world.add(with_loss(changed(small, version=2), epsilon="3"), "fr", "node")
    world.add(with_loss(world.adapter_account("b"), epsilon="3.5"), "fr", "node")


def test_a_lost_round_can_be_accounted_for_later(world: World) -> None:
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    world.add(abort(1))
    world.add(world.account(manifest), "fr", "node")
    assert world.folded.newest_account["fr"].round_number == 1


def test_accounting_without_declared_data_is_refused() -> None:
    world = World().adopt()
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    with refused(RuleError, "data-not-declared", match="fr"):
        world.add(world.account(manifest), "fr", "node")


def test_data_declared_within_a_round_count_as_they_were_declared_first() -> None:
    """A node that comes back to an open round declares its data and takes part."""
    world = World().adopt()
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    declaration = world.declaration("fr")
    world.add(declaration, "fr", "node")
    more = changed(declaration, version=2, records=10 * declaration.records)
    world.add(more, "fr", "node")
    account = world.account(manifest)
    with refused(RuleError, "sampling-rate-too-low", match="fr"):
        world.add(with_loss(account, sampling_rate="0.005"), "fr", "node")
    world.add(account, "fr", "node")


def late(world: World) -> list[bytes]:
    """Sign the accounts of three aborted attempts and of an adapter, and log none."""
    publishable(world)
    entries = []
    for attempt in (1, 2, 3):
        manifest = world.manifest(2, attempt=attempt)
        world.add(RoundOpened(manifest=manifest))
        account = world.account(manifest, epsilon=f"{3 + attempt}")
        numbered = changed(account, number=2 + attempt)
        entries.append(world.entry(numbered, "fr", "node"))
        world.add(changed(abort(attempt), round_number=2))
    adapter = with_loss(world.adapter_account("fr-late"), epsilon="7")
    entries.append(world.entry(changed(adapter, number=6), "fr", "node"))
    return entries


def test_accounts_are_taken_in_whatever_order_they_come(world: World) -> None:
    entries = late(world)
    found: list[FederationState] = []
    for order in itertools.permutations(entries):
        state = world.folded
        for entry in order:
            state = apply(state, entry, state.size)
        found.append(state)
    numbers = [sorted(a.number for a in state.spending_of("fr")) for state in found]
    assert numbers == [[1, 2, 3, 4, 5, 6]] * 24
    assert {state.newest_account["fr"].number for state in found} == {6}


@pytest.mark.parametrize("epsilon", ["3.9", "6.1"])
def test_a_late_account_is_compared_with_its_neighbours(
    world: World, epsilon: str
) -> None:
    first, second, third, _ = late(world)
    world.append(third)  # epsilon 6
    world.append(first)  # epsilon 4
    manifest = world.manifest(2, attempt=2)
    odd = changed(world.account(manifest, epsilon=epsilon), number=4)
    with refused(RuleError, "epsilon-decreased"):
        world.add(odd, "fr", "node")
    world.append(second)


def test_a_number_is_given_once(world: World) -> None:
    entries = late(world)
    world.append(entries[2])
    manifest = world.manifest(2, attempt=2)
    for number in (1, 2, 5):
        account = changed(world.account(manifest, epsilon="6"), number=number)
        with refused(RuleError, "account-number-taken", match=f"account {number} "):
            world.add(account, "fr", "node")
    world.append(entries[0])


def test_a_version_of_an_adapter_is_accounted_for_once(world: World) -> None:
    publishable(world)
    again = world.adapter_account()
    for epsilon in ("2.9", "4"):
        with refused(RuleError, "account-duplicated", match="fr-culture 1 .* entry"):
            world.add(with_loss(again, epsilon=epsilon), "fr", "node")
    world.add(changed(again, version=2), "fr", "node")


def test_a_policy_or_declaration_that_comes_between_refuses_no_account() -> None:
    """What was spent was spent under what held then."""
    world = World(rules={"noise": ("local", "none")}).found()
    entries = late(world)
    fewer = changed(world.declaration("fr"), records=10)
    world.add(fewer, "fr", "node")
    world.change_policy(epsilon_cap="1", max_delta="0.0000001")
    for entry in entries:
        world.append(entry)
    opened = renamed(world.manifest(3), privacy=NoNoise(noise="none"))
    world.add(RoundOpened(manifest=renamed(opened, model_digest=world.base(1))))
    low = with_loss(world.account(opened), epsilon="7.5", target_delta="0.00000001")
    with refused(RuleError, "epsilon-above-cap", match="allows 1"):
        world.add(low, "fr", "node")  # of a round that was opened under it


def test_a_late_account_without_noise_is_taken_and_voids_what_came_after() -> None:
    world = World(rules={"noise": ("local", "none")}).found()
    publishable(world)  # numbers 1 and 2
    bare = changed(without_noise(world.adapter_account("fr-bare")), number=4)
    world.add(bare, "fr", "node")
    for number, is_after in ((5, True), (3, False)):
        account = world.adapter_account(f"fr-{number}")
        said = changed(account, number=number)
        if is_after:
            with refused(RuleError, "training-without-noise", match="fr .* entry"):
                world.add(said, "fr", "node")
        else:
            world.add(said, "fr", "node")
    bare = changed(without_noise(world.adapter_account("fr-first")), number=9)
    world.add(bare, "fr", "node")
    assert world.folded.without_noise["fr"].number == 4
