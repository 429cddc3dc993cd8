"""A tap in the coordinator's place, which tests what the coordinator could see.

The tap counts the bytes of each upload: masked vectors are uniform, so a chi-squared
test finds uploads that masks did not hide. In every reply it looks for pieces of
private text, if it is given some.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import stats

from tapestry.errors import ConfigError
from tapestry.protocol.messages import LEADING_ENTRIES, Kind, Message
from tapestry_coordinator.grid import Grid


@dataclass(slots=True, kw_only=True)
class WireTap:
    """The counts of all replies that passed."""

    counts: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(256, dtype=np.int64)
    )
    uploads: int = 0
    kinds: set[str] = field(default_factory=set)
    wanted: tuple[bytes, ...] = ()  # private text to look for; it is never saved
    searched: int = 0  # how many pieces of private text were looked for
    found: int = 0  # how many times a reply held one of them

    def listen(self, grid: Grid) -> Grid:
        """Put the tap in front of a grid."""
        return _Tapped(grid, self)

    def take(self, reply: Message) -> None:
        """Count a reply as the coordinator receives it."""
        self.kinds.add(reply.kind.value)
        self._search(reply)
        if reply.kind is not Kind.MASKED_INPUT:
            return
        self.uploads += 1
        for chunk in reply.attachments[LEADING_ENTRIES:]:
            data = np.frombuffer(chunk, dtype=np.uint8)
            self.counts += np.bincount(data, minlength=256)

    def _search(self, reply: Message) -> None:
        self.searched = max(self.searched, len(self.wanted))
        for part in (reply.body, *reply.attachments):
            data = bytes(part)
            self.found += sum(text in data for text in self.wanted)

    def state(self) -> dict[str, Any]:
        """Return the counts, for ``restore`` in another process."""
        return {
            "counts": self.counts.tolist(),
            "uploads": self.uploads,
            "kinds": sorted(self.kinds),
            "searched": self.searched,
            "found": self.found,
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """Go on from the counts of another process; an empty state is a new tap.

        Raises:
            ConfigError: The state is not one that ``state`` returns.
        """
        if not state:
            return cls()
        try:
            counts = np.asarray(state["counts"], dtype=np.int64).reshape(256)
            uploads, kinds = int(state["uploads"]), set(map(str, state["kinds"]))
            searched, found = int(state["searched"]), int(state["found"])
        except (ValueError, KeyError, TypeError, OverflowError):
            raise ConfigError(
                "the tap's state in demo.json is damaged: begin again elsewhere",
                code="demo-record-invalid",
            ) from None
        return cls(
            counts=counts,
            uploads=uploads,
            kinds=kinds,
            searched=searched,
            found=found,
        )

    @property
    def p_value(self) -> float | None:
        """The p-value of a chi-squared test for uniform bytes; None without uploads."""
        if not self.counts.any():
            return None
        return float(stats.chisquare(self.counts).pvalue)


class _Tapped:
    """A grid whose replies the tap counts."""

    def __init__(self, grid: Grid, tap: WireTap) -> None:
        self._grid, self._tap = grid, tap

    def nodes(self) -> list[str]:
        return self._grid.nodes()

    def exchange(
        self, requests: Mapping[str, Message], *, deadline: float
    ) -> Iterator[tuple[str, Message]]:
        for name, reply in self._grid.exchange(requests, deadline=deadline):
            self._tap.take(reply)
            yield name, reply
