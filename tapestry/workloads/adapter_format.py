"""Adapters as a workload publishes them, and the facts that every adapter has."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tapestry.protocol.round_manifest import TrainingPlan
from tapestry.vectors import FloatVector
from tapestry.workloads.data_manifest import DataManifest, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseName:
    """The release that an adapter belongs to."""

    name: str
    digest: str  # its identity


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPromise:
    """The privacy of an adapter that was trained with noise; decimals as in the log."""

    unit: str  # a record, or a person
    epsilon: str  # of all that was spent until then on what it was trained on
    ancestry_epsilon: str | None  # of its training and its base's rounds; None: untold
    fallback: str | None  # if all others collude; None: the same
    target_delta: str
    clip_norm: str
    noise_multiplier: str
    sampling_rate: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """The facts of an adapter that do not depend on its workload."""

    name: str
    version: int
    country: str
    language: str
    domain: str  # and this: what it is for; empty: not told
    region: str
    licence: str
    data: DataManifest
    base: BaseName
    promise: AdapterPromise | None  # None: trained without noise


class AdapterFormat(Protocol):
    """A workload's format of adapters, in which it publishes low-rank updates."""

    def repeated(
        self, public: Sequence[Record], private: Iterable[Record]
    ) -> list[int]:
        """Return the places of public data that would publish a private record.

        ``private`` holds records and the rows that they are joined from.
        """
        ...

    def read_public(
        self, folder: Path, *, repeated: Callable[[Sequence[Record]], list[int]]
    ) -> list[Record]:
        """Read the public data of a node's folder and refuse what would spoil a card.

        Raises:
            ConfigError: A line cannot be read or scored, or repeats a record.
        """
        ...

    def write(
        self,
        folder: Path,
        update: FloatVector,
        *,
        plan: TrainingPlan,
        facts: AdapterFacts,
        public: Sequence[Record],
    ) -> dict[str, str]:
        """Write the adapter's files and card, and return its scores for the log.

        The base's parameters are loaded, and the scores are on the public data.

        Raises:
            ResourceError: The folder cannot be written.
        """
        ...
