"""The subjects of votes, and how each stands."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tapestry.encoding import canonical_json, digest
from tapestry.keys import VerifyKey
from tapestry_governance.events.member_events import (
    Proposal,
    Removal,
    RootReplacement,
)
from tapestry_governance.rules.persistent_collections import PersistentMap

Vote = Literal["yes", "no", "abstain"]
Outcome = Literal["open", "decided", "in_force", "lapsed", "overtaken", "withdrawn"]
_NO_VOTES: PersistentMap[str, Vote] = PersistentMap()
_NO_CASTS: PersistentMap[str, int] = PersistentMap()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """The votes on a proposal, or on a published release.

    ``open`` becomes ``decided`` by the vote that reaches the threshold, and ``open``
    again by one that is changed. The next entry whose author saw the decision in a
    cosigned checkpoint puts it ``in_force``. A proposal that is open when the voters
    change, or its author's root key is replaced as lost or stolen, has ``lapsed``; one
    that cannot be put in force any more is ``overtaken``; one that lacks the votes
    while its author votes no is ``withdrawn``.
    """

    index: int  # of its entry in the log
    entry: str  # digest of that entry
    kind: str  # of the proposal, or "release"
    proposal: Proposal | None  # None: a release
    by: str  # who proposed or published it
    release: str | None = None  # its name
    voters: str  # digest of the members who may vote; of a release empty
    votes: PersistentMap[str, Vote] = _NO_VOTES
    casts: PersistentMap[str, int] = _NO_CASTS  # votes cast, by member
    decided: int | None = None  # index of the deciding vote
    outcome: Outcome = "open"

    @property
    def concerned(self) -> str | None:
        """The member that it is about, which may not vote."""
        about = self.proposal
        if isinstance(about, Removal | RootReplacement):
            return about.member
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An entry that takes effect once it was seen in a cosigned checkpoint."""

    since: int  # index of the entry that decided it
    subject: int  # index of the proposal, release, rotation or exit


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerKey:
    """A key that a member signed with before."""

    key: VerifyKey
    until: int  # index of the first entry that it may not sign
    compromised: bool


def voters_digest(names: Iterable[str]) -> str:
    """Return the digest of the members who may vote: of their names, in order."""
    return digest(canonical_json(sorted(names)))
