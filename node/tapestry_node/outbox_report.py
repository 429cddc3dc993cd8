"""The entries that wait for the log, read from files for the node's operator.

It needs no replay of state or log, so that ``node status`` tells it within a second,
whatever their length; and it takes the place of no check, as nothing is verified.

Guarantees:
    It tells types of entries, counts and times, and nothing of what is in them.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tapestry.errors import TapestryError, VerificationError
from tapestry.protocol.messages import Kind
from tapestry.storage.sqlite_database import open_database
from tapestry.tlog.merkle import leaf_hash
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import KeyRotated

_ENTRIES = """
SELECT body FROM entries
WHERE instr(body, ?) OR instr(body, ?) OR instr(body, ?) ORDER BY number
"""
_TYPES = (b'"type":"account"', b'"type":"post"', b'"type":"clear"')
_HEAD = "SELECT time FROM egress WHERE kind = ? ORDER BY number DESC LIMIT 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxReport:
    """The entries of an outbox that the log lacks, as far as this folder knows."""

    kinds: Mapping[str, int] = field(default_factory=dict)  # type -> number
    others: int = 0  # of them, of other members
    oldest: datetime | None = None  # when the one that waits longest came
    head: datetime | None = None  # when the last head was sent
    rotations: Mapping[str, str] = field(default_factory=dict)  # purpose -> reason

    @property
    def count(self) -> int:
        """The number of entries that wait."""
        return sum(self.kinds.values())


def follow_outbox(
    outbox: dict[bytes, datetime], entry: Mapping[str, Any], time: datetime
) -> None:
    """Put an entry for the log into an outbox, or take it out, as a row says.

    Raises:
        KeyError, ValueError: The row has no entry, or clears one that is not there.
    """
    match entry["type"]:
        case "account" | "post":
            outbox[bytes.fromhex(entry["entry"])] = time
        case "clear":
            del outbox[bytes.fromhex(entry["entry"])]


def read_outbox(folder: Path, *, name: str) -> OutboxReport:
    """Read what a member's node has for the log; nothing is changed.

    Edge cases:
        What the log has by now, and the node has not cleared yet, does not wait.

    Raises:
        VerificationError: A database is damaged, or a row not as a node writes it.
        ResourceError: A database cannot be read.
    """
    path = folder / "node.db"
    if not path.exists():
        return OutboxReport()
    database = open_database(path, None, readonly="still", check=False)
    try:
        rows = database.query(_ENTRIES, *_TYPES)
        sent = database.query(_HEAD, Kind.COSIGNATURE.value)
        waiting = dict(_lacking(folder / "view.db", _replayed(rows)))
        events = [open_entry(entry).event for entry in waiting]
        head = datetime.fromisoformat(sent[0][0]) if sent else None
    except (TypeError, ValueError, KeyError):  # they quote the row
        raise VerificationError(
            f"{path} was changed: a row is not as a node writes it; put the newest"
            " copy back",
            code="state-changed",
        ) from None
    finally:
        database.close()
    own = [event for event in events if event.actor == name]
    bodies = [event.body for event in own if isinstance(event.body, KeyRotated)]
    return OutboxReport(
        kinds=dict(sorted(Counter(event.type for event in events).items())),
        others=len(events) - len(own),
        oldest=min(waiting.values(), default=None),
        head=head,
        rotations={body.purpose: body.reason for body in bodies},
    )


def _replayed(rows: list[Any]) -> dict[bytes, datetime]:
    found: dict[bytes, datetime] = {}
    for (body,) in rows:
        entry = json.loads(body)
        follow_outbox(found, entry, datetime.fromisoformat(entry["time"]))
    return found


def _lacking(
    mirror: Path, waiting: Mapping[bytes, datetime]
) -> Iterator[tuple[bytes, datetime]]:
    """Yield what the mirror of the log lacks."""
    if not waiting or not mirror.exists():
        yield from waiting.items()
        return
    database = open_database(mirror, None, readonly="still", check=False)
    try:
        for entry, since in waiting.items():
            leaf = leaf_hash(entry)
            if not database.query("SELECT 1 FROM entry WHERE leaf = ? LIMIT 1", leaf):
                yield entry, since
    finally:
        database.close()


def try_outbox(folder: Path, *, name: str) -> OutboxReport | TapestryError:
    """Read the outbox, or return why it cannot be read."""
    try:
        return read_outbox(folder, name=name)
    except TapestryError as error:
        return error
