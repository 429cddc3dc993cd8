"""The operator's leave for the node to begin new work: a round, or an adapter.

What is under way is finished, and what the node owes the others goes on in any case:
it cosigns, takes results, recomputes chunks and answers checks.

======================  ===========================================================
paused                  a file in the node's folder, by ``tapestry node pause``
outside of ``[hours]``  of ``node.toml``
too little disk         ``limits.disk_free_gib`` of ``node.toml``
the member leaves       ``member.left`` is signed here, or in the log
======================  ===========================================================

Guarantees:
    Each is read anew at each offer, so that a command takes effect on a node that runs.
    What cannot be read refuses.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from tapestry.errors import TapestryError
from tapestry.inputs.plain_file import read_plain
from tapestry.protocol.messages import Reason
from tapestry.storage import durable_files
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import MemberLeft
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.refusal import Refused
from tapestry_node.settings import NodeSettings

_PAUSED = "paused"
_LONGEST = 100  # bytes of the file, which holds a time
_TIME = "%Y-%m-%d %H:%M UTC"
GIB = 1 << 30


def pause(folder: Path, *, now: datetime) -> str | None:
    """Let a node begin nothing new; returns since when it was paused before.

    Guarantees:
        It holds on return, also for a node that runs, and until ``resume``.

    Raises:
        ResourceError: The folder cannot be written.
    """
    before = paused_since(folder)
    if before is None:
        said = f"{now.astimezone(UTC):{_TIME}}\n".encode()
        durable_files.replace_file(folder / _PAUSED, said, mode=0o600)
    return before


def resume(folder: Path) -> str | None:
    """Let a node begin work again; returns since when it was paused.

    Raises:
        ResourceError: The folder cannot be written.
    """
    before = paused_since(folder)
    if before is not None:
        durable_files.remove_file(folder / _PAUSED)
    return before


def paused_since(folder: Path) -> str | None:
    """Return since when a node is paused, in words; None if it is not.

    Raises:
        VerificationError: A link, a folder or something else is in the file's place.
        OSError: The file cannot be read.
    """
    path = folder / _PAUSED
    if not (path.exists() or path.is_symlink()):
        return None
    said = read_plain(path, limit=_LONGEST).decode("ascii", "replace").strip()
    return said or "a time that its file does not say"


def obstacles(folder: Path, settings: NodeSettings, now: datetime) -> Iterator[Refused]:
    """Say why the node begins nothing new now, by its operator's own settings."""
    since = paused_since(folder)
    if since is not None:
        said = f"paused since {since}; tapestry node resume ends it"
        yield Refused(Reason.MAINTENANCE, said, code="node-paused")
    hours = settings.hours
    if hours is not None and not hours.is_open(now):
        said = f"the hours of node.toml are {hours.said(now)}"
        yield Refused(Reason.MAINTENANCE, said, code="outside-hours")
    least, free = settings.limits.disk_free_gib, shutil.disk_usage(folder).free
    if free < least * GIB:
        said = (
            f"{free / GIB:.1f} GiB are free on the disk of {folder},"
            f" limits.disk_free_gib is {least}; make room"
        )
        yield Refused(Reason.MAINTENANCE, said, code="disk-free-low")


def exit_obstacle(
    name: str, state: FederationState | None, outbox: Iterable[bytes]
) -> Refused | None:
    """Say that a member left, by the log or by what waits to be handed in."""
    if state is not None and name in state.left:
        said = f"{name!r} left the federation by entry {state.left[name]} of the log"
    elif find_exit(outbox, name) is not None:
        said = f"{name!r} leaves: its member.left waits to be handed in to the log"
    else:
        return None
    return Refused(Reason.LOCAL_POLICY, said, code="member-leaves")


def is_refused(require: Callable[[], object]) -> bool:
    """Return whether a requirement is not met, or cannot be looked at."""
    try:
        require()
    except (TapestryError, OSError):
        return True
    return False


def find_exit(outbox: Iterable[bytes], name: str) -> bytes | None:
    """Return the ``member.left`` of a member among entries, or None.

    Entries of others may wait as well, as any node hands them in.
    """
    for entry in outbox:
        event = open_entry(entry).event
        if isinstance(event.body, MemberLeft) and event.actor == name:
            return entry
    return None
