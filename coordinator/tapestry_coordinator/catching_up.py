"""The parts that a member lacks: the log, results of rounds, chunks, a request.

Within a run that is seen to before each round and each release. A member that comes
back between runs gets the same, by the same steps.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tapestry.errors import QuorumError, TapestryError
from tapestry.protocol.round_manifest import RoundManifest
from tapestry_coordinator.adapter_collector import collect_adapters
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.led_log import LedLog
from tapestry_coordinator.missed_results import tell_missing
from tapestry_coordinator.run_context import RunContext
from tapestry_coordinator.run_folders import PLAN, PROGRESS, run_folder, write_progress
from tapestry_coordinator.settings import RunSettings
from tapestry_coordinator.spot_check_responder import SpotCheckResponder
from tapestry_coordinator.superlink.outcome import read_outcome
from tapestry_coordinator.uploads import Uploads

_logger = logging.getLogger(__name__)


def bring_up_to_date(
    responder: SpotCheckResponder, present: Sequence[str], *, then_opens: bool = False
) -> None:
    """Send nodes that have answered the log, results and chunks that they lack.

    A node cosigns no release without the result of its round. So if too few cosign,
    results go first, under the last published checkpoint.

    Args:
        responder: Of the log's newest run.
        present: The nodes.
        then_opens: A log that all have cosigned as it is is not cosigned again.

    Raises:
        QuorumError: Fewer nodes cosigned than the trust policy asks for.
    """
    tracker = responder.tracker
    try:
        if not (then_opens and tracker.publisher.is_cosigned(present)):
            tracker.publisher.publish(present, unhurried=True)
    except QuorumError:
        tracker.catch_up(present)
        responder.respond(present)
        tracker.publisher.publish(present)
    tracker.catch_up(present)
    responder.respond(present)


class LastRun:
    """The newest run that gave a result, for members that were away at its end.

    They get the results of earlier runs as well, where they lack these first.
    """

    def __init__(self, context: RunContext) -> None:
        """Take the parts of the run; nothing of its folder but uploads is changed."""
        folder = run_folder(context.directory, context.settings.run_id)
        self.context, self._folder = context, folder
        self._responder = SpotCheckResponder(
            context.directory,
            tracker=context.tracker,
            journal=context.journal,
            uploads=Uploads(folder),
        )

    @property
    def has_more(self) -> bool:
        """True if a member that took results is to be sent more at once."""
        return bool(self.context.tracker.behind)

    def serve(self, names: Collection[str], *, came: Collection[str]) -> list[str]:
        """Greet members, have them cosign, and send them what they lack.

        Returns those that answered.

        Those that came are told of the release too, if the run asked for adapters and
        has ended; while it goes on, that is for its end.

        Raises:
            QuorumError: Fewer cosigned than the trust policy asks for.
        """
        self.context.tracker.forgive(came)
        here = self.context.tracker.exchange_hello(names)
        bring_up_to_date(self._responder, here)
        if self.context.settings.adapters and read_outcome(self._folder) is not None:
            collect_adapters(self.context, here, asked=came)
        return here


@contextmanager
def last_run(directory: Path, log: LedLog) -> Iterator[LastRun | None]:
    """Open the newest run that gave a result, while its folder is there and whole.

    Edge cases:
        None before the first result, and where the folder cannot be read: then members
        get the log alone.
    """
    with ExitStack() as stack:
        found = None
        try:
            found = _open(directory, log, stack)
        except TapestryError as error:
            said = "members that missed a result do not get it: %s [%s]"
            _logger.warning(said, error, error.code)
        yield found


def _open(directory: Path, log: LedLog, stack: ExitStack) -> LastRun | None:
    closed = log.publisher.state.closed.last
    if closed is None:
        return None
    folder = run_folder(directory, closed.run_id)
    if not Journal.is_there(folder):
        tell_missing(folder, "journal.db is not there")
        return None
    journal = Journal(folder, readonly=True)
    stack.callback(journal.close)
    plan = RoundManifest.decode(journal.row(closed.round_number).manifest)
    context = RunContext.over(
        log,
        directory,
        settings=RunSettings.read(folder / PLAN),
        journal=journal,
        gate=plan.gate,
        notify=partial(write_progress, folder / PROGRESS),
    )
    return LastRun(context)
