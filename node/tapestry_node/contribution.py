"""Update -> clipped -> quantized -> masked: the only way out of an institution.

The joint guarantee, composed here and nowhere else. What leaves is a vector that is
uniform on Z_2^32 to everybody but the coordinator with ``threshold`` nodes' help,
and to them it shows the sum over at least ``min_cohort`` survivors only (TSA-1).
The update inside is the output of DP-SGD, whose privacy loss was written to the
ledger before; clipping and rounding are post-processing and cost nothing more.

Edge cases:
    An update that is not finite becomes zero with a local alarm. Refusing instead
    would show the coordinator a dropout that depends on private records.
"""

import logging

import numpy as np

from tapestry.config import number
from tapestry.privacy.clipping import clip
from tapestry.protocol import RoundManifest
from tapestry.secagg.keystream import Random
from tapestry.secagg.ring import Encoding, quantize, weigh
from tapestry.vector import FloatVector, Quantized

_logger = logging.getLogger(__name__)


def prepare(
    update: FloatVector, *, manifest: RoundManifest, place: int, random: Random
) -> Quantized:
    """Weigh, clip and round an update for masking.

    Args:
        update: Trained minus shared parameters, shape (d,).
        manifest: The round.
        place: This node's place in the manifest, from 1.
        random: Source of the rounding's key; ``secrets.token_bytes`` outside tests.

    Guarantees:
        The L2 norm of what is encoded is at most ``manifest.clip_norm`` and every
        coordinate is within ``manifest.clip_value``.
    """
    encoding = Encoding.of(manifest)
    weighed = weigh(
        np.ascontiguousarray(update, dtype=np.float32),
        weight=encoding.weights[place - 1],
        weight_cap=encoding.weight_cap,
    )
    if not np.isfinite(weighed).all():  # clip makes it zero without a word
        _logger.error("the update is not finite; zero is sent instead")
    clipped = clip(weighed, clip_norm=number(manifest.clip_norm))
    return quantize(clipped, encoding=encoding, random=random, alarm=_logger.error)
