"""Marks of a node's uploads: for which round, on which base, with which cohort."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from tapestry.protocol.round_manifest import RoundManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadMark:
    """One upload that left, or was about to."""

    run: str
    round_number: int
    base: str  # digest
    noise: str
    participants: tuple[str, ...]
    threshold: int
    max_colluding: int

    @classmethod
    def of(cls, manifest: RoundManifest) -> Self:
        """Read off the round that a node uploads for."""
        return cls(
            run=manifest.run_id,
            round_number=manifest.round_number,
            base=manifest.model_digest,
            noise=manifest.privacy.noise,
            participants=tuple(each.name for each in manifest.participants),
            threshold=manifest.threshold,
            max_colluding=manifest.max_colluding,
        )

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Self:
        """Read the fields that ``body`` wrote."""
        return cls(**{**fields, "participants": tuple(fields["participants"])})

    def body(self) -> dict[str, Any]:
        """The fields of an entry."""
        return {**asdict(self), "participants": list(self.participants)}
