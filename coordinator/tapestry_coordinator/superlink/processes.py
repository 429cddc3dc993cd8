"""A child process that is started again when it ends, and never outlives this one."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

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
        return self._process.poll() is None

    def tend(self) -> bool:
        """Start the process again if it ended; return whether it was started.

        A process that ends at once is started again after two seconds only.
        """
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
