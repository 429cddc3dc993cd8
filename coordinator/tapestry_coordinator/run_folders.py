"""The runs of a coordinator: those that wait, and those that began.

::

    queue/RUN/   run.toml held-out/                     waits; by the name's order
    runs/RUN/    run.toml held-out/                     began
                 journal.db sums/ uploads/ progress.jsonl
                 outcome.json                           ended, for good

One federation has one log and many runs on it, one after the other.
"""

import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tapestry.errors import ConfigError
from tapestry.schema import Name
from tapestry.storage import durable_files
from tapestry_coordinator.superlink.outcome import outcome_time, read_outcome

RUNS, QUEUE = "runs", "queue"
PLAN = "run.toml"
PUBLISHED = ("releases", "adapters")  # folders that everybody may read
HELD_OUT = "held-out"  # the folder of public data
PROGRESS = "progress.jsonl"
_TAIL = 1 << 17  # bytes of it that are looked at
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def run_folder(directory: Path, run_id: str) -> Path:
    """Return the folder of a run that began."""
    return directory / RUNS / run_id


def begun(directory: Path) -> list[str]:
    """List the runs that began, by name."""
    return _names(directory / RUNS)


def by_end(directory: Path) -> list[str]:
    """List the runs that began by when they ended; last the one that goes on."""

    def ended(run_id: str) -> float:
        time = outcome_time(run_folder(directory, run_id))
        return math.inf if time is None else time

    return sorted(begun(directory), key=ended)


def waiting(directory: Path) -> list[str]:
    """List the runs that wait, in the order in which they will begin.

    Edge cases:
        A name that was used is not among them: a run begins once.
    """
    used = set(begun(directory))
    return [name for name in _names(directory / QUEUE) if name not in used]


def unfinished(directory: Path) -> str | None:
    """Return the run that began and has not ended, if there is one."""
    for run_id in begun(directory):
        if read_outcome(run_folder(directory, run_id)) is None:
            return run_id
    return None


def begin_next(directory: Path) -> str | None:
    """Begin the first run that waits, in one step; return its name.

    Raises:
        ResourceError: The folder cannot be written.
    """
    names = waiting(directory)
    if not names:
        return None
    run_id = names[0]
    durable_files.make_folders(directory / RUNS)
    durable_files.publish_folder(
        directory / QUEUE / run_id, run_folder(directory, run_id)
    )
    return run_id


def current(directory: Path) -> str:
    """Return the run to work on: the one that has not ended, or else the last.

    Raises:
        ConfigError: The folder has no run that began.
    """
    names = begun(directory)
    if not names:
        raise ConfigError(
            f"{directory} has no run; plan one with tapestry coordinator plan",
            code="run-missing",
        )
    return unfinished(directory) or names[-1]


def write_progress(path: Path, event: dict[str, Any]) -> None:
    """Append an event, with its POSIX time, to a file that another process can follow.

    Raises:
        ResourceError: The disk is full, or the file cannot be written.
    """
    row = json.dumps({**event, "time": round(time.time(), 2)})
    with durable_files.write_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(row + "\n")


def read_progress(path: Path) -> list[dict[str, Any]]:
    """Read the last events of a file that ``write_progress`` writes.

    Edge cases:
        The first and the last line may be there by half, and are left out then.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - _TAIL, 0))
        rows = file.read().split(b"\n")[:-1]
    found = []
    for row in rows:
        with suppress(ValueError):
            found.append(json.loads(row))
    return [each for each in found if isinstance(each, dict)]


def _names(folder: Path) -> list[str]:
    """List the folders with a plan whose name a run may have."""
    found = (path.parent.name for path in folder.glob(f"*/{PLAN}"))
    return sorted(name for name in found if _is_name(name))


def _is_name(text: str) -> bool:
    try:
        _NAME.validate_python(text)
    except ValidationError:
        return False
    return True
