"""A coordinator's log that was restored from a backup, and what it waits for.

A log that is older than what members mirror must not be appended to: the entries would
fork it. Its own files cannot tell. So whoever restores one leaves a mark, and until
every member has told how much it mirrors, the log opens for asking alone. One that has
left the federation may never come back: it is asked if it is here.
"""

import logging
import time
from contextlib import closing
from pathlib import Path

from tapestry.errors import InconsistentLog, ResourceError, TapestryError
from tapestry.protocol.messages import Identity
from tapestry.storage import durable_files
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.led_log import MARKER, LedLog, open_led_log

__all__ = ["MARKER", "hear_members"]

_logger = logging.getLogger(__name__)
_SECONDS = 60.0  # that a member may take to answer
_LOOK_SECONDS = 1.0


def hear_members(directory: Path, grid: Grid) -> None:
    """Ask every member how much of a restored log it mirrors, and take the mark away.

    It waits for members that are away, but for those that have left by this log.
    Without a mark it returns at once.

    Guarantees:
        On return no member that told mirrors more than this log has, and each agreed
        checkpoint that one holds is one of this log. Nothing was appended or signed
        meanwhile.

    Edge cases:
        A member that lies about its size keeps the coordinator from going on; it is
        named, and its checkpoint would show whether it lies.

    Raises:
        InconsistentLog: A member mirrors more, or another log.
        ResourceError: A file cannot be read or written.
    """
    if not (directory / MARKER).exists():
        return
    log = open_led_log(directory, grid, deadline=_SECONDS, restored=True)
    with closing(log):
        state = log.publisher.state
        missing, left, told = set(state.active), set(state.left), ""
        while missing:
            for name, said in log.members.greet(
                (missing | left) & set(log.members.nodes()), deadline=_SECONDS
            ):
                if _agrees(log, name, said):
                    missing.discard(name)
                    left.discard(name)
            names = ", ".join(sorted(missing))
            if names and names != told:
                _logger.warning(
                    "the log was restored; nothing is appended before %s told how much"
                    " of it they mirror",
                    names,
                )
            told = names
            time.sleep(_LOOK_SECONDS if missing else 0)
    durable_files.remove_file(directory / MARKER)


def _agrees(log: LedLog, name: str, said: Identity) -> bool:
    """Compare what a member mirrors; False if it says nonsense.

    Raises:
        InconsistentLog: The member mirrors more, or another log.
    """
    note = None if said.checkpoint is None else said.checkpoint.encode()
    try:
        log.publisher.record_mirror_size(name, said.size, note)
    except (InconsistentLog, ResourceError):
        raise
    except TapestryError as error:
        _logger.warning("leaving node %s out, bad hello: %s", name, error)
        return False
    if said.size > log.publisher.log.size:
        raise InconsistentLog(
            f"node {name} mirrors {said.size} entries, this log has"
            f" {log.publisher.log.size}: it was restored from a backup, and members'"
            " mirrors lead; put the newest copy back",
            code="log-restored",
        )
    return True
