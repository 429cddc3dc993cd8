"""The state of a federation after some prefix of its log.

All of it follows from the entries: two parties with the same log have the same
state. States are values; :func:`tapestry_governance.rules.replay.apply` makes new ones.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, TypedDict, Unpack

from tapestry.errors import IncompleteError
from tapestry.keys import VerifyKey
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.tlog.merkle import leaf_hash
from tapestry.tlog.trust_policy import TrustPolicy, Witness
from tapestry_governance.events.envelope import Event, Seen, Signed
from tapestry_governance.events.event_body import Role
from tapestry_governance.events.federation_events import (
    CharterAdopted,
    Coordinator,
    Member,
    Policy,
    roster_digest,
)
from tapestry_governance.events.member_events import KeyRotated, Withdrawal
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tapestry_governance.events.privacy_events import DataDeclared
from tapestry_governance.events.round_events import InRound, RoundClosed
from tapestry_governance.rules.ballots import Ballot, FormerKey, Waiting
from tapestry_governance.rules.persistent_collections import (
    PersistentList,
    PersistentMap,
    PersistentTree,
)
from tapestry_governance.rules.round_records import (
    AccountedSpending,
    AccountingTerms,
    ClosedRound,
    Departure,
    ReleaseRecord,
    RoundKey,
    RoundRecord,
)

Standing = Literal["candidate", "approved", "withdrawn"]
_EMPTY: PersistentMap[Any, Any] = PersistentMap()
_NONE: PersistentList[Any] = PersistentList()
_KEPT = 4096  # keys that are kept parsed: each change of a member reads all again


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The roots and event ids of every prefix of a log.

    Guarantees:
        A ``Past`` never changes, and shares its storage with those that follow it.
    """

    tree: PersistentTree = field(default_factory=PersistentTree)
    # Event id -> index, by actor: nobody takes the id of another's event.
    ids: PersistentMap[tuple[str, bytes], int] = _EMPTY

    @property
    def size(self) -> int:
        """The number of entries."""
        return self.tree.size

    def root(self, size: int) -> bytes:
        """Return the root over the first ``size`` entries.

        Raises:
            ValueError: The log has fewer entries than that.
        """
        return self.tree.root(size)

    def index_of(self, event: Event) -> int | None:
        """Return the index of the entry of the same actor with its id, or None."""
        index: int | None = self.ids.get(_identity(event))
        return index

    def find(self, signed: Signed) -> int | None:
        """Return the index of exactly this entry, or None if the log lacks it."""
        index = self.index_of(signed.event)
        if index is None or self.tree.leaf(index) != leaf_hash(signed.entry):
            return None
        return index

    def push(self, entry: bytes, event: Event) -> "Past":
        """Return the past of a log with one more entry."""
        return Past(
            tree=self.tree.push(leaf_hash(entry)),
            ids=self.ids.set(_identity(event), self.size),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Leadership:
    """The coordinator, how it is reached, and the key of its log."""

    coordinator: Coordinator
    log: str
    address: str
    authority: str  # digest of the certificate that vouches for the address

    @property
    def verify_keys(self) -> list[VerifyKey]:
        """The key of the log and that of its coordinator."""
        return [VerifyKey.parse(text) for text in (self.log, self.coordinator.key)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The members and all keys by which parties sign, parsed once."""

    members: Mapping[str, Member]
    keys: Mapping[tuple[str, Role], VerifyKey]  # by actor and role
    digest: str  # of names and node keys, as in a round manifest

    @property
    def node_keys(self) -> Mapping[str, VerifyKey]:
        """The keys of the members' nodes, by name."""
        return {name: self.keys[name, "node"] for name in self.members}

    @classmethod
    def of(cls, coordinator: Coordinator, members: Mapping[str, Member]) -> "Roster":
        """Parse the keys of a coordinator and of some members."""
        key = _parse(coordinator.key)
        keys: dict[tuple[str, Role], VerifyKey] = {
            (coordinator.name, "coordinator"): key
        }
        for name, member in members.items():
            keys[name, "root"] = _parse(member.root)
            keys[name, "node"] = _parse(member.node)
            keys[name, "community"] = _parse(member.community)
        return cls(
            members=MappingProxyType(dict(members)),
            keys=MappingProxyType(keys),
            digest=roster_digest(tuple(members[n] for n in sorted(members))),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedFrom:
    """The log and the witnesses whose word counts, from a size of the log on."""

    size: int
    policy: TrustPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRound:
    """The round that was opened and not yet closed or aborted."""

    index: int  # of its round.opened
    manifest: RoundManifest
    context: str  # of the manifest, in hex
    terms: AccountingTerms
    log: str  # the log key in force when it was opened
    commitments: PersistentMap[str, int] = _EMPTY  # node -> log index
    refused: frozenset[str] = frozenset()

    @property
    def key(self) -> RoundKey:
        """Run, round number and attempt."""
        return round_key(self.manifest)


class Frequent(TypedDict, total=False):
    """The fields of a state that accounts and commitments change, as most entries."""

    past: Past
    seen: PersistentMap[str, Seen]
    shown: int
    open_round: OpenRound | None
    uploads: PersistentMap[str, PersistentMap[str, int]]
    accounted: PersistentMap[RoundKey, frozenset[str]]
    spending: PersistentMap[str, PersistentList[AccountedSpending]]
    newest_account: PersistentMap[str, AccountedSpending]
    without_noise: PersistentMap[str, AccountedSpending]


@dataclass(frozen=True, kw_only=True)
class FederationState:
    """Members, rules, models and budgets, as of ``size`` entries.

    Its maps hold log indexes; an entry is read in full from the log at its index.
    States of one log share their maps.
    """

    past: Past
    federation: str
    genesis: str  # digest of entry 0
    charter: CharterAdopted
    lead: Leadership
    roster: Roster  # of those that accepted the charter, and were admitted since
    policy: Policy
    policy_digest: str
    policies: tuple[Policy, ...]  # all that were adopted, the newest last
    readers: PersistentMap[str, tuple[str, ...]] = _EMPTY  # founder -> whom it heard
    left: PersistentMap[str, int] = _EMPTY  # member -> index of its member.left
    seen: PersistentMap[str, Seen] = _EMPTY  # actor -> the last view that it named
    shown: int = 0  # entries of the longest view that an author named
    signed_last: PersistentMap[tuple[str, str], str] = _EMPTY  # root, subject -> id
    data: PersistentMap[str, DataDeclared] = _EMPTY
    first_data: PersistentMap[str, DataDeclared] = _EMPTY
    declarations: PersistentMap[str, tuple[int, int]] = _EMPTY  # opening, number
    departures: PersistentMap[str, tuple[Departure, ...]] = _EMPTY  # by member
    base: str | None = None  # identity; None until a round was closed
    open_round: OpenRound | None = None
    last: RoundKey | None = None  # the round opened last
    newest: RoundManifest | None = None  # of the round opened last
    last_closed: RoundClosed | None = None  # None after an abort in a fresh run
    runs: PersistentMap[str, int] = _EMPTY  # run -> index of its first round.opened
    rounds: PersistentMap[RoundKey, RoundRecord] = _EMPTY
    closed: PersistentList[ClosedRound] = _NONE
    closed_by_number: PersistentMap[int, PersistentList[ClosedRound]] = _EMPTY
    aborted: PersistentList[ClosedRound] = _NONE  # with survivors, or unknown ones
    uploads: PersistentMap[str, PersistentMap[str, int]] = _EMPTY
    accounted: PersistentMap[RoundKey, frozenset[str]] = _EMPTY
    refused: PersistentMap[RoundKey, frozenset[str]] = _EMPTY
    disputes: PersistentMap[RoundKey, frozenset[tuple[str, str]]] = _EMPTY
    spending: PersistentMap[str, PersistentList[AccountedSpending]] = _EMPTY
    newest_account: PersistentMap[str, AccountedSpending] = _EMPTY  # highest number
    without_noise: PersistentMap[str, AccountedSpending] = _EMPTY  # the first of a node
    adapter_accounts: PersistentMap[str, tuple[int, int]] = _EMPTY  # releases, number
    ancestry: PersistentMap[str, frozenset[str]] = _EMPTY  # base -> runs it came from
    trained: PersistentMap[str, frozenset[str]] = _EMPTY  # parameters -> the same
    unknown_bases: PersistentMap[str, str] = _EMPTY  # run -> its base, of no history
    adapter_spending: PersistentMap[tuple[str, str, int], AccountedSpending] = _EMPTY
    releases: PersistentMap[str, ReleasePublished] = _EMPTY
    released: PersistentList[ReleaseRecord] = _NONE
    released_by_run: PersistentMap[str, PersistentList[ReleaseRecord]] = _EMPTY
    adapters: PersistentMap[str, AdapterPublished] = _EMPTY
    adapter_files: PersistentMap[tuple[str, str], int] = _EMPTY  # with manifest
    publishers: PersistentMap[str, str] = _EMPTY  # adapter -> member
    published: PersistentMap[str, int] = _EMPTY  # release, adapter -> newest index
    paid_by: PersistentMap[str, int] = _EMPTY  # adapter -> index of its account
    ballots: PersistentMap[int, Ballot] = _EMPTY  # by index of proposal or release
    voted_on: PersistentMap[str, tuple[int, ...]] = _EMPTY  # undecided, by member
    open_proposals: tuple[int, ...] = ()  # not yet in force, lapsed or overtaken
    waiting: tuple[Waiting, ...] = ()  # decided, and not in force
    rotations: PersistentMap[int, tuple[str, KeyRotated]] = _EMPTY  # member, new key
    rotated: PersistentMap[str, tuple[int, int]] = _EMPTY  # opening, number
    withdrawals: PersistentMap[str, tuple[int, int]] = _EMPTY  # of own proposals
    known_keys: PersistentMap[str, str] = _EMPTY  # public half, or id -> id; for ever
    other_keys: PersistentMap[tuple[str, str], str] = _EMPTY  # transport, receipts
    former_keys: PersistentMap[tuple[str, str], tuple[FormerKey, ...]] = _EMPTY
    transport_owners: PersistentMap[str, str] = _EMPTY  # digest -> who named it first
    former_transports: PersistentMap[str, str] = _EMPTY  # member -> the last digest
    stolen_transports: PersistentMap[str, int] = _EMPTY  # digest -> since which entry
    approved: PersistentMap[str, int] = _EMPTY  # release -> index of deciding vote
    # Name, manifest -> each withdrawal in force, every one graver than those before.
    withdrawn: PersistentMap[tuple[str, str], tuple[Withdrawal, ...]] = _EMPTY
    # Name, manifest, reason -> index of the entry by which the owner withdrew it.
    withdrawn_by_owner: PersistentMap[tuple[str, str, str], int] = _EMPTY
    former_leads: tuple[Leadership, ...] = ()
    trusted: tuple[TrustedFrom, ...] = ()  # the witnesses over time, the newest last
    paused: int | None = None  # index of the vote that paused the federation
    pause_lifted: bool = False  # since the policy in force was adopted

    @property
    def size(self) -> int:
        """The number of entries in the log."""
        return self.past.size

    @property
    def root(self) -> bytes:
        """The log's root."""
        return self.past.root(self.past.size)

    def but(self, **changes: Unpack[Frequent]) -> "FederationState":
        """Return this state with other fields, ten times faster than ``replace``."""
        made = object.__new__(FederationState)
        made.__dict__.update(self.__dict__, **changes)
        return made

    @property
    def members(self) -> Mapping[str, Member]:
        """The institutions, by name; until all accepted, those that did."""
        return self.roster.members

    @property
    def active(self) -> Mapping[str, Member]:
        """The members that have not left; the others count in the quorum alone."""
        members = self.members
        return {n: members[n] for n in members if n not in self.left}

    @property
    def standing(self) -> list[str]:
        """The names of the releases that were approved, and not withdrawn since."""
        names = (record.name for record in self.released)
        return [name for name in names if self.standing_of(name) == "approved"]

    def standing_of(self, name: str) -> Standing:
        """Return how a release that was published stands with the members."""
        if self.is_withdrawn(name, self.releases[name].manifest_digest):
            return "withdrawn"
        return "approved" if name in self.approved else "candidate"

    def is_withdrawn(self, name: str, manifest: str) -> bool:
        """Return whether members withdrew these files of a release or an adapter."""
        return (name, manifest) in self.withdrawn

    def withdrawal_of(self, name: str, manifest: str) -> Withdrawal | None:
        """Return the gravest withdrawal of these files by the policy in force, or None.

        Guarantees:
            All are kept, so no policy lets a release be used that was withdrawn for any
            reason that it refuses.
        """
        found: tuple[Withdrawal, ...] = self.withdrawn.get((name, manifest), ())
        return max(
            found, key=lambda each: self.policy.gravity(each.reason), default=None
        )

    @property
    def is_founded(self) -> bool:
        """True once all founders have accepted the charter."""
        return len(self.readers) == len(self.charter.members)

    def key_of(self, actor: str, role: Role) -> VerifyKey | None:
        """Return the key of a party for a role, or None if it has none."""
        return self.roster.keys.get((actor, role))

    def with_members(self, members: Mapping[str, Member]) -> "FederationState":
        """Return this state with these members."""
        roster = Roster.of(self.lead.coordinator, members)
        return dataclasses.replace(self, roster=roster)

    def with_key(
        self, name: str, purpose: str, key: str, *, compromised: bool
    ) -> "FederationState":
        """Return this state with another key of a member; the former one is kept."""
        state = self.retire(name, purpose)
        if compromised:
            state = state.with_compromised(name, purpose)
        member = self.members[name].model_copy(update={purpose: key})
        state = state.knowing([VerifyKey.parse(key)])
        return state.with_members({**self.members, name: member})

    def with_compromised(self, name: str, purpose: str) -> "FederationState":
        """Return this state with the newest former key of a member as compromised.

        Guarantees:
            A root key takes along the new keys that wait: whoever stole it may have
            signed for them.
        """
        *kept, last = self.former_keys[name, purpose]
        last = dataclasses.replace(last, compromised=True)
        keys = self.former_keys.set((name, purpose), (*kept, last))
        state = dataclasses.replace(self, former_keys=keys)
        if purpose == "root":
            rotations, waiting = self.rotations, self.waiting
            still = (w for w in waiting if rotations.get(w.subject, ("",))[0] != name)
            state = dataclasses.replace(state, waiting=tuple(still))
        return state

    def with_transport(
        self, name: str, digest: str, *, compromised: bool
    ) -> "FederationState":
        """Return this state with another transport key of a member.

        Guarantees:
            One that was compromised is no member's again. To declare the present one
            once more as ``compromised`` means the one before. Whose a key is was
            settled by the entry that named it first.
        """
        if digest in self.stolen_transports:
            return self
        present = self.other_keys.get((name, "transport"))
        former, stolen = self.former_transports, self.stolen_transports
        if present is not None and present != digest:
            former = former.set(name, present)
        if compromised and name in former and former[name] != digest:
            stolen = stolen.set(former[name], self.size)
        return dataclasses.replace(
            self,
            other_keys=self.other_keys.set((name, "transport"), digest),
            former_transports=former,
            stolen_transports=stolen,
        )

    def present_key(self, name: str, purpose: str) -> str | None:
        """Return a member's key for a purpose as an event names it, or None."""
        if purpose in {"transport", "receipts"}:
            found: str | None = self.other_keys.get((name, purpose))
            return found
        member = self.members.get(name)
        return None if member is None else str(getattr(member, purpose))

    def may_be_stolen(self, name: str, purpose: str) -> bool:
        """Return whether a member has a last former key that it may call compromised.

        False where it has none, and where it has called it so.
        """
        if purpose == "transport":
            last = self.former_transports.get(name)
            return last is not None and last not in self.stolen_transports
        former = self.former_keys.get((name, purpose))
        return former is not None and not former[-1].compromised

    def retire(self, name: str, purpose: str) -> "FederationState":
        """Return this state with the present key of a member noted as a former one."""
        key = VerifyKey.parse(getattr(self.members[name], purpose))
        former = FormerKey(key=key, until=self.size, compromised=False)
        kept = (*self.former_keys.get((name, purpose), ()), former)
        keys = self.former_keys.set((name, purpose), kept)
        return dataclasses.replace(self, former_keys=keys)

    def knowing(self, keys: Iterable[VerifyKey]) -> "FederationState":
        """Return this state with these keys among those that have an owner for ever."""
        known = self.known_keys
        for key in keys:
            known = known.set(key.public.hex(), key.keyid).set(key.keyid, key.keyid)
        return dataclasses.replace(self, known_keys=known)

    def owned(self, key: VerifyKey) -> str | None:
        """Return the id of a key that a party has or had, if it is this one or alike.

        Two keys of one id cannot be told apart in the signatures of a checkpoint.
        """
        known: PersistentMap[str, str] = self.known_keys
        found: str | None = known.get(key.public.hex()) or known.get(key.keyid)
        return found

    def counted(
        self, counts: PersistentMap[str, tuple[int, int]], actor: str
    ) -> tuple[int, int]:
        """Count one more entry of an actor since the last opening of a round."""
        opened = self.rounds[self.last].opened if self.last else 0
        since, number = counts.get(actor, (opened, 0))
        return opened, number + 1 if since == opened else 1

    @property
    def trust(self) -> TrustPolicy:
        """The trust policy that the log itself names: its key, members, outsiders."""
        members, policy = self.members, self.policy
        outside = [(VerifyKey.parse(each.key), each.url) for each in policy.witnesses]
        return TrustPolicy.of_members(
            VerifyKey.parse(self.lead.log),
            [VerifyKey.parse(members[name].witness) for name in sorted(members)],
            outside=[Witness(name=key.name, key=key, url=url) for key, url in outside],
            outside_quorum=policy.outside_quorum,
        )

    def trusted_at(self, size: int) -> TrustedFrom:
        """Return the witnesses in force in the log of the first ``size`` entries.

        Raises:
            IncompleteError: The founding was not complete then.
        """
        for each in reversed(self.trusted):
            if each.size <= size:
                return each
        raise IncompleteError(
            f"the first {size} entries do not found the federation",
            code="log-not-founded",
        )

    def closed_round(
        self, number: int, run_id: str, *, within: int
    ) -> ClosedRound | None:
        """Return a run's round of a number if it was closed by the first entries."""
        found: PersistentList[ClosedRound] = self.closed_by_number.get(number, _NONE)
        ends = (c for c in found.newest_first() if c.run_id == run_id)
        return next((c for c in ends if c.index < within), None)

    def is_closed(self, key: RoundKey) -> bool:
        """Return whether an attempt was closed."""
        found: PersistentList[ClosedRound] = self.closed_by_number.get(key[1], _NONE)
        return any(each.key == key for each in found)

    def end_of(self, release: ReleaseRecord) -> int | None:
        """Return the log index at which the round of a release was closed."""
        end = self.closed_round(release.round_number, release.run_id, within=self.size)
        return None if end is None else end.index

    @property
    def has_other_lead(self) -> bool:
        """True if a round is open that was opened under another log key."""
        return self.open_round is not None and self.open_round.log != self.lead.log

    def aborted_round(self, key: RoundKey) -> ClosedRound | None:
        """Return an attempt that was aborted after a list may have been asked for."""
        found = (each for each in self.aborted.newest_first() if each.key == key)
        return next(found, None)

    def uploads_of(self, node: str) -> Mapping[str, int]:
        """Return the highest round that a node committed an upload to, by run."""
        uploads: Mapping[str, int] = self.uploads.get(node, {})
        return uploads

    def spending_of(self, node: str) -> list[AccountedSpending]:
        """Return what a node accounted for, in the order of the log."""
        return list(self.spending.get(node, _NONE))

    def disputes_of(self, run_id: str, *, until: int) -> list[tuple[str, str, int]]:
        """List who disputes what of which round of a run, up to a round's number."""
        return sorted(
            (actor, subject, number)
            for (run, number, _), found in self.disputes.items()
            if run == run_id and number <= until
            for actor, subject in found
        )

    def releases_since(self, size: int) -> list[ReleaseRecord]:
        """Return the releases beyond the first entries, oldest first."""
        return self.released.while_newest(lambda record: record.index >= size)

    def release_named(self, name: str) -> ReleaseRecord:
        """Return the release of a name that the log has published.

        Raises:
            ValueError: No release of this name was published.
        """
        for record in self.released.newest_first():
            if record.name == name:
                return record
        raise ValueError(f"the log has no release {name}")

    def release_of(self, run_id: str, number: int) -> ReleaseRecord | None:
        """Return the release of the base that a round gave, if there is one."""
        found: PersistentList[ReleaseRecord] = self.released_by_run.get(run_id, _NONE)
        upto = (r for r in found.newest_first() if r.round_number <= number)
        last = next(upto, None)
        return last if last and last.round_number == number else None

    def released_round(self, run_id: str, *, within: int) -> int:
        """Return the last round of a run whose base the first entries release, or 0."""
        found: PersistentList[ReleaseRecord] = self.released_by_run.get(run_id, _NONE)
        rounds = (r.round_number for r in found.newest_first() if r.index < within)
        return next(rounds, 0)

    @property
    def was_closed(self) -> bool:
        """True if the round that was opened last was closed, not aborted."""
        closed = self.last_closed
        return (
            self.last is not None
            and closed is not None
            and (closed.run_id, closed.round_number) == self.last[:2]
        )

    @property
    def next_rounds(self) -> tuple[RoundKey, ...]:
        """The rounds that may be opened next in the present run.

        After an abort either another attempt, or the next number: a node that uploaded
        for the aborted round joins no other attempt at it.
        """
        if self.last is None:
            return ()
        run, number, attempt = self.last
        if self.was_closed:
            return ((run, number + 1, 1),)
        return (run, number, attempt + 1), (run, number + 1, 1)


def _identity(event: Event) -> tuple[str, bytes]:
    """Return actor and id, a UUID, which takes half of its size as text in bytes."""
    return event.actor, bytes.fromhex(event.id.replace("-", ""))


def round_key(attempt: RoundManifest | InRound) -> RoundKey:
    """Name an attempt at a round by run, round number and attempt."""
    return attempt.run_id, attempt.round_number, attempt.attempt


@lru_cache(maxsize=_KEPT)
def _parse(text: str) -> VerifyKey:
    return VerifyKey.parse(text)
