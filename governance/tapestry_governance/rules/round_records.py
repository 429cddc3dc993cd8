"""Records of ended rounds and of accounts, as a state keeps them.

A manifest with its participants is kilobytes, and a log has one for every round. The
records hold the fields that rules and readers ask for, and the index of the entry in
the log for the rest. Equal terms and texts of many entries are one object.
"""

import sys
from dataclasses import dataclass, fields
from typing import Any, Self

from tapestry.encoding import decode_decimal
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.round_manifest import RoundManifest
from tapestry_governance.events.federation_events import Policy
from tapestry_governance.events.privacy_events import (
    BlockEpsilon,
    DataDeclared,
    DpAccounted,
    NoisedSegment,
    PrivacyLoss,
    largest_epsilon,
)
from tapestry_governance.rules.persistent_collections import PersistentMap

RoundKey = tuple[str, int, int]  # run, round number, attempt

_MECHANISMS = {
    "local": "poisson-subsampled-gaussian",
    "shared": "poisson-subsampled-skellam",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountingTerms:
    """Terms that the plan of a round sets for its participants' accounts."""

    participants: frozenset[str]
    steps: int
    batch_size: int
    noise: "NoiseTerms | None"  # None: training without noise

    @classmethod
    def of(cls, manifest: RoundManifest) -> Self:
        """Read the terms from a manifest.

        Raises:
            ProtocolError: The planned noise has no size, or its grid is too coarse.
        """
        return cls(
            participants=frozenset(p.name for p in manifest.participants),
            steps=manifest.training.steps,
            batch_size=manifest.training.batch_size,
            noise=NoiseTerms.of(manifest),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseTerms:
    """The noise that a plan demands of each participant."""

    mechanism: str
    clip_norm: str
    target_delta: str
    noise_multiplier: float
    own_multiplier: float
    shares: int
    coordinates: int
    bound: float

    @classmethod
    def of(cls, manifest: RoundManifest) -> Self | None:
        """Read the noise from a manifest; None where it plans none.

        Raises:
            ProtocolError: The planned noise has no size, or its grid is too coarse.
        """
        plan, share = manifest.privacy, NoiseShare.of(manifest)
        if plan.noise == "none":
            return None
        whole = decode_decimal(plan.noise_multiplier)
        return cls(
            mechanism=_MECHANISMS[plan.noise],
            clip_norm=plan.clip_norm,
            target_delta=plan.target_delta,
            noise_multiplier=whole if share is None else share.noise_multiplier,
            own_multiplier=whole if share is None else share.own_multiplier,
            shares=1 if share is None else share.shares,
            coordinates=0 if share is None else manifest.length,
            bound=0.0 if share is None else share.bound,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """A round that was opened; it may be open, closed or aborted."""

    opened: int  # index of its round.opened
    terms: AccountingTerms
    policy: Policy  # this and the next one as they were when it was opened
    data: PersistentMap[str, DataDeclared]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedRound:
    """A round that was closed, or aborted when its sum may have been known."""

    run_id: str
    round_number: int
    attempt: int
    opened: int  # index of its round.opened
    index: int  # of its round.closed

    @property
    def key(self) -> RoundKey:
        """Run, round number and attempt."""
        return self.run_id, self.round_number, self.attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """Units that a member withdrew from its data, by a declaration."""

    index: int
    units: int  # rounded down


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord:
    """A release, by the round that it holds the base of."""

    name: str
    run_id: str
    round_number: int
    index: int
    ancestry: frozenset[str]  # the runs whose rounds led to it


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountedLoss:
    """The fields of the privacy loss of a ``dp.accounted``."""

    mechanism: str
    unit: str
    adjacency: str
    trust_model: str
    clip_norm: str
    noise_multiplier: str
    own_multiplier: str
    shares: int
    coordinates: int
    bound: str
    sampling_rate: str
    target_delta: str
    blocks: tuple[BlockEpsilon, ...]
    segments: tuple[NoisedSegment, ...]
    accountant: str
    accountant_version: str

    @property
    def epsilon(self) -> str:
        """The largest epsilon of a block."""
        return largest_epsilon(self.blocks)

    @classmethod
    def of(cls, loss: PrivacyLoss) -> Self:
        """Copy the loss of an event; equal texts become one object."""
        kept: dict[str, Any] = {
            name: sys.intern(value) if type(value) is str else value
            for name, value in loss.__dict__.items()
        }
        return cls(**kept)


if set(PrivacyLoss.model_fields) != {field.name for field in fields(AccountedLoss)}:
    raise TypeError("AccountedLoss has other fields than dp.accounted")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountedSpending:
    """A ``dp.accounted`` of a node, at an index of the log."""

    index: int
    number: int  # in the order in which they were spent
    run_id: str
    round_number: int | None
    attempt: int | None
    adapter: str | None
    version: int | None
    steps: int
    mechanism: str
    promise: AccountedLoss | None  # None without noise

    @classmethod
    def of(cls, body: DpAccounted, *, index: int) -> Self:
        """Copy the fields of an event."""
        promise = body.promise
        return cls(
            index=index,
            number=body.number,
            run_id=sys.intern(body.run_id),
            round_number=body.round_number,
            attempt=body.attempt,
            adapter=body.adapter,
            version=body.version,
            steps=body.steps,
            mechanism=sys.intern(body.loss.mechanism),
            promise=None if promise is None else AccountedLoss.of(promise),
        )
