"""Whether a node could join a round now: what ``tapestry node check`` reports.

The guard decides on each offer, and the ledger on each charge. This asks beforehand,
of what lies on the node's own disk, which of their rules every offer would break.

Edge cases:
    Finding nothing promises nothing: an offer may still break a rule. Before the
    mirror of the log holds an entry, a key is held against its own name and against
    ``policy.txt``; after that, against the members of the log.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tapestry.config import NodeSettings
from tapestry.errors import ConfigError
from tapestry.keys import SigningKey, VerifyKey
from tapestry_governance.events import Member
from tapestry_governance.trust import Trust
from tapestry_node.budget import Balance


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a node knows of itself before anybody asks it."""

    settings: NodeSettings
    keys: Mapping[str, VerifyKey]  # by purpose
    trust: Trust
    is_empty: bool  # the mirror of the log, before joining
    given_base: str  # its digest
    balance: Balance
    rounds_left: int | None  # like the log's last one; None where nothing is known


def objections(standing: Standing) -> list[str]:
    """Say, one line each, why every offer would be refused; empty if nothing is known.

    Guarantees:
        No line depends on a record.
    """
    found = [_budget(standing), _base(standing), _keys(standing)]
    return [line for line in found if line is not None]


def _budget(standing: Standing) -> str | None:
    balance = standing.balance
    for name, value, limit in (
        ("epsilon", balance.spent, balance.limit),
        ("fallback epsilon", balance.fallback, balance.fallback_limit),
    ):
        if value >= limit:
            key = f"policy.{name.replace(' ', '_')}_limit"
            return f"{name} {value:.4f} is spent, {key} is {limit:g}; no round fits"
    if standing.rounds_left == 0:
        return (
            f"epsilon {balance.spent:.4f} is spent, policy.epsilon_limit is"
            f" {balance.limit:g}; no further round like the log's last one fits"
        )
    return None


def _base(standing: Standing) -> str | None:
    settings = standing.settings
    if standing.given_base in settings.policy.bases:
        return None
    return (
        f"base {settings.base!r} is {standing.given_base}, which is not in"
        " policy.bases; name it there, or give the base that was agreed on"
    )


def _keys(standing: Standing) -> str | None:
    if not standing.is_empty:
        return None  # held against the members at the start
    name = standing.settings.name
    for purpose, key in standing.keys.items():
        owner = key.name.partition("/")[0]
        if owner != name:
            return _of_another(purpose, name=name, owner=owner)
    if standing.keys["witness"] not in {w.key for w in standing.trust.witnesses}:
        return (
            "keys/witness.key is not among the witnesses of policy.txt; name it there"
        )
    return None


def check_keys(
    members: Mapping[str, Member], *, keys: Mapping[str, SigningKey], name: str
) -> None:
    """Hold a node's keys against the members of the log.

    Raises:
        ConfigError: One is not that of the member whose name the node has.
    """
    for purpose, key in keys.items():
        public = str(key.verify_key)
        held = [m.name for m in members.values() if getattr(m, purpose) == public]
        if held != [name]:
            owner = held[0] if held else None
            raise ConfigError(_of_another(purpose, name=name, owner=owner))


def _of_another(purpose: str, *, name: str, owner: str | None) -> str:
    whose = "of no member" if owner is None else f"that of {owner!r}"
    return (
        f"name is {name!r} in node.toml, but keys/{purpose}.key is {whose}; name the"
        " member whose keys these are"
    )
