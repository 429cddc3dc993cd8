"""How a coordinator process and the one that supervises it talk: through files.

A coordinator process can be killed at any instant, and so can the SuperLink that
reports on it. So the directory of the run itself says what matters: a lock is held as
long as a coordinator works on it, and an outcome is left when it is done for good. No
lock and no outcome: it was killed; start another.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tapestry.encoding import canonical_json, decode_json
from tapestry.storage import durable_files
from tapestry.storage.file_lock import is_locked, lock_file

_LOCK = "coordinator.lock"
_OUTCOME = "outcome.json"


@contextmanager
def working_on(directory: Path) -> Iterator[None]:
    """Hold the directory; wait until another coordinator process lets go of it.

    Guarantees:
        The kernel releases the lock when the process dies, however it dies.

    Raises:
        ResourceError: The lock cannot be made in the directory.
    """
    with lock_file(directory / _LOCK, wait=True):
        yield


def is_worked_on(directory: Path) -> bool:
    """Say whether a coordinator process holds the directory."""
    return is_locked(directory / _LOCK)


def write_outcome(directory: Path, *, error: str | None) -> None:
    """Leave word that the work is done, or why it cannot be.

    Raises:
        ResourceError: The disk is full or failing.
    """
    durable_files.replace_file(directory / _OUTCOME, canonical_json({"error": error}))


def read_outcome(directory: Path) -> tuple[bool, str | None]:
    """Return whether there is an outcome, and the error if it failed."""
    try:
        data = (directory / _OUTCOME).read_bytes()
    except FileNotFoundError:
        return False, None
    error: str | None = decode_json(data)["error"]
    return True, error


def clear_outcome(directory: Path) -> None:
    """Forget an earlier outcome, before new work on the directory."""
    (directory / _OUTCOME).unlink(missing_ok=True)
