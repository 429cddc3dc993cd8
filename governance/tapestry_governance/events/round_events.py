"""Events of a round: opened, committed to or refused, closed or aborted."""

from typing import Literal, Self

from pydantic import model_validator

from tapestry.protocol.messages import Reason
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.stages import RoundStage
from tapestry.schema import Digest, Name, Names, Strict, check_ascending
from tapestry_governance.events.event_body import (
    Attempt,
    Body,
    Code,
    Hash,
    Index,
    RoundNumber,
    Scores,
)


class RoundOpened(Body, type="round.opened", roles=("coordinator",)):
    """A round's whole plan, fixed before a node is asked to train."""

    manifest: RoundManifest


class InRound(Body):
    """Base of the events about one attempt at one round."""

    run_id: Name
    round_number: RoundNumber
    attempt: Attempt


class ContributionCommitted(InRound, type="contribution.committed", roles=("node",)):
    """A node's commitment to its upload: the root over its masked chunks."""

    context: Hash  # of the round manifest
    masked_root: Hash


class ContributionRefused(InRound, type="contribution.refused", roles=("node",)):
    """A node's refusal to take part, with a reason code and nothing else."""

    reason: Reason


class Dropped(Strict):
    """A participant whose update is not in the sum, and the stage of its loss."""

    name: Name
    stage: RoundStage


class RoundClosed(InRound, type="round.closed", roles=("coordinator",)):
    """The outcome of a round that gave a sum."""

    outcome: Literal["applied", "rejected"]
    reason: Code | None  # why it was rejected
    included: Names
    dropped: tuple[Dropped, ...]  # in order of name
    commitments: tuple[Index, ...]  # log indexes, in the order of ``included``
    aggregate_digest: Digest
    base_before: Digest  # the identity of the model that the round started from
    base_after: Digest  # that of the model which the next round starts from
    release_digest: Digest  # that of this model in the given base's types
    outer_digest: Digest  # of the outer optimizer's state after the round
    metrics: Scores

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_ascending(tuple(entry.name for entry in self.dropped))
        if len(self.commitments) != len(self.included):
            raise ValueError("one commitment per included node")
        if (self.outcome == "rejected") != (self.reason is not None):
            raise ValueError("a rejected round has a reason, an applied one has none")
        return self


class RoundDisputed(InRound, type="round.disputed", roles=("node",)):
    """A member's finding that a closed round is not what the log says of it."""

    subject: Literal["sum", "gate"]
    chunk: Index | None  # of the sum

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.subject == "sum") != (self.chunk is not None):
            raise ValueError("a chunk is named of a sum, and of nothing else")
        return self


COORDINATOR_LOST = "coordinator_lost"  # with all that it knew of the round


class RoundAborted(InRound, type="round.aborted", roles=("coordinator",)):
    """A round that ended without a sum."""

    stage: RoundStage | None  # none: the coordinator died, and does not know it
    reason: Code
    # The survivor list that nodes were asked to consent to, in order of name: their
    # sum may be known to the coordinator. Empty if it came to none, or is not known.
    survivors: Names

    @property
    def is_unknown(self) -> bool:
        """True if a list may have been asked for that died with a coordinator."""
        return self.reason == COORDINATOR_LOST and not self.survivors
