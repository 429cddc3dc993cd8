"""A replica of the shared base, and its step from one round to the next.

Coordinator and nodes each keep a replica and move it by the published sum of a
round. Since the step is deterministic (``tapestry.model.outer_optimizer``), equal logs
and equal sums give equal parameters; a node compares its digest with the log's and so
needs to trust no other party with the base.

A tensor is held in the type that the given base has it in, until a round moves it. From
then on it is float32 to the end of the run, so that steps add up which one rounding
each would lose. A release holds each tensor in the given base's type again:
``rounded`` is that model, and rounding happens there and nowhere else.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from tapestry.artifacts.model_identity import ModelContent, ModelManifest
from tapestry.encoding import decode_decimal
from tapestry.errors import ProtocolError, VerificationError
from tapestry.model.outer_optimizer import OuterState, advance
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.secagg.quantization import Encoding, check_sum, mean
from tapestry.tensor_types import Stored, narrow, type_name, widen
from tapestry.vectors import (
    Layout,
    Parameters,
    RingVector,
    parameters_digest,
    tensor_digests,
)

_BLOCK = 1 << 16  # coordinates squared at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The norm of a round's mean update, and the reason not to apply it, if any."""

    norm: float  # 0 when the sum is out of range
    fault: Literal["sum_out_of_range", "norm_too_large"] | None


def measure(total: RingVector, *, survivors: int, manifest: RoundManifest) -> Measured:
    """Compare a sum of shape (d,) with the range and the norm that the plan allows.

    Guarantees:
        Coordinator and nodes find the same: squares are added as whole numbers, and
        root and factor are rounded once each, so the norm is equal everywhere.
    """
    encoding = Encoding.of(manifest)
    try:
        check_sum(total, encoding=encoding, survivors=survivors)
    except ProtocolError:
        return Measured(norm=0.0, fault="sum_out_of_range")
    factor = 1 / survivors / 2**encoding.scale_bits
    norm = math.sqrt(squares(total)) * factor
    fits = norm <= decode_decimal(manifest.outer.max_norm)
    return Measured(norm=norm, fault=None if fits else "norm_too_large")


def squares(total: RingVector) -> int:
    """Add the squares of signed coordinates, exactly: in halves, which do not wrap."""
    found = 0
    for start in range(0, total.size, _BLOCK):
        wide = total[start : start + _BLOCK].view(np.int32).astype(np.int64)
        squares = (wide * wide).view(np.uint64)
        found += int((squares >> np.uint64(32)).sum()) << 32
        found += int((squares & np.uint64(0xFFFFFFFF)).sum())
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """Parameters, the outer optimizer's state, and what they are called."""

    parameters: Parameters
    hashes: Mapping[str, str]  # of the parameters
    manifest: ModelManifest  # of the model with these parameters
    types: Mapping[str, str]  # of the given base's tensors
    released: ModelManifest  # of the model that a release would hold
    optimizer: OuterState = field(default_factory=OuterState)

    @classmethod
    def start(cls, given: ModelContent) -> "Replica":
        """Start from a given base."""
        manifest = given.manifest
        return cls(
            parameters=given.tensors,
            hashes=tensor_digests(given.tensors, given.hashes),
            manifest=manifest,
            types={name: type_name(tensor) for name, tensor in given.tensors.items()},
            released=manifest,
        )

    @property
    def digest(self) -> str:
        """The identity of the model with these parameters."""
        return self.manifest.digest

    @property
    def release_digest(self) -> str:
        """The identity of the model that a release would hold."""
        return self.released.digest

    def rounded(self) -> Parameters:
        """Return the parameters that a release would hold, in the base's types."""
        return {n: self._rounded(n, tensor) for n, tensor in self.parameters.items()}

    def _rounded(self, name: str, tensor: Stored) -> Stored:
        if type_name(tensor) == self.types[name]:
            return tensor
        return narrow(widen(tensor), self.types[name])

    def of_release(self) -> "Replica":
        """Return the replica with which a run starts that goes on from this release."""
        parameters = self.rounded()
        kept = {
            name: inner
            for name, inner in self.hashes.items()
            if parameters[name] is self.parameters[name]
        }
        return self.moved(parameters, known=kept, optimizer=OuterState())

    def after(
        self,
        total: RingVector,
        *,
        survivors: int,
        manifest: RoundManifest,
        layout: Layout,
    ) -> "Replica":
        """Apply the sum of a round, of shape (d,) in the layout that was computed here.

        Raises:
            VerificationError: The round starts from another base, or the sum has
                another length or layout than this base.
        """
        if manifest.model_digest != self.digest:
            raise VerificationError(
                f"round {manifest.round_number} starts from base"
                f" {manifest.model_digest}; the base here is {self.digest}",
                code="base-differs",
            )
        if (layout.digest, total.size) != (manifest.layout_digest, layout.length):
            raise VerificationError(
                f"round {manifest.round_number}: a sum of {total.size} coordinates and"
                f" layout {manifest.layout_digest}; the layout computed here has"
                f" {layout.length} and digest {layout.digest}",
                code="layout-differs",
            )
        parameters, optimizer = advance(
            self.parameters,
            self.optimizer,
            mean=mean(total, encoding=Encoding.of(manifest), survivors=survivors),
            layout=layout,
            manifest=manifest,
        )
        kept = {
            name: inner
            for name, inner in self.hashes.items()
            if parameters[name] is self.parameters[name]
        }
        return self.moved(parameters, known=kept, optimizer=optimizer)

    def moved(
        self, parameters: Parameters, *, known: Mapping[str, str], optimizer: OuterState
    ) -> "Replica":
        """Return the replica with other tensors; ``known`` hashes are not computed."""
        hashes = tensor_digests(parameters, known)
        after = replace(self, parameters=parameters, hashes=hashes, optimizer=optimizer)
        manifest = self._named(parameters, hashes)
        same = {
            n: h for n, h in hashes.items() if type_name(parameters[n]) == self.types[n]
        }
        released = manifest
        if len(same) < len(hashes):
            released = self._named(after.rounded(), same)
        return replace(after, manifest=manifest, released=released)

    def _named(self, parameters: Parameters, known: Mapping[str, str]) -> ModelManifest:
        found = parameters_digest(parameters, known)
        return self.manifest.model_copy(update={"parameters": found})
