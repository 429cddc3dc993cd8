"""Interruption of the demo by Ctrl-C, SIGTERM or a closed terminal, all alike.

The first signal raises ``KeyboardInterrupt``, so that all resources are released. A
second one, while that goes on, kills all child processes and ends this process at once.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from tapestry_coordinator.superlink import process_tree

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130  # the exit status


@dataclass(slots=True)
class Stop:
    """The state of a block that signals can stop."""

    requested: bool = False

    def check(self) -> None:
        """Raise again for a signal whose exception was caught on its way.

        Raises:
            KeyboardInterrupt: A signal arrived earlier in the block.
        """
        if self.requested:
            raise KeyboardInterrupt

    def take(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal: raise the first time, end the process the second time."""
        if self.requested:
            process_tree.end(process_tree.OURS, seconds=0)
            os.write(2, b"\nkilled at once\n")
            os._exit(INTERRUPTED)
        self.requested = True
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Let signals stop the block, in the main thread.

    Edge cases:
        A signal that was ignored before (``nohup``, a job in the background) stays
        ignored. In another thread nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop.take)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not set from Python
                signal.signal(number, handler)
