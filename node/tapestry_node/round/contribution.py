"""The contribution: an update clipped, quantized, noised and masked; the only way out.

The joint guarantee is composed here and nowhere else. What leaves is a vector that is
uniform on Z_2^32 to all but the coordinator with ``threshold`` nodes' help,
and to them it shows the sum over at least ``min_cohort`` survivors only (TSA-1).
The privacy loss of what is inside was written to the ledger before:

- With local noise the update is the output of DP-SGD; clipping and rounding are
  post-processing and cost nothing more.
- With shared noise it is one step on one Poisson sample, a sum of integers to which one
  record adds ``NoiseShare.unit_bound`` at most (``clipping.add_unit``). Bounding that
  sum brings two of them hardly further apart (``clipping.bound_sum``), so that one
  record moves the result by ``NoiseShare.bound`` at most; no check and no branch lies
  between. This node's share of the noise is added last, before masking.

Edge cases:
    An update that is not finite becomes zero with a local alarm. Refusing instead
    would show the coordinator a dropout that depends on private records. With shared
    noise there is none: a gradient that is not finite was left out.
"""

import logging
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING

import numpy as np

from tapestry.privacy.clipping import bound_sum, clip
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.privacy.skellam import add_noise
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.secagg.masks import Random
from tapestry.secagg.quantization import Encoding, quantize
from tapestry.vectors import FloatVector, IntegerVector, Quantized

if TYPE_CHECKING:
    from tapestry.privacy.gaussian import NoiseSource  # loads torch

_logger = logging.getLogger(__name__)


def prepare(
    update: FloatVector | IntegerVector,
    *,
    manifest: RoundManifest,
    random: Random,
    noise: "NoiseSource",
) -> Quantized:
    """Bound an update, shape (d,), round it, and add this node's share of noise.

    With shared noise the update is in steps of the grid (int64), otherwise float32.
    Outside tests ``random`` is ``secrets.token_bytes`` and ``noise`` is fresh.

    Guarantees:
        But for the noise and, with float32, one step a coordinate, the L2 norm of what
        is encoded is at most ``manifest.clip_norm``; every coordinate is within
        ``manifest.clip_value``.

    Raises:
        ValueError: The update has another length or type than the round: a bug, which
            does not depend on records.
    """
    encoding = Encoding.of(manifest)
    share = NoiseShare.of(manifest)
    if share is not None:
        if update.shape != (encoding.length,) or update.dtype != np.int64:
            raise ValueError(f"update of {update.shape} {update.dtype}, want int64")
        bounded = bound_sum(
            update.astype(np.int64, copy=False),
            clip_norm=floor(Fraction(encoding.clip_norm) * 2**encoding.scale_bits),
            clip_value=encoding.bound,
        )
        values = bounded.astype(np.uint32)  # mod 2**32: two's complement
        add_noise(values, variance=share.deviation**2, source=noise)
        return Quantized(values=values)
    update = np.ascontiguousarray(update, dtype=np.float32)
    if not np.isfinite(update).all():  # ``clip`` makes it zero silently
        _logger.error(
            "the update of round %d is not finite; zero is sent instead",
            manifest.round_number,
        )
    clipped = clip(update, clip_norm=encoding.clip_norm)
    return quantize(
        clipped,
        encoding=encoding,
        random=random,
        out=clipped.values.view(np.uint32),  # a copy of the update, ours alone
    )
