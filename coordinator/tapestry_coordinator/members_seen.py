"""The members that are connected, in a file that ``coordinator status`` reads.

``members.json`` says who was reachable when its coordinator last looked, and what each
proved to be; it is replaced when that changes. It counts only while a coordinator works
on the folder, since a process that is killed takes nothing back.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeGuard

from pydantic import Field

from tapestry.encoding import decode_decimal
from tapestry.errors import ResourceError, TapestryError
from tapestry.inputs.plain_file import read_plain
from tapestry.protocol.folder_faults import FolderFault
from tapestry.protocol.messages import Identity
from tapestry.schema import Digest, Name, Plain, Strict
from tapestry.storage import durable_files
from tapestry_coordinator.superlink.outcome import is_worked_on

FILE = "members.json"
_MOST_BYTES = 1 << 20
_BEGAN = datetime.now(UTC).isoformat(timespec="seconds")  # this process


class SeenMember(Strict):
    """A member, as it was when the coordinator last looked."""

    name: Name
    here: bool
    # UTC; since when it is here, at the earliest since the start, or away
    changed: Annotated[str, Field(pattern="^[0-9T:+-]{20,30}$")]
    software: Digest  # by its last greeting
    entries: Annotated[int, Field(ge=0)]  # of the log, that it had then
    refuses: FolderFault | None  # everything, by its last greeting
    epsilon_limit: Plain  # of its own policy, by its last greeting


class _SeenMembers(Strict):
    members: Annotated[tuple[SeenMember, ...], Field(max_length=128)]


class MembersFile:
    """The file, for a coordinator that works on its folder."""

    def __init__(self, directory: Path) -> None:
        """Take the coordinator's folder."""
        self._path = directory / FILE
        self._known = _read(self._path)

    def write(self, reachable: Mapping[str, Identity]) -> None:
        """Note who is reachable, if that or what they say has changed.

        Edge cases:
            A disk that is full costs the file, and no round.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        known = {
            name: seen if name in reachable or not seen.here else _gone(seen, now)
            for name, seen in self._known.items()
        }
        for name, said in reachable.items():
            before = self._known.get(name)
            known[name] = SeenMember(
                name=name,
                here=True,
                changed=before.changed if _was_here(before) else now,
                software=said.software,
                entries=said.size,
                refuses=said.refuses,
                epsilon_limit=said.epsilon_limit,
            )
        if known == self._known:
            return
        listed = _SeenMembers(members=tuple(known[name] for name in sorted(known)))
        with suppress(ResourceError):
            durable_files.replace_file(self._path, listed.encode())
            self._known = known


def _was_here(seen: SeenMember | None) -> TypeGuard[SeenMember]:
    """Say whether a member has been here since before, under this process."""
    return seen is not None and seen.here and seen.changed >= _BEGAN


def _gone(seen: SeenMember, now: str) -> SeenMember:
    return seen.model_copy(update={"here": False, "changed": now})


def read_members(directory: Path) -> dict[str, SeenMember] | None:
    """Return the members that were ever seen; None while no coordinator works."""
    return _read(directory / FILE) if is_worked_on(directory) else None


def own_limits(directory: Path) -> dict[str, float]:
    """Return the epsilon that each member allows itself, by its last greeting.

    Edge cases:
        A member that was never seen has none here.
    """
    seen = _read(directory / FILE)
    return {name: decode_decimal(seen[name].epsilon_limit) for name in seen}


def _read(path: Path) -> dict[str, SeenMember]:
    try:
        found = _SeenMembers.decode(read_plain(path, limit=_MOST_BYTES)).members
    except (OSError, TapestryError):  # not yet there, or damaged: it is written anew
        return {}
    return {each.name: each for each in found}
