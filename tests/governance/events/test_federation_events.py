"""The charter and what names its members."""

import pytest

from tapestry_governance.events.federation_events import (
    ALWAYS_REFUSED,
    roster_digest,
)
from tests.support.log_world import World, changed


def test_a_charter_is_the_origin_of_its_log() -> None:
    world = World()
    assert world.charter().origin == world.log_key.name


def test_a_roster_is_named_by_names_and_node_keys_alone() -> None:
    members = World().members()
    first, second, *rest = members
    same = (first.model_copy(update={"community": second.community}), second, *rest)
    assert roster_digest(same) == roster_digest(members)
    other = (first.model_copy(update={"node": second.node}), second, *rest)
    assert roster_digest(other) != roster_digest(members)
    assert roster_digest(members[1:]) != roster_digest(members)


def test_the_coordinator_is_no_member() -> None:
    charter = World().charter()
    renamed = charter.coordinator.model_copy(update={"name": "fr"})
    with pytest.raises(ValueError, match="no member"):
        changed(charter, coordinator=renamed)


def test_a_withdrawal_refuses_unless_the_policy_names_its_reason() -> None:
    policy = World().policy(withdrawn_warns=("old", "superseded"))
    assert not policy.refuses("superseded")
    for reason in ("harmful", "supersede", "compromised", "unlawful_data"):
        assert policy.refuses(reason)
        assert World().policy().refuses(reason)


def test_a_reason_is_grave_by_the_policy_or_for_ever() -> None:
    gravity = World().policy(withdrawn_warns=("superseded",)).gravity
    assert [gravity(each) for each in ("superseded", "harmful")] == [0, 1]
    assert {gravity(each) for each in ALWAYS_REFUSED} == {2}


@pytest.mark.parametrize("reason", sorted(ALWAYS_REFUSED))
def test_no_policy_only_warns_of_what_is_compromised_or_unlawful(reason: str) -> None:
    with pytest.raises(ValueError, match=f"{reason} always refuses"):
        World().policy(withdrawn_warns=tuple(sorted((reason, "superseded"))))


@pytest.mark.parametrize("reasons", [("b", "a"), ("a", "a"), ("Not a code",)])
def test_the_reasons_are_codes_in_order_each_once(reasons: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="withdrawn_warns"):
        World().policy(withdrawn_warns=reasons)
