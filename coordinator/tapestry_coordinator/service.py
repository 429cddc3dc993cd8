"""The coordinator's service: one run after the other, and the log between them.

Between runs it has the log cosigned, so that its time stays fresh, and takes the
entries of members. A run whose members are away goes on when they are back; one that
can never succeed ends with its reason, and the next one begins.
"""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tapestry.errors import (
    ConfigError,
    PolicyError,
    QuorumError,
    RuleError,
)
from tapestry_coordinator import run
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.led_log import LedLog, open_led_log
from tapestry_coordinator.run_folders import (
    begin_next,
    run_folder,
    unfinished,
    waiting,
)
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_coordinator.superlink.outcome import Outcome, write_outcome

_logger = logging.getLogger(__name__)
_COSIGN_SECONDS = 60.0  # that a cosignature may take between runs
_LOOK_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 600.0  # before a run is tried again
_FOR_GOOD = (ConfigError, PolicyError, RuleError)  # errors that end a run


def main(directory: Path, grid: Grid) -> None:
    """Serve a coordinator's folder until the process is stopped.

    Raises:
        ConfigError: A file of the folder is invalid.
        ResourceError: The disk is full, or the SuperLink is gone.
        InconsistentLog: A member holds a cosigned log that this one does not lead to.
    """
    pause = _FIRST_PAUSE
    while True:
        run_id = unfinished(directory) or begin_next(directory)
        if run_id is None:
            tend_log(directory, grid, until=lambda: bool(waiting(directory)))
        elif finish_run(directory, grid, run_id):
            pause = _FIRST_PAUSE
        else:
            tend_log(directory, grid, until=_after(pause))
            pause = min(2 * pause, _LONGEST_PAUSE)


def finish_run(directory: Path, grid: Grid, run_id: str) -> bool:
    """Finish a run, and write how it ended; return False if it is to be tried again."""
    try:
        run.main(directory, grid)
    except QuorumError as error:
        _logger.warning("run %s waits: %s", run_id, error)
        return False
    except _FOR_GOOD as error:
        _logger.warning("run %s ended: %s [%s]", run_id, error, error.code)
        outcome = Outcome.of(error)
    else:
        _logger.info("run %s is done", run_id)
        outcome = Outcome()
    write_outcome(run_folder(directory, run_id), outcome)
    return True


def tend_log(directory: Path, grid: Grid, *, until: Callable[[], bool]) -> None:
    """Have the log cosigned and take entries, until a condition holds.

    It is done when members come, and every ``cosign_every`` seconds.
    """
    every = CoordinatorSettings.read(directory / "coordinator.toml").cosign_every
    log = open_led_log(directory, grid, deadline=_COSIGN_SECONDS)
    with closing(log):
        here: set[str] = set()
        due = time.monotonic()
        while not until():
            came = set(log.members.nodes())
            if came - here or (came and time.monotonic() >= due):
                _cosign(log, sorted(came))
                due = time.monotonic() + every
            here = came
            time.sleep(_LOOK_SECONDS)


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def _cosign(log: LedLog, names: list[str]) -> None:
    for name, said in log.members.greet(names, deadline=_COSIGN_SECONDS):
        note = None if said.checkpoint is None else said.checkpoint.encode()
        log.publisher.record_mirror_size(name, said.size, note)
    try:
        log.publisher.publish(names)
    except QuorumError as error:
        _logger.info("the log waits for cosignatures: %s", error)
