"""Events about records: a node's declaration of its data, and its privacy accounts."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tapestry.encoding import decode_decimal
from tapestry.schema import Digest, Name, Plain, Strict
from tapestry_governance.events.event_body import (
    Attempt,
    Body,
    Language,
    Licence,
    RoundNumber,
)

MAX_BLOCKS = 260  # of an institution: five years of versions, one a week
"""Bounds the cost of an audit, which composes the spending on each block."""

MAX_ACCOUNTS = 1_000_000  # of an institution
Block = Annotated[int, Field(ge=1, le=MAX_BLOCKS)]
Unit = Literal["record", "person"]


class DataDeclared(Body, type="data.declared", roles=("node",)):
    """A commitment to an institution's data; the count sets its sampling rate."""

    dataset: Digest  # a salted commitment, not a digest of the records
    version: Annotated[int, Field(ge=1)]
    block: Block  # of the units that came with this version
    records: Annotated[int, Field(ge=1)]  # a lower bound is safe, see EVENTS.md
    withdrawn: Annotated[int, Field(ge=0)]  # units that left with this version
    modality: Literal["text", "episodes"]
    unit: Unit
    max_rows: Annotated[int, Field(ge=1)] | None  # of a unit; None: it is one row
    languages: Annotated[tuple[Language, ...], Field(max_length=50)]  # none: no text
    licences: Annotated[tuple[Licence, ...], Field(max_length=50)]


class UnboundedLoss(Strict):
    """The loss of training without noise: nothing is promised any more."""

    mechanism: Literal["none"]


class BlockEpsilon(Strict):
    """The epsilon of one block of an institution's units.

    It composes all that the institution spent on the block up to and including what
    this event accounts for, over all runs and adapters. Where a part of that counts on
    noise of other nodes, the fallback composes all with the node's own noise alone;
    otherwise it is null.
    """

    block: Block
    epsilon: Plain
    epsilon_fallback: Plain | None


def largest_epsilon(blocks: tuple[BlockEpsilon, ...]) -> str:
    """Return the largest epsilon of some blocks."""
    return max((each.epsilon for each in blocks), key=decode_decimal)


def largest_fallback(blocks: tuple[BlockEpsilon, ...]) -> str | None:
    """Return the largest fallback of some blocks, or None where none has one."""
    if all(each.epsilon_fallback is None for each in blocks):
        return None
    said = (each.epsilon_fallback or each.epsilon for each in blocks)
    return max(said, key=decode_decimal)


class NoisedSegment(Strict):
    """A part of the released vector with noise of its own."""

    name: Name
    sensitivity: Plain
    noise_multiplier: Plain


class PrivacyLoss(Strict):
    """The loss of training with noise, and all parameters to compute it again.

    ``blocks`` holds the epsilons at ``target_delta``, one for each block that was
    trained on, in order: a block whose budget is spent is left out. Where any of them
    counts on noise of other nodes, the trust model is ``shared``; where it is
    ``local``, all noise is the node's own.
    """

    mechanism: Literal[  # of each step
        "poisson-subsampled-gaussian", "poisson-subsampled-skellam"
    ]
    unit: Unit  # as the institution declared it
    adjacency: Literal["add-remove"]
    trust_model: Literal["local", "shared"]  # of the epsilons
    clip_norm: Plain
    noise_multiplier: Plain  # of all noise that is counted on
    own_multiplier: Plain  # of the node's own
    shares: Annotated[int, Field(ge=1, le=1000)]  # how many nodes' noise that is
    coordinates: Annotated[int, Field(ge=0, le=2**40)]  # 0 with Gaussian noise
    bound: Plain  # clip norm in steps of the grid of integer noise; 0 with Gaussian
    sampling_rate: Plain
    target_delta: Plain
    blocks: Annotated[
        tuple[BlockEpsilon, ...], Field(min_length=1, max_length=MAX_BLOCKS)
    ]
    segments: Annotated[tuple[NoisedSegment, ...], Field(max_length=100)]
    accountant: Annotated[str, Field(pattern=r"^[a-z][a-z0-9./-]{0,62}$")]
    accountant_version: Annotated[str, Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")]

    @property
    def epsilon(self) -> str:
        """The largest epsilon of a block."""
        return largest_epsilon(self.blocks)

    @property
    def epsilon_fallback(self) -> str | None:
        """The largest fallback of a block, or None where no noise is shared."""
        return largest_fallback(self.blocks)

    @property
    def is_own(self) -> bool:
        """True if this training counts on no noise but the node's own."""
        return self.shares == 1 and self.own_multiplier == self.noise_multiplier

    @model_validator(mode="after")
    def _check(self) -> Self:
        is_shared = any(each.epsilon_fallback is not None for each in self.blocks)
        if (self.trust_model == "shared") != is_shared:
            raise ValueError("a fallback goes with noise that is shared")
        numbers = [each.block for each in self.blocks]
        if numbers != sorted(set(numbers)):
            raise ValueError("blocks are in order, each once")
        positive = (self.clip_norm, self.own_multiplier, self.target_delta)
        if any(decode_decimal(each.epsilon) < 0 for each in self.blocks):
            raise ValueError("an epsilon is not negative")
        if any(decode_decimal(text) <= 0 for text in positive):
            raise ValueError("clip norm, noise multiplier and delta are positive")
        if not 0 < decode_decimal(self.sampling_rate) <= 1:
            raise ValueError("the sampling rate lies in (0, 1]")
        self._check_grid()
        reach = decode_decimal(self.own_multiplier) * math.sqrt(self.shares)
        if decode_decimal(self.noise_multiplier) > reach + 1e-9:
            raise ValueError("the shares do not add up to the noise multiplier")
        if self.trust_model == "local" and not self.is_own:
            raise ValueError("a local promise counts on the node's own noise alone")
        return self

    def _check_grid(self) -> None:
        integer = self.mechanism == "poisson-subsampled-skellam"
        if integer and self.trust_model != "shared":
            raise ValueError("integer noise is noise that is shared")
        if integer != (self.coordinates > 0) or integer != (self.bound != "0"):
            raise ValueError("a grid goes with integer noise")


class DpAccounted(Body, type="dp.accounted", roles=("node",)):
    """A node's privacy loss of an attempt at a round, or of a version of an adapter.

    ``number`` is the place of the account among all of its node, from 1, in the order
    in which they were spent: its epsilons compose the accounts up to that number,
    whichever of them the log has, and in whatever order.
    """

    number: Annotated[int, Field(ge=1, le=MAX_ACCOUNTS)]
    run_id: Name
    round_number: RoundNumber | None
    attempt: Attempt | None
    adapter: Name | None
    version: Annotated[int, Field(ge=1)] | None
    steps: Annotated[int, Field(ge=1, le=1_000_000)]
    loss: Annotated[UnboundedLoss | PrivacyLoss, Field(discriminator="mechanism")]

    @property
    def promise(self) -> PrivacyLoss | None:
        """The loss that the noise bounds; None without noise."""
        return None if self.loss.mechanism == "none" else self.loss

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.round_number is None) == (self.adapter is None):
            raise ValueError("either a round or an adapter is accounted for")
        if (self.round_number is None) != (self.attempt is None):
            raise ValueError("a round has an attempt")
        if (self.adapter is None) != (self.version is None):
            raise ValueError("an adapter has a version")
        if self.adapter is not None and self.promise and not self.promise.is_own:
            raise ValueError("no other node adds noise to an adapter")
        return self
