"""Child processes that are started again when they end, and never outlive this one."""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tapestry.cli import console
from tapestry_coordinator.superlink import process_tree
from tapestry_coordinator.superlink.flower_programs import one_line

_logger = logging.getLogger(__name__)
_LAST_BYTES = 4000  # of a log that are read
_MOST_BYTES = 16 << 20  # of a log; as much again is kept in ``NAME.log.1``
_STOP_SECONDS = 8.0
_HURRY_SECONDS = 1.0  # after Ctrl-C; nothing depends on a graceful end
_QUICK_DEATH = 2.0  # a process that lives no longer than this is started more slowly

# The child gets SIGTERM when this process dies, however it dies (prctl 1 is
# PR_SET_PDEATHSIG); it ends by itself when that has happened already.
_LAUNCHER = """\
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Child:
    """One child process, with its output in a file.

    Guarantees:
        Signals go to this process alone, by its id, and only until it was waited
        for, so another process that gets the id afterwards is never hit.

    Edge cases:
        On Linux it also ends when the thread that started it does.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: Mapping[str, str]
    ) -> None:
        """Start the process; its output is appended to ``log``."""
        self.log = log
        launcher = [sys.executable, "-c", _LAUNCHER, str(os.getpid())]
        self._command = [*launcher, *command]
        self._environment = dict(environment)
        self._started = 0.0
        self._process = self._start()

    @property
    def pid(self) -> int:
        """The process id, of the latest start."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return self.status is None

    @property
    def status(self) -> int | None:
        """Its exit status, or the negative number of its signal; None as it runs."""
        return self._process.poll()

    @property
    def last_words(self) -> str:
        """The end of its output, in one line."""
        with self.log.open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - _LAST_BYTES, 0))
            return one_line(log.read().decode("utf-8", errors="replace"))

    def tend(self) -> bool:
        """Start the process again if it ended; return whether it was started.

        A process that ends at once is started again after two seconds only. A log that
        has become too large is begun anew; what it held is kept in a second file.
        """
        with suppress(OSError):
            if self.log.stat().st_size > _MOST_BYTES:
                self._begin_log_anew()
        if self.alive or time.monotonic() - self._started < _QUICK_DEATH:
            return False
        self._process = self._start()
        return True

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def end(self, seconds: float) -> None:
        """Wait until the process has ended; after ``seconds`` send SIGKILL."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _begin_log_anew(self) -> None:
        with suppress(OSError):  # where the disk is full, room counts for more
            shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
        os.truncate(self.log, 0)  # the process appends, so it goes on at the start

    def _start(self) -> subprocess.Popen[bytes]:
        self._started = time.monotonic()
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the parent handles Ctrl-C
            )


class ChildGroup:
    """Child processes by name, with all that they start.

    Guarantees:
        ``stop`` ends every process that was started here, and only those; they also
        end when this process is killed. On Linux that includes what children start in
        new sessions.

    Edge cases:
        Children are tied to the thread that calls ``start``: on Linux they end with
        it.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder of the children's logs."""
        self.folder = folder
        self.mark = process_tree.new_mark()
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Self:
        """Return the group."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop all processes; at once after an interruption."""
        if kind is None or issubclass(kind, Exception):
            self.stop()
        else:
            self.stop_now()

    def __getitem__(self, name: str) -> Child:
        """Return a child."""
        return self._children[name]

    def __contains__(self, name: str) -> bool:
        """Return whether a child of this name was started."""
        return name in self._children

    @property
    def pids(self) -> dict[str, int]:
        """Process ids, by name."""
        return {name: child.pid for name, child in self._children.items()}

    @property
    def processes(self) -> int:
        """The number of processes, with all that they started."""
        return max(process_tree.count(self.mark), len(self._children))

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Start a child; its output is appended to ``NAME.log``."""
        self._children[name] = Child(
            command,
            log=self.folder / f"{name}.log",
            environment={**environment, process_tree.VARIABLE: self.mark},
        )

    def tend(self) -> list[str]:
        """Start the processes again that have ended; return their names."""
        again = [name for name, child in self._children.items() if child.tend()]
        for name in again:
            _logger.warning("process %s had ended; started it again", name)
        return again

    def stop(self, *, seconds: float = _STOP_SECONDS) -> None:
        """End all processes: SIGTERM, and SIGKILL ``seconds`` later for those left."""
        for child in self._children.values():
            child.ask_to_end()
        end = time.monotonic() + seconds
        for child in self._children.values():
            child.end(max(end - time.monotonic(), 0.1))
        process_tree.end(self.mark, seconds=max(end - time.monotonic(), 0.5))
        self._children.clear()

    def stop_now(self) -> None:
        """Say how many processes there are, and end them within a second or two."""
        if count := self.processes:
            console.note(f"stopping: ending {count} processes ...")
        self.stop(seconds=_HURRY_SECONDS)
