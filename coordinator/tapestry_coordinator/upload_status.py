"""The uploads of the round that is under way, by what its run told of its progress.

The coordinator takes an upload when all of it is there, so that there is no share of
it to tell, and no rate: a node has been asked, or its upload has come and was accepted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tapestry_coordinator.uploads import Uploads

_ASKED, _BEFORE = "collect_masked_inputs", "share_keys"
_OVER = {"close", "open"}
_MB = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadStatus:
    """The upload of a node that was asked for one."""

    node: str
    asked: str  # UTC
    seconds: float | None  # from then until it was accepted; None while it is awaited
    bytes: int | None  # of its masked vector; None while it is awaited, or once erased

    def __str__(self) -> str:
        """Return it as a line of text, which stays the same until the upload comes."""
        if self.seconds is None:
            return f"{self.node:<11} upload awaited since {self.asked}"
        size = "" if self.bytes is None else f", {self.bytes / _MB:.1f} MB"
        return f"{self.node:<11} upload arrived after {self.seconds:.1f} s{size}"


def uploads_of(
    events: Iterable[Mapping[str, Any]], folder: Path
) -> tuple[UploadStatus, ...]:
    """Tell the uploads of the last round in a run's progress; none once it is over.

    Edge cases:
        A round that is tried again under its number begins anew. A line that another
        release wrote, without its time, tells of none.
    """
    sealed: set[str] = set()
    came: dict[str, float] = {}
    asked, number = 0.0, 0
    for event in events:
        stage, node, moment = map(event.get, ("round_stage", "node", "time"))
        if stage in _OVER or "text" in event:
            sealed, came, asked = set(), {}, 0.0
        elif stage == _BEFORE and isinstance(node, str):
            sealed.add(node)
        elif stage == _ASKED and isinstance(moment, float):
            if node is None:
                asked, number = moment, int(event.get("round", 0))
            else:
                came[node] = moment
    if not asked:
        return ()
    sizes = Uploads(folder).sizes(number)
    return tuple(
        UploadStatus(
            node=node,
            asked=datetime.fromtimestamp(asked, UTC).isoformat(timespec="seconds"),
            seconds=round(max(came[node] - asked, 0), 1) if node in came else None,
            bytes=sizes.get(node) if node in came else None,
        )
        for node in sorted(sealed)
    )
