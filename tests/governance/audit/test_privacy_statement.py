from dataclasses import replace
from typing import Any

import pytest

from tapestry.errors import IncompleteError
from tapestry_governance.audit.privacy_statement import (
    DEFINITION,
    NOT_COVERED,
    state_privacy,
    to_markdown,
)
from tapestry_governance.rules.federation_state import FederationState
from tests.support.log_world import World
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def state() -> FederationState:
    world = World().grow()
    world.run_round(3)
    return world.folded


def rows(state: FederationState, name: str) -> dict[str, Any]:
    promises = state_privacy(state, name).to_json()["promises"]
    return {promise["account"]["node"]: promise for promise in promises}


def test_a_release_states_what_every_node_spent_until_then(
    state: FederationState,
) -> None:
    found = rows(state, "base-2")
    assert sorted(found) == ["de", "es", "fr", "id"]
    assert {node: row["account"]["rounds"] for node, row in found.items()} == {
        "de": 2, "es": 2, "fr": 2, "id": 1,
    }  # fmt: skip
    assert found["fr"]["account"]["reported"] == "2.5"
    assert 2.4 < found["fr"]["account"]["recomputed"] < 2.5
    assert found["fr"]["parts"] == (
        {
            "times": 2,
            "what": "rounds",
            "mechanism": "poisson-subsampled-gaussian",
            "clip_norm": "1",
            "noise_multiplier": "1",
            "own_multiplier": "1",
            "shares": 1,
            "sampling_rate": "0.05",
            "steps": 20,
        },
    )


def test_an_adapter_states_what_its_publisher_spent(state: FederationState) -> None:
    statement = state_privacy(state, "fr-culture")
    assert (statement.kind, statement.base) == ("adapter", "base-2")
    assert [promise.account.node for promise in statement.promises] == ["fr"]
    assert statement.promises[0].account.adapters == 1


def test_the_page_names_every_item_of_the_claim(state: FederationState) -> None:
    page = to_markdown(state_privacy(state, "base-2"))
    for item in (
        "unit of privacy | record", "adjacency | add-remove", "trust model | local",
        "delta | 0.00001", "epsilon | 2.4681 (reported 2.5)", "dp-accounting/pld 0.6.0",
        "sampling rate 0.05", "clip norm 1", "noise multiplier 1", "2 times 20 steps",
        DEFINITION, *NOT_COVERED,
    ):  # fmt: skip
        assert item in page


def test_the_page_defines_epsilon_and_delta_only_where_they_hold(
    state: FederationState,
) -> None:
    assert "at most e to the power of epsilon times its probability" in DEFINITION
    assert "plus delta" in DEFINITION
    statement = state_privacy(state, "base-2")
    without = tuple(
        replace(promise, account=replace(promise.account, recomputed=None))
        for promise in statement.promises
    )
    assert DEFINITION not in to_markdown(replace(statement, promises=without))


def test_what_was_never_published_has_no_statement(state: FederationState) -> None:
    code, there = "name-not-published", "'base-9'.* base-2, fr-culture"
    with refused(IncompleteError, code, match=there):
        state_privacy(state, "base-9")
    with refused(IncompleteError, code, match="'base-1'.* nothing yet"):
        state_privacy(World().found().folded, "base-1")
