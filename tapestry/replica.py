"""The shared base as every party holds it, and the step from one to the next.

Coordinator and nodes each keep a replica and move it by the published sum of a
round. Since the step is deterministic (``tapestry.outer``), equal logs and equal
sums give equal parameters; a node compares the digest with the log's and so trusts
nobody with the base.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tapestry.errors import VerificationError
from tapestry.outer import OuterState, advance
from tapestry.protocol import RoundManifest
from tapestry.secagg.ring import Encoding, mean
from tapestry.vector import (
    Layout,
    Parameters,
    RingVector,
    parameters_digest,
    tensor_digests,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """Parameters, the outer optimizer's state, and their digests."""

    parameters: Parameters
    hashes: Mapping[str, str]
    digest: str
    optimizer: OuterState = field(default_factory=OuterState)

    @classmethod
    def start(cls, parameters: Parameters) -> "Replica":
        """Start from a given base."""
        hashes = tensor_digests(parameters)
        return cls(
            parameters=parameters,
            hashes=hashes,
            digest=parameters_digest(parameters, hashes),
        )

    def after(
        self,
        total: RingVector,
        *,
        places: tuple[int, ...],
        manifest: RoundManifest,
        layout: Layout,
    ) -> "Replica":
        """Apply the sum of a round.

        Args:
            total: The unmasked sum, shape (d,).
            places: The survivors' places in the manifest, from 1.
            manifest: The round.
            layout: The layout computed here, not the coordinator's word.

        Raises:
            VerificationError: The round starts from another base or layout.
        """
        if manifest.model_digest != self.digest:
            raise VerificationError(
                f"round {manifest.round_number} starts from {manifest.model_digest}, "
                f"here is {self.digest}"
            )
        if (layout.digest, total.size) != (manifest.layout_digest, layout.length):
            raise VerificationError("the sum does not fit the layout computed here")
        parameters, optimizer = advance(
            self.parameters,
            self.optimizer,
            mean=mean(total, encoding=Encoding.of(manifest), places=places),
            layout=layout,
            manifest=manifest,
        )
        kept = {
            name: inner
            for name, inner in self.hashes.items()
            if parameters[name] is self.parameters[name]
        }
        hashes = tensor_digests(parameters, kept)
        return Replica(
            parameters=parameters,
            hashes=hashes,
            digest=parameters_digest(parameters, hashes),
            optimizer=optimizer,
        )
