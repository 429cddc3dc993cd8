"""W + B A with a public A: the low-rank update whose mean is exact.

A is drawn from a public seed of the round and is the same on every node; only B is
trained, from zero. Hence ``mean(B_i) A == mean(B_i A)``: the mean of the small
matrices is the mean of the products, which fails when A is trained too
(FFA-LoRA, arXiv 2403.12313).

A has entries ``+a`` or ``-a`` with one power of two ``a`` close to ``1/sqrt(in)``:
random signs project as well as Gaussians do (Achlioptas 2003), and need only bits,
so every machine draws the same A. Products with a power of two are exact and sums
run in a fixed order, one rank at a time, so every machine folds to the same W.
"""

import hashlib
import math

import numpy as np

from tapestry.encoding import digest
from tapestry.protocol.round_manifest import TrainingPlan
from tapestry.vectors import FloatVector, Layout, Parameters


def round_seed(run_id: str, round_number: int, *, model_digest: str) -> str:
    """Derive the public seed of a round's factors; nobody chooses it."""
    label = f"tapestry-round-seed/1\n{run_id}\n{round_number}\n{model_digest}\n"
    return digest(label.encode())[7:]


def factor(name: str, *, rank: int, width: int, seed: str) -> FloatVector:
    """Draw the public factor A of one weight; shape (rank, width).

    Args:
        name: The dense weight's name; separates the streams.
        rank: Rows of A.
        width: Input features of the weight.
        seed: 64 hex digits from the round's manifest.
    """
    label = f"tapestry-factor/1\n{seed}\n{name}\n{rank}\n{width}\n".encode()
    count = rank * width
    stream = hashlib.shake_256(label).digest((count + 7) // 8)
    signs = np.unpackbits(np.frombuffer(stream, dtype=np.uint8), count=count)
    step = 2.0 ** -round(math.log2(width) / 2)
    values = np.where(signs == 1, np.float32(step), np.float32(-step))
    return values.astype(np.float32).reshape(rank, width)


def expand(
    update: FloatVector, *, layout: Layout, plan: TrainingPlan, parameters: Parameters
) -> dict[str, FloatVector]:
    """Turn a mean update of shape (d,) into dense changes, by parameter name.

    Guarantees:
        Bit for bit the same on every machine with IEEE 754 arithmetic: elementwise
        operations only, in a fixed order.
    """
    pieces = layout.split(update)
    if plan.parameterization == "full":
        return pieces
    return {
        name: _product(
            piece,
            factor(
                name,
                rank=plan.rank,
                width=parameters[name].shape[1],
                seed=plan.factor_seed,
            ),
        )
        for name, piece in pieces.items()
    }


def _product(left: FloatVector, right: FloatVector) -> FloatVector:
    total = np.zeros((left.shape[0], right.shape[1]), dtype=np.float32)
    scratch = np.empty_like(total)
    for k in range(left.shape[1]):
        np.multiply(left[:, k : k + 1], right[k], out=scratch)
        np.add(total, scratch, out=total)
    return total
