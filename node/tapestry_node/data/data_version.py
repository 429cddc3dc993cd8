"""A version of an institution's data, as the entries of a node's state hold it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import numpy as np

from tapestry.encoding import canonical_json, digest

INTERVAL = timedelta(days=7)
"""Between two versions: how many persons come and go in a day tells about persons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataVersion:
    """One version; all but ``dataset`` and ``register`` is what the log gets."""

    version: int
    block: int  # the newest; it came with this version, or with one before
    records: int  # units of the blocks that are trained on, rounded down
    withdrawn: int  # units that left since the version before, rounded down
    trains: tuple[int, ...]  # blocks that are trained on; the budget of others is spent
    dataset: str  # digest that the log gets salted
    register: str  # digest of the register of units
    time: datetime

    def body(self) -> dict[str, Any]:
        """The fields of an entry, but for its time; the inverse of ``parse``."""
        return {
            "version": self.version,
            "block": self.block,
            "records": self.records,
            "withdrawn": self.withdrawn,
            "trains": list(self.trains),
            "dataset": self.dataset,
            "register": self.register,
        }

    @classmethod
    def parse(cls, entry: dict[str, Any]) -> Self:
        """Read the fields that ``body`` wrote."""
        return cls(
            version=entry["version"],
            block=entry["block"],
            records=entry["records"],
            withdrawn=entry["withdrawn"],
            trains=tuple(entry["trains"]),
            dataset=entry["dataset"],
            register=entry["register"],
            time=datetime.fromisoformat(entry["time"]),
        )

    def is_due(self, now: datetime) -> bool:
        """Return whether the next version may follow."""
        return now >= self.time + INTERVAL


def dataset_digest(description: dict[str, Any], digests: bytes) -> str:
    """Digest some records and what is public of their manifest.

    Args:
        description: Of the manifest.
        digests: SHA-256 of each record, 32 bytes each, in any order.
    """
    inner = np.sort(np.frombuffer(digests, "S32")).tobytes()
    return digest(canonical_json([description, digest(inner)]))


def commitment(dataset: str, salt: bytes) -> str:
    """Commit to the digest of a dataset; opened to an auditor by telling the salt."""
    if len(salt) != 32:
        raise ValueError("a salt has 32 bytes")
    return digest(salt + dataset.encode())
