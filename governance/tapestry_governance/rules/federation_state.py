"""What a federation is after some prefix of its log.

All of it follows from the entries: two parties with the same log have the same
state. States are values; :func:`tapestry_governance.rules.replay.apply` makes new ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tapestry.keys import VerifyKey
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.tlog.merkle import Tree, leaf_hash
from tapestry_governance.events.types import (
    AdapterPublished,
    CharterAdopted,
    DataDeclared,
    DpAccounted,
    Member,
    Policy,
    ReleasePublished,
    Role,
    RoundClosed,
)

RoundKey = tuple[str, int, int]  # run, round number, attempt


class Past:
    """The roots and event ids of every prefix, shared by the states of one log.

    Guarantees:
        A ``Past`` never changes: what is pushed after it lies beyond its size. Two
        extensions of the same past do not see each other.
    """

    __slots__ = ("_ids", "_tree", "size")

    def __init__(self) -> None:
        """Start before the first entry."""
        self._tree = Tree()
        self._ids: dict[str, int] = {}
        self.size = 0

    def root(self, size: int) -> bytes:
        """Return the root over the first ``size`` entries.

        Raises:
            ValueError: The log was never so long.
        """
        if not 0 <= size <= self.size:
            raise ValueError(f"no prefix of {size} entries in a log of {self.size}")
        return self._tree.root(size)

    def index_of(self, identifier: str) -> int | None:
        """Return the index of the entry with this event id."""
        index = self._ids.get(identifier)
        return index if index is not None and index < self.size else None

    def push(self, entry: bytes, identifier: str) -> "Past":
        """Return the past of a log with one more entry."""
        twin = Past()
        if self._tree.size == self.size:
            twin._tree, twin._ids = self._tree, self._ids
        else:  # somebody else went on from here: part company
            twin._tree = Tree(self._tree.nodes(0, 0, self.size))
            twin._ids = {k: i for k, i in self._ids.items() if i < self.size}
        twin._tree.push(leaf_hash(entry))
        twin._ids[identifier] = self.size
        twin.size = self.size + 1
        return twin


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRound:
    """The round that is under way."""

    index: int  # of its round.opened
    manifest: RoundManifest
    context: str  # of the manifest, in hex
    commitments: Mapping[str, int] = field(default_factory=dict)  # node -> log index
    refused: frozenset[str] = frozenset()

    @property
    def key(self) -> RoundKey:
        """Run, round number and attempt."""
        return round_key(self.manifest)


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationState:
    """Members, rules, models and budgets, as of ``size`` entries."""

    past: Past
    federation: str
    charter: CharterAdopted
    policy: Policy
    seen: Mapping[str, int] = field(default_factory=dict)  # actor -> newest view
    data: Mapping[str, DataDeclared] = field(default_factory=dict)
    base: str | None = None  # parameters digest; None until a round was closed
    bases: frozenset[str] = frozenset()  # every base there was
    open_round: OpenRound | None = None
    last: RoundKey | None = None  # the round opened last
    last_closed: RoundClosed | None = None  # None after an abort in a fresh run
    runs: frozenset[str] = frozenset()
    rounds: Mapping[RoundKey, RoundManifest] = field(default_factory=dict)
    accounted: Mapping[RoundKey, frozenset[str]] = field(default_factory=dict)
    epsilon: Mapping[tuple[str, str], str] = field(default_factory=dict)  # node, run
    runs_without_noise: frozenset[tuple[str, str]] = (
        frozenset()
    )  # node, run: trained without noise
    pending_adapter_charges: Mapping[tuple[str, str], DpAccounted] = field(
        default_factory=dict
    )
    releases: Mapping[str, ReleasePublished] = field(default_factory=dict)
    adapters: Mapping[str, AdapterPublished] = field(default_factory=dict)
    publishers: Mapping[str, str] = field(default_factory=dict)  # adapter -> member

    @property
    def size(self) -> int:
        """How many entries the log has."""
        return self.past.size

    @property
    def root(self) -> bytes:
        """The log's root."""
        return self.past.root(self.past.size)

    @property
    def members(self) -> dict[str, Member]:
        """The institutions, by name."""
        return {member.name: member for member in self.charter.members}

    def key_of(self, actor: str, role: Role) -> VerifyKey | None:
        """Return the key by which a party speaks in a role, if it may at all."""
        if role == "coordinator":
            coordinator = self.charter.coordinator
            own = actor == coordinator.name
            return VerifyKey.parse(coordinator.key) if own else None
        member = self.members.get(actor)
        if member is None:
            return None
        match role:
            case "root":
                return VerifyKey.parse(member.root)
            case "node":
                return VerifyKey.parse(member.node)
            case "community":
                return VerifyKey.parse(member.community)

    @property
    def roots(self) -> tuple[VerifyKey, ...]:
        """The members' root keys, in order of name."""
        return tuple(VerifyKey.parse(member.root) for member in self.charter.members)

    @property
    def was_closed(self) -> bool:
        """Whether the round that was opened last was closed, not aborted."""
        closed = self.last_closed
        return (
            self.last is not None
            and closed is not None
            and (closed.run_id, closed.round_number) == self.last[:2]
        )

    @property
    def next_rounds(self) -> tuple[RoundKey, ...]:
        """The rounds that may be opened next in the present run.

        After an abort either another attempt, or the next number: whoever uploaded
        for the aborted round joins no other attempt at it.
        """
        if self.last is None:
            return ()
        run, number, attempt = self.last
        following = (run, number + 1, 1)
        return (
            (following,) if self.was_closed else ((run, number, attempt + 1), following)
        )


def round_key(manifest: RoundManifest) -> RoundKey:
    """Name a round by run, number and attempt."""
    return manifest.run_id, manifest.round_number, manifest.attempt
