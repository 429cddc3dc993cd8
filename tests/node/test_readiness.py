"""Objections of a node to every offer, before it has had one."""

from pathlib import Path
from typing import Any

import pytest

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError
from tapestry.keys import SigningKey
from tapestry_governance.events.member_events import MemberLeft, Removal
from tapestry_node import readiness
from tapestry_node.inspection import inspect
from tapestry_node.node import Node
from tapestry_node.readiness import check_keys
from tapestry_node.refusal import Objection
from tapestry_node.settings import NodeSettings
from tests.scenarios.test_shared_noise import SHARED
from tests.support.federation import Base
from tests.support.federation_fixtures import Found
from tests.support.log_world import World
from tests.support.node_folders import (
    NAME,
    OTHER,
    balance_of,
    change,
    closed,
    objections,
    opened,
    run,
    standing_of,
)
from tests.support.refusals import refused
from tests.support.settings_files import NO_ADAPTER_NOISE


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (
            {"adapter": {"targets": ["c_attn"]}},
            "target-module-unknown",
            "the adapter: no linear module 'c_attn'",
        ),
        ({"adapter": {"rank": 97}}, "rank-too-high", "the adapter: rank 97 is above"),
        (
            {"adapter": {"batch_size": 25}},
            "setting-out-of-range",
            "the adapter: batch size 25 is not between",
        ),
        (
            {"adapter": {"options": {"sequence_length": 2048}}},
            "sequence-too-long",
            "the adapter: sequence_length 2048 is",
        ),
        (
            {"adapter": {"learning_rate": "0"}},
            "setting-out-of-range",
            "the adapter: learning rate 0 is not",
        ),
        (
            {"adapter": NO_ADAPTER_NOISE},
            "noise-not-allowed",
            "the adapter: adapter.noise is 'none', and po",
        ),
        (
            {"adapter": {"epsilon": "21"}},
            "epsilon-above-limit",
            "the adapter: adapter.epsilon 21 is above po",
        ),
        ({"country": ""}, "setting-invalid", "the adapter: an adapter's country: "),
        ({"policy": {"noise": []}}, "setting-invalid", "policy.noise is empty"),
        (
            {"policy": {"parameterizations": []}},
            "setting-invalid",
            "policy.parameterizations is empty",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_rule_out_all_offers_are_found_before_there_is_a_log(
    idle: Path, base: Base, settings: dict[str, Any], code: str, said: str
) -> None:
    assert objections(idle, base) == []
    change(idle, settings)
    found = objections(idle, base)
    assert any(e.code == code and e.detail.startswith(said) for e in found), found
    change(idle, {"adapter": {"publish": False}})
    if "adapter" in said:  # without a publication it does not matter
        assert objections(idle, base) == []


def test_a_last_round_that_the_policy_refuses_is_an_objection(
    used: Path, base: Base
) -> None:
    change(used, {"policy": {"min_cohort": 5}, "adapter": {"licence": "MIT"}})
    first, second = objections(used, base)
    assert first.code == "cohort-too-small"
    start = "a round like 1, the log's last: cohort of 4, floor 3"
    assert first.detail.startswith(start)
    assert second.code == "licence-not-allowed"
    start = "the adapter: adapter.licence 'MIT' is not one that the"
    assert second.detail.startswith(start)


def test_an_adapter_that_does_not_fit_the_budget_is_an_objection(
    used: Path, base: Base
) -> None:
    adapter = NodeSettings.read(used / "node.toml").adapter
    assert adapter.noise == "local"
    price = decode_decimal(adapter.epsilon)
    limit = f"{price + 0.01:.2f}"
    assert 0 < balance_of(used, base).spent < price
    change(used, {"policy": {"epsilon_limit": limit}})
    node = opened(used, base)
    standing = standing_of(node)
    (found,), prices = readiness.objections(standing), inspect(standing).prices
    node.close()
    assert [price.fits for price in prices] == [True, False]
    assert found.code == "budget-exhausted"
    start = "the adapter: adapter 1 of 'fi' would bring epsilon to "
    assert found.detail.startswith(start)
    assert f"over the limit of {float(limit):g}" in found.detail
    assert found.detail.endswith(" (or set adapter.publish = false)")
    change(used, {"adapter": {"publish": False}})
    assert objections(used, base) == []


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (0.5, "no round fits"),
        (1.1, "no further round like the log's last one fits"),
    ],
)
def test_a_budget_that_no_round_fits_into_is_the_one_objection(
    used: Path, base: Base, factor: float, said: str
) -> None:
    limit = f"{factor * balance_of(used, base).spent:.9f}".rstrip("0")
    change(used, {"policy": {"epsilon_limit": limit}})
    (found,) = objections(used, base)
    assert found.code == "budget-exhausted"
    assert "policy.epsilon_limit" in found.detail
    assert said in found.detail


@pytest.mark.slow
def test_a_fallback_that_is_spent_is_an_objection(loaded: Found) -> None:
    federation = loaded(**SHARED)
    federation.run()
    folder = closed(federation)
    balance = balance_of(folder, federation.base)
    assert balance.fallback > balance.spent
    limit = f"{balance.spent * 1.01:.6f}".rstrip("0")
    limits = {"epsilon_limit": limit, "fallback_epsilon_limit": limit}
    change(folder, {"policy": limits})
    done = run("check", folder)
    assert done.exit_code == 2
    assert "policy.fallback_epsilon_limit" in done.stdout
    assert "[budget-exhausted]" in done.stdout


def test_a_base_that_the_policy_does_not_name_is_an_objection(
    idle: Path, base: Base
) -> None:
    change(idle, {"policy": {"bases": ["sha256:" + "0" * 64]}})
    (found,) = objections(idle, base)
    assert found.code == "base-not-allowed"
    assert f"base 'tiny' is {base.replica.digest}" in found.detail
    assert "policy.bases" in found.detail


def test_a_name_that_is_not_that_of_the_keys_is_refused_by_keys_or_by_the_log(
    idle: Path, used: Path, base: Base
) -> None:
    said = f"name is {OTHER!r} in node.toml, but keys/node.key is that of {NAME!r}"
    for folder in (idle, used):
        change(folder, {"name": OTHER})
    (found,) = objections(idle, base)
    assert found.code == "key-of-another-node"
    assert found.detail.startswith(said)
    with refused(ConfigError, "key-of-another-node", match=said):
        Node(used, workload=base.workload, replica=base.replica)
    assert (run("check", idle).exit_code, run("check", used).exit_code) == (2, 2)


def test_keys_of_no_member_are_refused(used: Path, found: Found, base: Base) -> None:
    stranger = found()
    stranger.close()
    key = stranger.directory / "nodes" / NAME / "keys" / "witness.key"
    (used / "keys" / "witness.key").write_bytes(key.read_bytes())
    said = "keys/witness.key is of no member"
    with refused(ConfigError, "key-of-another-node", match=said):
        Node(used, workload=base.workload, replica=base.replica)


def test_a_witness_that_the_trust_policy_lacks_is_an_objection(
    idle: Path, found: Found, base: Base
) -> None:
    stranger = found()
    stranger.close()
    policy = stranger.directory / "nodes" / NAME / "trust-policy.txt"
    (idle / "trust-policy.txt").write_bytes(policy.read_bytes())
    (objection,) = objections(idle, base)
    assert objection == Objection(
        "witness-not-trusted",
        "keys/witness.key is no witness of trust-policy.txt; name it there",
    )


def test_each_key_has_to_be_that_of_the_member_with_the_name() -> None:
    world = World().found()
    state = world.folded

    def keys(**others: str) -> dict[str, SigningKey]:
        purposes = ("node", "witness", "community")
        return {each: world.keys[others.get(each, "fr"), each] for each in purposes}

    check_keys(state, keys=keys(), name="fr")
    for purpose in ("node", "witness", "community"):
        said = f"name is 'fr' .* keys/{purpose}.key is that of 'de'"
        with refused(ConfigError, "key-of-another-node", match=said):
            check_keys(state, keys=keys(**{purpose: "de"}), name="fr")
    world.decide(Removal(kind="remove", member="fr"), "de", "es", "id")
    with refused(ConfigError, "key-of-another-node", match="is of no member"):
        check_keys(world.settled, keys=keys(), name="fr")


def test_a_former_key_is_named_as_such() -> None:
    world = World().found()
    keys = {each: world.keys["fr", each] for each in ("node", "witness", "community")}
    world.rotate("fr", "witness")
    with refused(ConfigError, "own-key-former", match="rotate FOLDER witness"):
        check_keys(world.settled, keys=keys, name="fr")


def test_a_member_that_left_needs_no_keys_to_say_what_it_owes() -> None:
    world = World().found()
    keys = {each: world.keys["fr", each] for each in ("node", "witness", "community")}
    world.add(MemberLeft(), "fr", "root")
    check_keys(world.settled, keys=keys, name="fr")
