"""A proposal of each kind, which is possible in a world that has grown."""

import hashlib
from collections.abc import Callable

from tapestry.keys import Algorithm, SigningKey
from tapestry_governance.events.member_events import (
    CoordinatorReplacement,
    PauseProposal,
    PolicyChange,
    Proposal,
    Removal,
    RootReplacement,
    Withdrawal,
)
from tests.support.log_world import World, fake_digest

KINDS = (
    "policy",
    "admit",
    "remove",
    "root",
    "coordinator",
    "pause",
    "resume",
    "withdraw",
)


def new_key(name: str) -> SigningKey:
    """Make a key of a name that is always the same."""
    seed = hashlib.sha256(name.encode()).digest()
    return SigningKey(name=name, algorithm=Algorithm.SIGNATURE, seed=seed)


def new_policy(world: World, **changes: object) -> PolicyChange:
    """Propose the next policy, with changes."""
    version = world.settled.policy.version + 1
    policy = world.policy(version=version, **changes)
    return PolicyChange(kind="policy", policy=policy)


def new_coordinator(world: World, **changes: object) -> CoordinatorReplacement:
    """Propose another coordinator with a log key of its own, ``new_key("rivers")``."""
    origin = world.log_key.verify_key.name
    values: dict[str, object] = {
        "kind": "coordinator",
        "name": "rivers",
        "key": str(new_key("rivers").verify_key),
        "log": str(new_key(origin).verify_key),
        "address": "rivers.example:443",
        "authority": fake_digest("rivers"),
    }
    return CoordinatorReplacement.model_validate({**values, **changes})


def new_root(member: str) -> RootReplacement:
    """Propose the root key ``new_key("found-again")`` for a member."""
    key = str(new_key("found-again").verify_key)
    return RootReplacement(kind="root", member=member, key=key)


def withdrawal(world: World, name: str) -> Withdrawal:
    """Propose to withdraw what the log published under a name."""
    state = world.settled
    found = state.releases.get(name) or state.adapters[name]
    return Withdrawal(
        kind="withdraw", subject=found.manifest_digest, name=name, reason="harmful"
    )


def proposal(world: World, kind: str, *, about: str = "fr") -> Proposal:
    """Make a proposal of a kind; for ``withdraw`` the world needs a ``base-1``."""
    make: dict[str, Callable[[], Proposal]] = {
        "policy": lambda: new_policy(world, max_attempt=7),
        "admit": lambda: world.invent("zz"),
        "remove": lambda: Removal(kind="remove", member=about),
        "root": lambda: new_root(about),
        "coordinator": lambda: new_coordinator(world),
        "pause": lambda: PauseProposal(kind="pause"),
        "resume": lambda: PauseProposal(kind="resume"),
        "withdraw": lambda: withdrawal(world, "base-1"),
    }
    return make[kind]()
