"""A training that the operator asked for: a file that says so, until it is done.

::

    NAME.toml      what the adapter is for, and how it is trained    the operator's
    NAME.job       the training that was agreed to                   until it is done
    NAME.progress  its steps                                         while it goes on
    NAME-1/        its publication (``publication``)

``tapestry adapter train`` writes the job. It does it at once where no node serves the
folder; otherwise the node does, when no round is under way. Both take the same steps,
and a process that is killed leaves the job to the next one.

Guarantees:
    A job is done once: ``publication`` trains, charges and accounts once for a version,
    whenever a process dies. One that failed is not tried again before the operator asks
    for it again. Nothing leaves by it.

Edge cases:
    While a node trains, requests wait, as they do while it trains for a round. A node
    that is paused, outside of its hours or short of disk begins no job.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from tapestry.errors import TapestryError, VerificationError
from tapestry.inputs.faults import unforeseen
from tapestry.inputs.plain_file import read_plain
from tapestry.protocol.messages import Reason
from tapestry.schema import Strict
from tapestry.storage import durable_files
from tapestry_governance.events.event_body import Base
from tapestry_governance.rules.settlement import settle
from tapestry_node.adapters.adapter_file import (
    PUBLICATIONS,
    AdapterFile,
    NamedAdapter,
    names_in,
)
from tapestry_node.adapters.adapter_requests import (
    ServingNode,
    check_origin,
    publisher_of,
)
from tapestry_node.adapters.chosen_release import find_release, held_base
from tapestry_node.adapters.publication import AdapterJob
from tapestry_node.availability import is_refused
from tapestry_node.refusal import Objection, Refused
from tapestry_node.restored_state import require_settled

_logger = logging.getLogger(__name__)
JOB, PROGRESS = ".job", ".progress"
_LIMIT = 1 << 20  # bytes
_PATIENCE = 2.0  # seconds between two writes of what only counts
_LOOK = 1.0  # seconds between two looks for jobs


class TrainingJob(Strict):
    """The content of the file."""

    release: Base
    file: AdapterFile  # as it was agreed to
    asked: Annotated[str, Field(max_length=60)]  # the time
    failed: Annotated[str, Field(max_length=4000)] | None = None  # why

    @classmethod
    def read(cls, folder: Path, name: str) -> Self:
        """Read the job of an adapter.

        Raises:
            VerificationError: The file is not as it was written.
            ResourceError: The file cannot be read.
        """
        path = _path(folder, name, JOB)
        try:
            return cls.decode(read_plain(path, limit=_LIMIT), limit=_LIMIT)
        except TapestryError as error:
            raise VerificationError(
                f"{path} is not as tapestry adapter train writes it: {error}; remove"
                " it, and ask again",
                code="job-changed",
            ) from None

    def write(self, folder: Path, name: str) -> None:
        """Write the job; it stands on return."""
        durable_files.replace_file(_path(folder, name, JOB), self.encode(), mode=0o600)


class TrainingProgress(Strict):
    """The steps of a training that goes on; a display, and nothing decides by it."""

    done: int
    total: int


def is_asked(folder: Path, name: str) -> bool:
    """Return whether an adapter has a job, done in part or failed."""
    return _path(folder, name, JOB).exists()


def read_progress(folder: Path, name: str) -> TrainingProgress | None:
    """Read how far a training is; None if that is not told."""
    with suppress(OSError, TapestryError):
        data = read_plain(_path(folder, name, PROGRESS), limit=_LIMIT)
        return TrainingProgress.decode(data)
    return None


def do_job(node: ServingNode, name: str) -> AdapterJob:
    """Do the job of an adapter to its end; a failure is noted, and ends it.

    Raises:
        Refused: A round is under way, or the node may begin nothing now: the job
            waits.
        TapestryError: It failed; the file says why.
    """
    job = TrainingJob.read(node.directory, name)
    _require_time(node)
    try:
        made = _do(node, name, job)
    except Exception as error:
        why = str(_why(error))[:4000]
        job.model_copy(update={"failed": why}).write(node.directory, name)
        raise
    finally:
        durable_files.remove_file(_path(node.directory, name, PROGRESS))
    durable_files.remove_file(_path(node.directory, name, JOB))
    return made


def _do(node: ServingNode, name: str, job: TrainingJob) -> AdapterJob:
    node.require_work()
    seen = node.mirror.seen
    state = settle(node.mirror.state, seen=0 if seen is None else seen.size)
    release = find_release(state, job.release)
    replica = held_base(
        release,
        node.base.snapshots,
        mirror=node.mirror,
        store=node.store,
        current=node.replica,
    )
    check_origin(node, release)
    adapter = NamedAdapter(name=name, file=job.file)
    publisher = publisher_of(node, adapter, replica)
    teller = _Teller(_path(node.directory, name, PROGRESS))
    _logger.info("%s: training adapter %s on %s", node.name, name, release.name)
    return publisher.make(release, now=node.clock(), tell=teller.tell)


def _require_time(node: ServingNode) -> None:
    """Require that nothing else is under way, and new work may begin.

    Raises:
        Refused: A round is under way here, or the operator lets nothing new begin.
    """
    require_settled(node.store)
    if node.session is not None:
        said = "a round is under way here; the adapter is trained after it"
        raise Refused(Reason.MAINTENANCE, said, code="round-under-way")
    node.require_available()


class _Teller:
    """Writes the steps of a training, every few seconds."""

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, 0.0

    def tell(self, done: int, total: int) -> None:
        """Note a step; a disk that is full costs the display alone."""
        now = time.monotonic()
        if done < total and now - self._written < _PATIENCE:
            return
        self._written = now
        said = TrainingProgress(done=done, total=total).encode()
        with suppress(TapestryError):
            durable_files.replace_file(self._path, said, mode=0o600, lasting=False)


class WaitingJobs:
    """The jobs of a folder that a node serves; it does one when it is idle."""

    def __init__(
        self,
        node: ServingNode,
        *,
        during: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Take the node; ``during`` tells its operator that it trains."""
        self._node, self._during, self._looked = node, during, 0.0

    def __call__(self) -> None:
        """Do a job that waits, if no round is under way; look once a second.

        Guarantees:
            Whatever goes wrong is in the node's log and the job's file, and the node
            goes on.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        node = self._node
        for name in self._waiting():
            if self._is_busy():
                return
            try:
                with self._during():
                    do_job(node, name)
            except Exception as error:  # noqa: BLE001 - whatever it is, the node serves
                said = "%s: adapter %s was not trained: %s"
                _logger.warning(said, node.name, name, _why(error))
            return

    def _waiting(self) -> Iterator[str]:
        folder = self._node.directory
        for name in names_in(folder, JOB):
            with suppress(TapestryError, OSError):  # adapter list tells of it
                if TrainingJob.read(folder, name).failed is None:
                    yield name

    def _is_busy(self) -> bool:
        """Return whether a round is open, or the node may begin nothing."""
        node = self._node
        if not node.mirror.size or node.mirror.state.open_round is not None:
            return True
        return is_refused(lambda: _require_time(node))


def _why(error: Exception) -> Objection:
    """Say why a job failed; of an error that is not ours, type and place alone."""
    if isinstance(error, TapestryError):
        return Objection.of(error)
    return Objection("internal", f"internal error: {unforeseen(error)}")


def _path(folder: Path, name: str, suffix: str) -> Path:
    return folder / PUBLICATIONS / f"{name}{suffix}"
