"""Each version is declared once, in order, and counts from the next round on."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest

from tapestry.errors import VerificationError
from tapestry_governance.events.member_events import MemberLeft
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.persistent_collections import PersistentMap
from tapestry_node.data.data_version import commitment
from tapestry_node.data.declarations import (
    require_declared,
    require_newest,
    undeclared,
)
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused
from tests.node.data.test_data_version import VERSION
from tests.support.log_world import World, changed
from tests.support.refusals import refused


@pytest.fixture
def world() -> World:
    return World(unit="person").found()


@pytest.fixture
def store(tmp_path: Path) -> NodeState:
    state = NodeState(tmp_path / "node.db")
    with state.writing() as writing:
        for number in (1, 2, 3):
            body = replace(VERSION, version=number).body()
            writing.append({"type": "data", **body})
    return state


def numbers(store: NodeState, world: World) -> list[int]:
    """The versions that wait to be declared."""
    return [each.version for each in undeclared(store, world.folded, name="fr")]


def test_what_the_log_and_the_outbox_lack_is_declared_in_order(
    store: NodeState, world: World
) -> None:
    assert numbers(store, world) == [2, 3]  # the first one is in the log
    second = changed(world.declaration("fr"), block=2)
    store.post(world.entry(second, "fr", "node"))
    assert numbers(store, world) == [3]
    world.add(second, "fr", "node")
    assert numbers(store, world) == [3]


def test_another_members_declaration_in_the_outbox_does_not_count(
    store: NodeState, world: World
) -> None:
    store.post(world.entry(changed(world.declaration("de"), block=2), "de", "node"))
    assert numbers(store, world) == [2, 3]


def test_who_leaves_declares_nothing_more(store: NodeState, world: World) -> None:
    store.post(world.entry(MemberLeft(), "fr", "root"))
    assert numbers(store, world) == []


SALT = b"s" * 32


def require(log: FederationState, name: str, number: int) -> None:
    """Require a version as the log has it, or one of the node's own."""
    said = log.data[name]
    version = replace(VERSION, version=number, block=said.block)
    dataset = commitment(version.dataset, SALT)
    known = said.model_copy(update={"dataset": dataset})
    data = log.data.set(name, known)
    record = log.rounds.get(log.last) if log.last else None
    rounds = log.rounds
    if record is not None and log.last and record.data.get(name) == said:
        at_opening = dataclasses.replace(record, data=record.data.set(name, known))
        rounds = rounds.set(log.last, at_opening)
    state = dataclasses.replace(log, data=data, rounds=rounds)
    require_declared(state, name, version=version, salt=SALT)


def test_another_version_of_the_same_number_does_not_count(world: World) -> None:
    """As of a state that was restored, and made another one in its place."""
    version = replace(VERSION, version=1, block=1)
    with refused(Refused, "data-not-declared", match="this very data version 1"):
        require_declared(world.folded, "fr", version=version, salt=SALT)
    require(world.folded, "fr", 1)


def test_a_log_that_is_ahead_of_the_state_is_refused(
    store: NodeState, world: World
) -> None:
    require_newest(world.folded, store, name="fr")
    for _ in range(3):
        world.add(world.declaration("fr"), "fr", "node")
    with refused(VerificationError, "data-version-restored", match="ends at 3"):
        require_newest(world.folded, store, name="fr")


def test_a_version_counts_from_the_round_after_its_declaration(world: World) -> None:
    require(world.folded, "fr", 1)
    with refused(Refused, "data-not-declared", match="version 2"):
        require(world.folded, "fr", 2)
    world.add(RoundOpened(manifest=world.manifest()))
    world.add(changed(world.declaration("fr"), block=2), "fr", "node")
    with refused(Refused, "data-not-declared", match="after the round was opened"):
        require(world.folded, "fr", 2)
    require(world.folded, "de", 1)


def test_a_first_declaration_may_come_within_a_round(world: World) -> None:
    world.add(RoundOpened(manifest=world.manifest()))
    key = world.folded.last
    assert key is not None
    before = dataclasses.replace(world.folded.rounds[key], data=PersistentMap())
    rounds = world.folded.rounds.set(key, before)
    state = dataclasses.replace(world.folded, rounds=rounds)
    require(state, "fr", 1)
