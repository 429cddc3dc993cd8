"""The processes that descend from this one, found by a mark in their environment.

Flower's programs start further programs in new sessions, and some outlive their
parents. All of them inherit the environment. So a mark in a child's environment finds
its whole family, as a build server finds what a build left behind.

Guarantees:
    A signal goes to a process only while a handle is held on it (a pidfd) and its
    environment carries the mark. So a process that got the id of one that ended is
    never hit, and neither is a process that was not started here.

Edge cases:
    Only Linux shows an environment. On other systems no process is found: children end
    by their own signal, and Flower's programs check at intervals that their parent
    lives.
"""

import os
import secrets
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

VARIABLE = "TAPESTRY_FAMILY"
OURS = secrets.token_hex(16)  # in every mark that this process gives


def new_mark() -> str:
    """Draw a mark for one family of processes.

    It begins with the mark of the family that this process is in, if it is in one.
    """
    family = os.environ.get(VARIABLE)
    return f"{family + '/' if family else ''}{OURS}.{secrets.token_hex(4)}"


def count(mark: str) -> int:
    """Count the living processes whose mark begins with ``mark``."""
    with _handles(mark) as handles:
        return len(handles)


def end(mark: str, *, seconds: float) -> None:
    """End a family: SIGTERM, and SIGKILL for each process that is alive later.

    ``mark`` begins their marks; 0 ``seconds`` between the two signals kills at once.
    """
    if seconds > 0:
        with _handles(mark) as handles:
            for handle in handles:
                _send(handle, signal.SIGTERM)
            _await(handles, seconds)
    for _ in range(3):  # what starts a process meanwhile is found with it
        with _handles(mark) as handles:
            if not handles:
                return
            for handle in handles:
                _send(handle, signal.SIGKILL)
            _await(handles, 1.0)


@contextmanager
def _handles(mark: str) -> Iterator[list[int]]:
    """Hold a pidfd of each process of a family."""
    with ExitStack() as stack:
        found = []
        for handle in _holders(mark):
            stack.callback(os.close, handle)
            found.append(handle)
        yield found


def _holders(mark: str) -> Iterator[int]:
    if sys.platform != "linux":
        return
    sought = f"{VARIABLE}={mark}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            handle = os.pidfd_open(int(folder.name))
        except OSError:
            continue  # it has just ended
        if any(row.startswith(sought) for row in _environment(folder)):
            yield handle
        else:
            os.close(handle)


def _environment(folder: Path) -> list[bytes]:
    try:
        return (folder / "environ").read_bytes().split(b"\0")
    except OSError:  # another user's, or gone
        return []


def _send(handle: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return  # it has ended


def _await(handles: list[int], seconds: float) -> None:
    """Wait until all have ended; a pidfd can be read from then on."""
    end_time, waiting = time.monotonic() + seconds, select.poll()
    for handle in handles:
        waiting.register(handle, select.POLLIN)
    left = len(handles)
    while left and (rest := end_time - time.monotonic()) > 0:
        for handle, _ in waiting.poll(rest * 1000):
            waiting.unregister(handle)
            left -= 1
