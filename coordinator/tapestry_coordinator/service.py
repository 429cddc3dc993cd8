"""The coordinator's service: one run after the other, and the log between them.

Between runs it has the log cosigned, so that its time stays fresh, takes the entries of
members, and sends those that come back what they missed. A run whose members are away
goes on when they are back. One that can never succeed, or whose rounds fail at the
members' cost, ends with its reason, and the next one begins.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from tapestry.errors import (
    InconsistentLog,
    PolicyError,
    QuorumError,
    ResourceError,
    TapestryError,
)
from tapestry_coordinator import run
from tapestry_coordinator.catching_up import LastRun, last_run
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.led_log import LedLog, open_led_log
from tapestry_coordinator.refusals import is_at_fault
from tapestry_coordinator.restored_log import hear_members
from tapestry_coordinator.run_folders import (
    PLAN,
    PROGRESS,
    begin_next,
    run_folder,
    unfinished,
    waiting,
    write_progress,
)
from tapestry_coordinator.run_requests import (
    begin_again,
    is_asked_again,
    request_in,
    settle,
)
from tapestry_coordinator.settings import CoordinatorSettings, RunSettings
from tapestry_coordinator.superlink.outcome import Outcome, write_outcome

_logger = logging.getLogger(__name__)
_COSIGN_SECONDS = 60.0  # that a cosignature may take between runs
_LOOK_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 600.0  # before a run is tried again
_SPARE_ROUNDS = 5  # that members may have paid for beyond those of the plan
_WAITING = frozenset({"nodes-too-few", "base-missing"})  # what others can mend
_DAMAGED = frozenset({"database-damaged"})  # of a run's own files


def main(directory: Path, grid: Grid) -> None:
    """Serve a coordinator's folder until the process is stopped.

    Raises:
        ConfigError: A file of the folder is invalid.
        ResourceError: The disk is full, or the SuperLink is gone.
        InconsistentLog: A member holds a cosigned log that this one does not lead to.
    """
    hear_members(directory, grid)
    pause = _FIRST_PAUSE
    while True:
        run_id = (
            unfinished(directory) or begin_again(directory) or begin_next(directory)
        )
        if run_id is None:
            tend_log(directory, grid, until=lambda: _has_work(directory))
        elif finish_run(directory, grid, run_id):
            pause = _FIRST_PAUSE
        else:
            folder = run_folder(directory, run_id)
            tend_log(directory, grid, until=_after(pause, unless=folder))
            pause = min(2 * pause, _LONGEST_PAUSE)


def _has_work(directory: Path) -> bool:
    return bool(waiting(directory)) or is_asked_again(directory)


def finish_run(directory: Path, grid: Grid, run_id: str) -> bool:
    """Finish a run, and write how it ended; return False if it is to be tried again.

    Guarantees:
        A run that ended has no open round in the log. One that its operator asked to
        end does not wait for others any more. Rounds that fail are not tried
        for ever: members pay for at most five more than the plan has.

    Raises:
        InconsistentLog: A member holds a cosigned log that this one does not lead to.
        ResourceError: The machine fails; the run has not ended.
    """
    folder, failure = run_folder(directory, run_id), None
    if request_in(folder) == "again":
        settle(folder)
    try:
        _check_paid(directory, grid, folder)
        run.main(directory, grid)
    except InconsistentLog:
        raise
    except TapestryError as error:
        if isinstance(error, ResourceError) and error.code not in _DAMAGED:
            raise
        if error.code in _WAITING and request_in(folder) != "end":
            _logger.warning("run %s waits: %s", run_id, error)
            write_progress(folder / PROGRESS, {"stage": "round", "waits": str(error)})
            return False
        failure = error
    if failure is not None:
        _logger.warning("run %s ended: %s [%s]", run_id, failure, failure.code)
        _end_open_round(directory, grid, folder)
    write_outcome(folder, _outcome(folder, failure))
    settle(folder)
    return True


def _outcome(folder: Path, failure: TapestryError | None) -> Outcome:
    if failure is not None:
        return Outcome.of(failure)
    is_asked = request_in(folder) == "end"
    return Outcome(message="ended as its operator asked" if is_asked else "")


def _check_paid(directory: Path, grid: Grid, folder: Path) -> None:
    """Require that no member paid for many more rounds than the run has.

    Raises:
        PolicyError: One did: rounds fail after it has spent its budget on them.
    """
    planned = RunSettings.read(folder / PLAN).rounds
    with closing(open_led_log(directory, grid, deadline=_COSIGN_SECONDS)) as log:
        spending = log.publisher.state.spending
        paid = {
            name: sum(
                each.run_id == folder.name and each.adapter is None
                for each in spending[name]
            )
            for name in spending
        }
    if over := [n for n, rounds in paid.items() if rounds >= planned + _SPARE_ROUNDS]:
        raise PolicyError(
            f"{', '.join(sorted(over))} paid for {_SPARE_ROUNDS} rounds more than the"
            f" {planned} of the plan; the run ends, so that it costs no more",
            code="rounds-failed",
        )


def _end_open_round(directory: Path, grid: Grid, folder: Path) -> None:
    """Abort the round of a run that is open in the log, if there is one.

    Raises:
        IncompleteError: Members would not cosign its end.
    """
    with closing(open_led_log(directory, grid, deadline=_COSIGN_SECONDS)) as log:
        run.end_lost_round(directory, log.publisher)
        current = log.publisher.state.open_round
        if current is None or current.manifest.run_id != folder.name:
            return
        number = current.manifest.round_number
        with closing(Journal(folder)) as journal:
            survivors = journal.survivors(number)
            aborted = run.end_without_sum(
                current.manifest, "coordinator_restarted", survivors=survivors
            )
            log.publisher.append_event(aborted)
            journal.settle(number, "aborted")


def tend_log(directory: Path, grid: Grid, *, until: Callable[[], bool]) -> None:
    """Have the log cosigned and take entries, until a condition holds.

    It is done when members come, every ``cosign_every`` seconds, and when an entry was
    handed in here. A member that missed the end of the last run gets its results then.
    """
    every = CoordinatorSettings.read(directory / "coordinator.toml").cosign_every
    log = open_led_log(directory, grid, deadline=_COSIGN_SECONDS)
    with closing(log), last_run(directory, log) as last:
        run.end_lost_round(directory, log.publisher)
        here: set[str] = set()
        due = time.monotonic()
        while not until():
            now = set(log.members.nodes())
            is_due = time.monotonic() >= due or log.inbox.waiting()
            if now - here or (now and is_due):
                _serve(log, last, sorted(now), came=now - here)
                has_more = last is not None and last.has_more
                due = time.monotonic() + (0 if has_more else every)
            here = now
            time.sleep(_LOOK_SECONDS)


def cosign_once(directory: Path, grid: Grid) -> None:
    """Take the entries that wait, and have the log cosigned by who is here.

    Raises:
        InconsistentLog: A member holds a cosigned log that this one does not lead to.
        ResourceError: The disk is full or failing.
    """
    with closing(open_led_log(directory, grid, deadline=_COSIGN_SECONDS)) as log:
        _serve(log, None, log.members.nodes(), came=set())


def _after(seconds: float, *, unless: Path) -> Callable[[], bool]:
    """Return what says that the time is over, or that an operator asked for a run."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end or request_in(unless) is not None


def _serve(
    log: LedLog, last: LastRun | None, names: list[str], *, came: set[str]
) -> None:
    """Have the log cosigned by members, and give those that came what they missed."""
    before = log.publisher.published
    try:
        if last is None:
            here = sorted(_greet(log, names))
            log.publisher.publish(here, unhurried=True)
        else:
            here = last.serve(names, came=came)
        if log.publisher.published != before:  # members learn of it with the next one
            log.publisher.publish(here)
    except InconsistentLog:
        raise
    except QuorumError as error:
        _logger.info("the log waits for cosignatures: %s", error)
    except TapestryError as error:  # of an ended run's files: the next one needs none
        if isinstance(error, ResourceError) and error.code not in _DAMAGED:
            raise
        _logger.warning("members that missed a result do not get it: %s", error)


def _greet(log: LedLog, names: list[str]) -> Iterator[str]:
    """Greet members before there is a result; one that says nonsense is left out."""
    for name, said in log.members.greet(names, deadline=_COSIGN_SECONDS):
        if is_at_fault(name, said):
            continue
        note = None if said.checkpoint is None else said.checkpoint.encode()
        try:
            log.publisher.record_mirror_size(name, said.size, note)
        except (InconsistentLog, ResourceError):
            raise
        except TapestryError as error:
            _logger.warning("leaving node %s out, bad hello: %s", name, error)
        else:
            yield name
