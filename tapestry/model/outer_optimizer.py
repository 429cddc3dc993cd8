"""The outer optimizer: turns a mean update into new parameters, bit for bit equal.

Coordinator, every node and an auditor take the same step and must reach the same
digest on every machine. So only elementwise float32 operations of NumPy are used, one
after the other and in a fixed order; each is correctly rounded by IEEE 754, so the
result does not depend on the processor, the number of threads or a BLAS.

``nesterov`` is DiLoCo's outer optimizer (arXiv 2311.08105): ``v <- m v + g``,
``p <- p + lr (g + m v)`` with g the mean update (already a descent direction).
``adam`` is FedAdam (Reddi et al. 2021) with bias correction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tapestry.encoding import canonical_json, decode_decimal, digest
from tapestry.model.low_rank import expand
from tapestry.protocol.round_manifest import OuterPlan, RoundManifest
from tapestry.tensor_types import widen
from tapestry.vectors import FloatVector, Layout, Parameters, tensor_digests

_BETA1 = np.float32(0.9)
_BETA2 = np.float32(0.99)
_TAU = np.float32(1e-3)


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterState:
    """Moments of the outer optimizer, by parameter name."""

    step: int = 0
    first: Mapping[str, FloatVector] = field(default_factory=dict)
    second: Mapping[str, FloatVector] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The digest of the optimizer's state that ``round.closed`` names."""
        parts = [tensor_digests(self.first), tensor_digests(self.second)]
        return digest(canonical_json([self.step, *parts]))


def advance(
    parameters: Parameters,
    state: OuterState,
    *,
    mean: FloatVector,
    layout: Layout,
    manifest: RoundManifest,
) -> tuple[Parameters, OuterState]:
    """Take one outer step by the mean update of a round, shape (d,).

    Returns:
        The new parameters, of which those that moved are float32 and the others the
        same objects, and the new state.
    """
    change = expand(mean, layout=layout, plan=manifest.training, parameters=parameters)
    moved: dict[str, FloatVector] = {}
    first: dict[str, FloatVector] = {}
    second: dict[str, FloatVector] = {}
    for name, gradient in change.items():
        direction = _direction(name, gradient, manifest.outer, state, first, second)
        rate = np.float32(decode_decimal(manifest.outer.learning_rate))
        moved[name] = widen(parameters[name]) + direction * rate
    after = OuterState(step=state.step + 1, first=first, second=second)
    return {**parameters, **moved}, after


def _direction(
    name: str,
    gradient: FloatVector,
    plan: OuterPlan,
    state: OuterState,
    first: dict[str, FloatVector],
    second: dict[str, FloatVector],
) -> FloatVector:
    if plan.optimizer == "mean":
        return gradient
    zero = np.zeros((), dtype=np.float32)
    if plan.optimizer == "nesterov":
        momentum = np.float32(decode_decimal(plan.momentum))
        first[name] = state.first.get(name, zero) * momentum + gradient
        return gradient + first[name] * momentum
    one = np.float32(1)
    first[name] = state.first.get(name, zero) * _BETA1 + gradient * (one - _BETA1)
    squares = gradient * gradient
    second[name] = state.second.get(name, zero) * _BETA2 + squares * (one - _BETA2)
    mean = first[name] / (one - _power(_BETA1, state.step + 1))
    spread: FloatVector = np.sqrt(second[name] / (one - _power(_BETA2, state.step + 1)))
    return mean / (spread + _TAU)


def _power(base: np.float32, exponent: int) -> np.float32:
    """Multiply repeatedly: the C library's pow is not the same everywhere."""
    result = np.float32(1)
    for _ in range(exponent):
        result = result * base
    return result
