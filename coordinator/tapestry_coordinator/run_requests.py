"""Requests of the coordinator's operator to the service, each in a run's own folder.

A file ``asked`` holds the last one. ``end`` ends a run when its round has ended: what
is closed is released, and the next run begins. ``again`` has a run that failed begun
again where it was left, and one that waits tried at once. The service does both, since
it alone knows where a run stands; if none is running, its next start does.
"""

from pathlib import Path
from typing import Literal

from tapestry.errors import ConfigError
from tapestry.storage import durable_files
from tapestry_coordinator.run_folders import (
    QUEUE,
    begun,
    run_folder,
    unfinished,
    waiting,
)
from tapestry_coordinator.superlink.outcome import clear_outcome, read_outcome

_FILE = "asked"
Request = Literal["end", "again"]
_REQUESTS: tuple[Request, ...] = ("end", "again")


def ask_to_end(directory: Path, run_id: str) -> None:
    """Ask that a run be ended; one that waits in the queue then ends without a round.

    Raises:
        ConfigError: There is no such run, or it has ended.
        ResourceError: The folder cannot be written.
    """
    if run_id in waiting(directory):
        _write(directory / QUEUE / run_id, "end")
        return
    folder = _folder_of(directory, run_id)
    if read_outcome(folder) is not None:
        raise ConfigError(f"run {run_id} has ended already", code="run-ended")
    _write(folder, "end")


def ask_again(directory: Path, run_id: str, *, opened: list[str]) -> None:
    """Ask that a run be tried again.

    Args:
        directory: The coordinator's folder.
        run_id: The run.
        opened: The runs of which the log opened a round, the newest last.

    Raises:
        ConfigError: There is no such run, it has reached its end, or the log has gone
            on with another one.
        ResourceError: The folder cannot be written.
    """
    folder = _folder_of(directory, run_id)
    outcome = read_outcome(folder)
    if outcome is not None and not outcome.kind:
        raise ConfigError(
            f"run {run_id} did not fail; plan another one to go on", code="run-ended"
        )
    if run_id in opened and opened[-1] != run_id:
        raise ConfigError(
            f"the log has gone on with run {opened[-1]}, and a run is led in one piece;"
            f" plan another one in the place of {run_id}",
            code="run-superseded",
        )
    _write(folder, "again")


def request_in(folder: Path) -> Request | None:
    """Return what was asked last for the run of a folder; None if nothing is open."""
    try:
        said = (folder / _FILE).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return next((each for each in _REQUESTS if each == said), None)


def settle(folder: Path) -> None:
    """Take a request away that was followed.

    Raises:
        ResourceError: The folder cannot be written.
    """
    durable_files.remove_file(folder / _FILE)


def begin_again(directory: Path) -> str | None:
    """Begin the first run that failed and was asked for again; return its name.

    Edge cases:
        While a run goes on there is none: two at a time would share a log.

    Raises:
        ResourceError: The folder cannot be written.
    """
    if unfinished(directory) is None:
        for run_id in begun(directory):
            if request_in(run_folder(directory, run_id)) == "again":
                clear_outcome(run_folder(directory, run_id))
                return run_id
    return None


def is_asked_again(directory: Path) -> bool:
    """Return whether a run waits to be begun again."""
    asked = (request_in(run_folder(directory, name)) for name in begun(directory))
    return "again" in asked


def _folder_of(directory: Path, run_id: str) -> Path:
    if run_id in waiting(directory):
        raise ConfigError(
            f"run {run_id} has not begun; it does in its turn", code="run-waits"
        )
    if run_id not in begun(directory):
        known = ", ".join([*begun(directory), *waiting(directory)]) or "none"
        raise ConfigError(
            f"{directory} has no such run, {run_id!r}; it has {known}",
            code="run-missing",
        )
    return run_folder(directory, run_id)


def _write(folder: Path, request: Request) -> None:
    durable_files.replace_file(folder / _FILE, f"{request}\n".encode())
