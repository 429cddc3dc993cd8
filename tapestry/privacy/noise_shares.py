"""How the nodes of a round split its noise; plain arithmetic, no randomness.

With ``noise = "shared"`` a node uploads one step of SGD on one Poisson sample and adds
a share of the noise, in whole steps of the ring's grid. Shares add up inside the
masked sum, so the cohort pays for one noise instead of one each::

    bound   how far one record moves a node's vector: clip_norm * learning_rate / batch
    whole   (noise_multiplier * bound) ** 2      what honest shares add up to, at least
    share   the larger of  whole / honest        honest = threshold - max_colluding
                       and (min_share * bound) ** 2

A sum has at least ``threshold`` uploads in it, of which at most ``max_colluding`` are
of nodes that leave their noise out or tell it to others. What a node's own share is
worth if *everybody* else does is the fallback; ``min_share`` is its floor.
"""

import math
from dataclasses import dataclass
from typing import Self

from tapestry.encoding import decode_decimal
from tapestry.errors import ProtocolError
from tapestry.protocol.round_manifest import RoundManifest

MIN_DEVIATION = 1000.0  # grid steps; below, integer noise is too far from Gaussian
_ROUNDING = 2.0**-11  # half of ``privacy.clipping.SLACK``; the rest pays for clipping
_DRIFT = 2.0**-22  # relative error of float32 arithmetic on a vector, with margin


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseShare:
    """The noise of one node in one round.

    ``noise_multiplier`` is what the honest shares of a sum have together, in units
    of ``bound``, and ``own_multiplier`` what a node's own share has.
    """

    bound: float  # grid steps that one record can move a node's vector by, L2
    shares: int  # how many are counted on: t - n_C
    noise_multiplier: float
    own_multiplier: float

    @classmethod
    def of(cls, manifest: RoundManifest) -> Self | None:
        """Read the share from a manifest; None unless its noise is shared.

        Guarantees:
            Rounding a vector to the grid, at random, moves two neighbouring inputs
            apart by at most 2**-11 of ``bound`` more than they were.

        Raises:
            ProtocolError: The noise has no positive size, the grid is too coarse for
                it, or nobody's share is counted on.
        """
        plan = manifest.privacy
        if plan.noise != "shared":
            return None
        shares = manifest.threshold - manifest.max_colluding
        whole = decode_decimal(plan.noise_multiplier)
        floor = decode_decimal(plan.min_share)
        step = learning_step(manifest) * decode_decimal(plan.clip_norm)
        bound = step * 2.0**manifest.scale_bits
        if not (shares >= 1 and whole > 0 and floor >= 0 and bound > 0):
            raise ProtocolError("shared noise without a positive share")
        share = max(whole / math.sqrt(shares), floor)
        _check_grid(manifest, step=step, deviation=share * bound)
        return cls(
            bound=bound,
            shares=shares,
            noise_multiplier=max(whole, floor * math.sqrt(shares)),
            own_multiplier=share,
        )

    @property
    def deviation(self) -> float:
        """Standard deviation of the node's own share, in grid steps."""
        return self.own_multiplier * self.bound


def learning_step(manifest: RoundManifest) -> float:
    """What a gradient is multiplied by before it is uploaded: rate over batch."""
    training = manifest.training
    return decode_decimal(training.learning_rate) / training.batch_size


def _check_grid(manifest: RoundManifest, *, step: float, deviation: float) -> None:
    if deviation < MIN_DEVIATION:
        raise ProtocolError(
            f"noise of {deviation:.0f} grid steps, at least {MIN_DEVIATION:.0f};"
            " raise scale_bits"
        )
    rounding = math.sqrt(manifest.length) / (step * 2.0**manifest.scale_bits)
    drift = _DRIFT * decode_decimal(manifest.clip_norm) / step
    if rounding + drift > _ROUNDING:
        raise ProtocolError(
            f"rounding moves {rounding + drift:.2g} of what a record may, at most"
            f" {_ROUNDING:.2g}; raise scale_bits or lower clip_norm"
        )
