"""The status of a node for its operator, whether or not its process runs.

It is put together from ``status.json``, which the process leaves behind, and from what
the folder says by itself: the lock, the pause, the hours, the disk, the outbox and the
keys that wait. Nothing is replayed or dialled, so a probe may ask for it every few
seconds.
"""

import os
import shutil
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from tapestry.errors import TapestryError
from tapestry_governance.key_turn import NEXT, PURPOSES
from tapestry_node.availability import GIB, paused_since
from tapestry_node.outbox_report import OutboxReport, try_outbox
from tapestry_node.settings import NodeSettings
from tapestry_node.status_file import Told, is_served, read_told

_TIME = "%Y-%m-%d %H:%M %Z"
_UNITS = ((86_400, "days"), (3_600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, slots=True)
class StatusLine:
    """A line of the status; what it says is news only if ``news`` changes."""

    label: str
    text: str
    news: Hashable = None

    def __str__(self) -> str:
        return f"{self.label:<11} {self.text}"


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """A node's work, wants and means; read it with ``read_node_status``."""

    settings: NodeSettings
    told: Told
    served: bool
    paused: str | None  # since when
    exit_file: Path | None
    disk_free: int  # bytes
    outbox: OutboxReport | TapestryError  # or why it cannot be read
    new_keys: tuple[str, ...]  # purposes of those that lie beside the present ones
    now: datetime

    @property
    def state(self) -> str:
        """The state of the process; ``killed`` if it left no word about its end."""
        is_over = self.told.state in {"stopped", "failed"}
        if self.served:
            return "starting" if is_over else self.told.state
        if not self.told.since:
            return "never started"
        return self.told.state if is_over else "killed"

    @property
    def ready(self) -> bool:
        """True if a process serves the folder and is connected."""
        return self.state == "connected"

    @property
    def leaves(self) -> str | None:
        """That the institution leaves, in words, or None."""
        if self.told.log is not None and self.told.log.left is not None:
            return self.told.log.left
        return None if self.exit_file is None else f"{self.exit_file} is signed"

    @property
    def rests(self) -> bool:
        """True if the node begins no round now, by what the folder says."""
        hours, least = self.settings.hours, self.settings.limits.disk_free_gib
        closed = hours is not None and not hours.is_open(self.now)
        is_low = self.disk_free < least * GIB
        return bool(self.paused or self.leaves or closed or is_low)

    @cached_property
    def checkpoint_age(self) -> int | None:
        """The age of the checkpoint that was accepted last, in seconds."""
        log = self.told.log
        if log is None or log.cosigned is None:
            return None
        return max(int(self.now.timestamp()) - log.cosigned, 0)

    @cached_property
    def certificate_days(self) -> int | None:
        """The days that the certificate is valid which the SuperLink showed last."""
        ends = self.told.certificate_ends
        return None if ends is None else (datetime.fromisoformat(ends) - self.now).days

    @cached_property
    def rotations(self) -> dict[str, str]:
        """The rotations that are under way: purpose, and how far each is, in words."""
        log, posted = self.told.log, self.outbox
        ask = "its key is made; tapestry node rotate says how far it is"
        found = dict.fromkeys(self.new_keys, ask)
        for each in () if log is None else log.rotations:
            found[each.purpose] = f"entry {each.entry} of the log, not in force yet"
        if isinstance(posted, OutboxReport):
            for purpose, reason in posted.rotations.items():
                found[purpose] = f"in the outbox, {reason}"
        return dict(sorted(found.items()))

    def news(self) -> Iterator[Hashable]:
        """Yield for each line what makes it worth telling again."""
        for line in self.lines():
            yield line.label, line.text if line.news is None else line.news

    def lines(self) -> Iterator[StatusLine]:
        """Yield the status as lines of text."""
        settings, told = self.settings, self.told
        yield StatusLine("node", f"{settings.name} of federation {settings.federation}")
        yield StatusLine(self.state, self._connection())
        if self.served:
            yield StatusLine("work", self._work())
            if (refusal := told.refusal) is not None:
                said = f"{refusal.words} [{refusal.code}]"
                since = f"{refusal.kind} since {_local(refusal.since)}"
                yield StatusLine("refused", f"{since}: {said}")
        if (leaves := self.leaves) is not None:
            yield StatusLine("leaves", leaves)
        yield StatusLine("paused", f"since {self.paused}" if self.paused else "no")
        yield StatusLine("hours", self._hours())
        yield StatusLine("budget", self._budget())
        yield self._log()
        if told.log is not None and told.log.release is not None:
            yield StatusLine("release", told.log.release)
        yield self._waiting()
        for purpose, said in self.rotations.items():
            yield StatusLine("new key", f"{purpose}: {said}")
        yield self._disk()
        days = self.certificate_days
        known = (
            "not seen yet" if days is None else f"of the SuperLink: {days} days left"
        )
        yield StatusLine("certificate", known)

    def to_json(self) -> dict[str, Any]:
        """Return the status as a JSON object."""
        hours, told = self.settings.hours, self.told
        turn = None if hours is None else hours.turn(self.now)
        return {
            "name": self.settings.name,
            "federation": self.settings.federation,
            "ready": self.ready,
            "rests": self.rests,
            **told.model_dump(mode="json"),
            "state": self.state,
            "leaves": self.leaves,
            "paused": self.paused,
            "hours_open": hours is None or hours.is_open(self.now),
            "hours_turn": None if turn is None else turn.isoformat(),
            "checkpoint_age": self.checkpoint_age,
            "certificate_days": self.certificate_days,
            "disk_free": self.disk_free,
            "disk_least": self.settings.limits.disk_free_gib * GIB,
            "outbox": self._outbox_json(),
            "rotations": self.rotations,
        }

    def _outbox_json(self) -> dict[str, Any]:
        found = self.outbox
        if isinstance(found, TapestryError):
            return {"count": None, "code": found.code}
        return {
            "count": found.count,
            "code": None,
            "others": found.others,
            "kinds": dict(found.kinds),
            "oldest_age": self._age(found.oldest),
            "head_age": self._age(found.head),
        }

    def _age(self, moment: datetime | None) -> int | None:
        if moment is None:
            return None
        return max(int((self.now - moment).total_seconds()), 0)

    def _connection(self) -> str:
        told, since = self.told, _local(self.told.since)
        why = "" if told.words is None else f"{told.words} [{told.code}]"
        return {
            "starting": f"since {since}: it reads base and records",
            "connected": f"to {told.superlink} since {since}",
            "waiting": f"for the coordinator since {since}: {why}",
            "refusing": f"everything since {since}, for {why}",
            "failed": f"the last start ended {since}: {why}",
            "stopped": f"since {since}",
            "killed": f"it was {told.state} from {since} on, and left no word why",
        }.get(self.state, "tapestry node run was never called here")

    def _work(self) -> str:
        work = self.told.work
        if work is None:
            waits = "waits for the next round" if self.ready else "none"
            return "rests: it begins no round" if self.rests else waits
        what = (
            "the adapter" if work.round is None else f"round {work.round} of {work.run}"
        )
        count = f", step {work.done} of {work.total}" if work.total else ""
        return f"{what}: {work.stage}{count}"

    def _hours(self) -> str:
        hours = self.settings.hours
        return "any" if hours is None else hours.said(self.now)

    def _budget(self) -> str:
        budget = self.told.budget
        if budget is None:
            return "not known before the first start"
        if budget.spent is None:
            return "no epsilon holds: something was trained without noise"
        left = budget.rounds_left
        fit = "" if left is None else f", {left} rounds like the last one fit"
        return f"epsilon {budget.spent:.4f} of {budget.limit:g} is spent{fit}"

    def _log(self) -> StatusLine:
        log, age = self.told.log, self.checkpoint_age
        if log is None or not log.entries:
            return StatusLine("log", "none seen yet")
        if age is None:
            said = "none of its checkpoints was accepted yet"
            return StatusLine("log", f"{log.entries} entries, {said}")
        is_old = age > log.max_age
        said = f"checkpoint {_span(age)} old, of at most {_span(log.max_age)}"
        more = "; the next offer has to bring a newer one" if is_old else ""
        news = (log.entries, is_old)
        return StatusLine("log", f"{log.entries} entries, {said}{more}", news)

    def _waiting(self) -> StatusLine:
        """Say what waits for the log, and when the last head of the outbox was sent."""
        found = self.outbox
        if isinstance(found, TapestryError):
            said = f"it cannot be read: {found} [{found.code}]"
            return StatusLine("outbox", said)
        age, oldest = self._age(found.head), self._age(found.oldest)
        head = "no head was sent yet" if age is None else f"last head {_span(age)} ago"
        if oldest is None:
            return StatusLine("outbox", f"empty; {head}", "empty")
        kinds = ", ".join(f"{n} {kind}" for kind, n in found.kinds.items())
        theirs = f", {found.others} of other members" if found.others else ""
        said = f"{kinds} wait for the log, up to {_span(oldest)}{theirs}; {head}"
        return StatusLine("outbox", said, tuple(found.kinds.items()))

    def _disk(self) -> StatusLine:
        least, free = self.settings.limits.disk_free_gib, self.disk_free / GIB
        is_low = free < least
        limit = f", limits.disk_free_gib is {least}" if least else ""
        more = ": no new work" if is_low else ""
        return StatusLine("disk", f"{free:.1f} GiB free{limit}{more}", is_low)


def read_node_status(folder: Path, *, now: datetime) -> NodeStatus:
    """Read the status of a node; nothing is written.

    Raises:
        ConfigError: ``node.toml`` is missing or invalid.
        VerificationError: The file of the pause is no plain file.
        ResourceError: The lock file cannot be opened.
        OSError: The folder cannot be read.
    """
    settings = NodeSettings.read(folder / "node.toml")
    exit_file, keys = folder / f"{settings.name}.left", folder / "keys"
    return NodeStatus(
        settings=settings,
        served=is_served(folder),
        told=read_told(folder) or Told(state="starting", since=""),
        paused=paused_since(folder),
        exit_file=exit_file if os.path.lexists(exit_file) else None,
        disk_free=shutil.disk_usage(folder).free,
        outbox=try_outbox(folder, name=settings.name),
        new_keys=tuple(each for each in PURPOSES if (keys / f"{each}{NEXT}").exists()),
        now=now,
    )


def _local(time: str) -> str:
    """Spell a time of ``status.json``."""
    return f"{datetime.fromisoformat(time).astimezone(UTC):{_TIME}}" if time else "?"


def _span(seconds: int) -> str:
    """Spell a span in the largest unit of which it has two."""
    size, unit = next((u for u in _UNITS if seconds >= 2 * u[0]), _UNITS[-1])
    return f"{seconds // size} {unit}"
