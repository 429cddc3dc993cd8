"""What a steward signs, in words."""

import pytest

from tapestry_governance.events.federation_events import OutsideWitness
from tapestry_governance.plain_words import policy_changes, policy_rows, proposal_lines
from tests.support.log_world import World, given_base
from tests.support.proposals import KINDS, new_policy, proposal


@pytest.fixture
def world() -> World:
    world = World().found()
    world.run_round(1)
    world.add(world.release(1))
    return world


def test_a_policy_is_a_table_of_all_its_terms(world: World) -> None:
    rows = policy_rows(world.folded.policy)
    assert rows["min_cohort"] == "3"
    assert rows["voting.release"] == "2/3"
    assert rows["witnesses"] == "none"
    assert rows["bases"].startswith("model sha256:")
    flat = {term.partition(".")[0] for term in rows}
    assert flat == set(type(world.folded.policy).model_fields)


def test_a_change_of_policy_is_shown_term_by_term_old_and_new(world: World) -> None:
    before = world.folded.policy
    change = new_policy(world, epsilon_cap="4", max_attempt=7)
    assert policy_changes(before, change.policy) == [
        ("version", "1", "2"), ("epsilon_cap", "8", "4"), ("max_attempt", "3", "7")
    ]  # fmt: skip
    lines = list(proposal_lines(change, before))
    assert lines[0] == "policy 2 in place of 1:"
    rows = policy_rows(change.policy)
    assert [line[2:].split()[:2] for line in lines[1:]] == [
        [term, value.split()[0]] for term, value in rows.items()
    ]
    assert [line.split() for line in lines[1:] if "(was" in line or "*" in line] == [
        ["*", "version", "2", "(was", "1)"],
        ["*", "epsilon_cap", "4", "(was", "8)"],
        ["*", "max_attempt", "7", "(was", "3)"],
    ]


def test_what_becomes_of_a_withdrawal_is_said_in_words(world: World) -> None:
    before = world.folded.policy
    change = new_policy(world, withdrawn_warns=("old", "superseded"))
    said = "\n".join(proposal_lines(change, before))
    assert "withdrawn_warns" in said
    now, _, was = said.splitlines()[-1].partition("  (was ")
    assert was == "refused, whatever the reason)"
    assert now.endswith(" used with a warning if old or superseded, else refused")
    found = proposal(world, "withdraw")
    (line,) = proposal_lines(found, before)
    assert line.endswith(": harmful; the policy refuses it")
    (line,) = proposal_lines(found, world.policy(withdrawn_warns=("harmful",)))
    assert line.endswith(": harmful; the policy only warns")


def test_no_two_policies_read_alike(world: World) -> None:
    """What only differs in what a table leaves out would be signed unseen."""
    before, base = world.folded.policy, given_base("given", parameters="others")
    key = str(world.keys["fr", "witness"].verify_key)
    outside = [
        OutsideWitness(name=name, key=key, url=f"https://{host}/w")
        for name, host in (("a", "a"), ("b", "a"), ("a", "b"))
    ]
    changed = [before, before.model_copy(update={"bases": (base,)})]
    changed += [before.model_copy(update={"witnesses": (each,)}) for each in outside]
    assert len({str(policy_rows(each)) for each in changed}) == len(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_said_with_all_that_it_names(world: World, kind: str) -> None:
    found = proposal(world, kind)
    said = "\n".join(proposal_lines(found, world.folded.policy))
    assert "does not know" not in said
    body = found.model_dump(exclude={"kind", "policy", "possession"})
    body |= body.pop("request", {})
    for name, value in body.items():
        if name not in {"held_out", "languages"}:
            assert str(value) in said, name
