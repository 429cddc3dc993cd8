"""The split of a round's noise among its nodes; plain arithmetic, no randomness.

With ``noise = "shared"`` a node uploads one step of SGD on one Poisson sample and adds
a share of the noise, in whole steps of the ring's grid. Shares add up inside the
masked sum, so the cohort pays for one noise instead of one each::

    unit    the gradient of one record, clipped alone and cut to whole steps: integers
            of norm ``unit_bound`` at most, exactly (``clipping.add_unit``)
    bound   how far one record moves a node's vector, clip_norm * learning_rate / batch:
            a unit, and what ``clipping.bound_sum`` adds; this is accounted for
    whole   (noise_multiplier * bound) ** 2      what honest shares add up to, at least
    share   the larger of  whole / honest        honest = threshold - max_colluding
                       and (min_share * bound) ** 2

A sum has at least ``threshold`` uploads in it, of which at most ``max_colluding`` are
of nodes that leave their noise out or tell it to others. If all other nodes do so, a
node's own share alone protects its records; ``min_share`` is the floor of that share.
"""

import math
from dataclasses import dataclass
from typing import Self

from tapestry.encoding import decode_decimal
from tapestry.errors import ProtocolError
from tapestry.protocol.round_manifest import RoundManifest

MIN_DEVIATION = 1000.0  # grid steps; below, integer noise is too far from Gaussian
_SLACK = 2.0**-10  # share of ``bound`` that a unit leaves to ``clipping.bound_sum``
_ROUNDING = _SLACK / 2  # what that may use, at the most


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseShare:
    """The noise of one node in one round.

    ``noise_multiplier`` is what the honest shares of a sum have together, in units
    of ``bound``, and ``own_multiplier`` what a node's own share has.
    """

    bound: float  # grid steps that one record can move a node's vector by, L2
    unit_bound: int  # grid steps that one record adds to a node's sum, L2
    unit_scale: float  # grid steps in one unit of a record's gradient
    shares: int  # how many are counted on: t - n_C
    noise_multiplier: float
    own_multiplier: float

    @classmethod
    def of(cls, manifest: RoundManifest) -> Self | None:
        """Read the share from a manifest; None unless its noise is shared.

        Guarantees:
            ``unit_bound``, and what ``clipping.bound_sum`` brings two sums further
            apart than one unit does, are together below ``bound``: the first leaves
            2**-10 of it, of which the second uses less than 2**-11.

        Raises:
            ProtocolError: The noise has no positive size, the grid is too coarse for
                it, or no share is counted on (``threshold <= max_colluding``).
        """
        plan = manifest.privacy
        if plan.noise != "shared":
            return None
        shares = manifest.threshold - manifest.max_colluding
        whole = decode_decimal(plan.noise_multiplier)
        floor = decode_decimal(plan.min_share)
        scale = learning_step(manifest) * 2.0**manifest.scale_bits
        bound = scale * decode_decimal(plan.clip_norm)
        if not (shares >= 1 and whole > 0 and floor >= 0 and bound > 0):
            raise ProtocolError(
                f"round {manifest.round_number}: shared noise of {shares} honest"
                f" shares, noise_multiplier {whole:g}, min_share {floor:g} and bound"
                f" {bound:g}; all but min_share must be positive",
                code="noise-share-not-positive",
            )
        share = max(whole / math.sqrt(shares), floor)
        _check_grid(manifest, bound=bound, deviation=share * bound)
        return cls(
            bound=bound,
            unit_bound=math.floor(bound * (1 - _SLACK)),
            unit_scale=scale,
            shares=shares,
            noise_multiplier=max(whole, floor * math.sqrt(shares)),
            own_multiplier=share,
        )

    @property
    def deviation(self) -> float:
        """Standard deviation of the node's own share, in grid steps."""
        return self.own_multiplier * self.bound


def learning_step(manifest: RoundManifest) -> float:
    """Return the factor of an uploaded gradient: learning rate over batch size."""
    training = manifest.training
    return decode_decimal(training.learning_rate) / training.batch_size


def _check_grid(manifest: RoundManifest, *, bound: float, deviation: float) -> None:
    if deviation < MIN_DEVIATION:
        raise ProtocolError(
            f"round {manifest.round_number}: noise of {deviation:.0f} grid steps, at"
            f" least {MIN_DEVIATION:.0f}; raise scale_bits",
            code="noise-below-grid",
        )
    rounding = (1 + 2.0**-17) * math.sqrt(manifest.length) / bound
    if rounding > _ROUNDING:
        raise ProtocolError(
            f"round {manifest.round_number}: rounding moves {rounding:.2g} of what a"
            f" record may, at most {_ROUNDING:.2g}; raise scale_bits",
            code="grid-too-coarse",
        )
