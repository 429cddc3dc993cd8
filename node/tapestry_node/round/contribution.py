"""The contribution: an update clipped, quantized, noised and masked; the only way out.

The joint guarantee is composed here and nowhere else. What leaves is a vector that is
uniform on Z_2^32 to all but the coordinator with ``threshold`` nodes' help,
and to them it shows the sum over at least ``min_cohort`` survivors only (TSA-1).
The privacy loss of what is inside was written to the ledger before:

- With local noise the update is the output of DP-SGD; clipping and rounding are
  post-processing and cost nothing more.
- With shared noise it is one step on one Poisson sample, which one record moves by at
  most ``NoiseShare.bound``. Clipping a vector to a ball or a box brings no two vectors
  further apart, and rounding does by no more than ``noise_shares`` allows for. This
  node's share of the noise is added on the grid, as the last thing before masking.

Edge cases:
    An update that is not finite becomes zero with a local alarm. Refusing instead
    would show the coordinator a dropout that depends on private records.
"""

import logging

import numpy as np

from tapestry.encoding import decode_decimal
from tapestry.privacy.clipping import clip
from tapestry.privacy.gaussian import NoiseSource
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.privacy.skellam import add_noise
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.secagg.masks import Random
from tapestry.secagg.quantization import Encoding, quantize
from tapestry.vectors import FloatVector, Quantized

_logger = logging.getLogger(__name__)


def prepare(
    update: FloatVector,
    *,
    manifest: RoundManifest,
    random: Random,
    noise: NoiseSource,
) -> Quantized:
    """Clip and round an update, shape (d,), and add this node's share of noise, if any.

    Outside tests ``random`` is ``secrets.token_bytes`` and ``noise`` is fresh.

    Guarantees:
        But for the noise, the L2 norm of what is encoded is at most
        ``manifest.clip_norm`` and every coordinate is within ``manifest.clip_value``.
    """
    encoding = Encoding.of(manifest)
    update = np.ascontiguousarray(update, dtype=np.float32)
    if not np.isfinite(update).all():  # ``clip`` makes it zero silently
        _logger.error(
            "the update of round %d is not finite; zero is sent instead",
            manifest.round_number,
        )
    clipped = clip(update, clip_norm=decode_decimal(manifest.clip_norm))
    rounded = quantize(
        clipped,
        encoding=encoding,
        random=random,
        alarm=_logger.error,
        out=clipped.values.view(np.uint32),  # a copy of the update, ours alone
    )
    share = NoiseShare.of(manifest)
    if share is not None:
        add_noise(rounded.values, variance=share.deviation**2, source=noise)
    return rounded
