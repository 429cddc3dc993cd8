"""The charges of a privacy ledger, as the entries of a node's state hold them."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, Self

from tapestry.encoding import decode_decimal, encode_decimal
from tapestry.privacy import accounting

Purpose = Literal["round", "adapter", "evaluation"]
Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One thing that leaves, and the steps on the records it was made from."""

    purpose: Purpose
    run: str  # run of a round, name of an adapter
    number: int  # round of a run, version of an adapter
    steps: accounting.Steps
    own_multiplier: float  # of the noise that is the node's own; the rest is others'
    blocks: tuple[int, ...] = (1,)  # of the units that were trained on, in order

    @property
    def fallback(self) -> accounting.Steps:
        """The steps by the node's own noise alone, if all others take theirs out."""
        return replace(self.steps, noise_multiplier=self.own_multiplier)

    @property
    def key(self) -> Key:
        """The name under which it is charged once."""
        return (self.purpose, self.run, self.number)

    @property
    def title(self) -> str:
        """The name of it in a message."""
        return f"{self.purpose} {self.number} of {self.run!r}"

    def body(self) -> dict[str, Any]:
        """The fields of an entry; the inverse of ``parse``."""
        return {
            "purpose": self.purpose,
            "run": self.run,
            "number": self.number,
            "noise_multiplier": encode_decimal(self.steps.noise_multiplier),
            "own_multiplier": encode_decimal(self.own_multiplier),
            "sampling_rate": encode_decimal(self.steps.sampling_rate),
            "steps": self.steps.steps,
            "coordinates": self.steps.coordinates,
            "bound": encode_decimal(self.steps.bound),
            "blocks": list(self.blocks),
        }

    def is_like(self, other: "Charge") -> bool:
        """Return whether another charge is the same, on whatever blocks."""
        return replace(self, blocks=other.blocks) == other

    @classmethod
    def parse(cls, entry: dict[str, Any]) -> Self:
        """Read the fields that ``body`` wrote."""
        return cls(
            purpose=entry["purpose"],
            run=entry["run"],
            number=entry["number"],
            steps=accounting.Steps(
                noise_multiplier=decode_decimal(entry["noise_multiplier"]),
                sampling_rate=decode_decimal(entry["sampling_rate"]),
                steps=entry["steps"],
                coordinates=entry["coordinates"],
                bound=decode_decimal(entry["bound"]),
            ),
            own_multiplier=decode_decimal(entry["own_multiplier"]),
            blocks=tuple(entry["blocks"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeRecord:
    """A charge as it stands."""

    charge: Charge
    state: Literal["reserved", "spent"]
    number: int  # of the entry that says so
    time: datetime
