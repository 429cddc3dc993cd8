"""Pauses between attempts that fail: each twice as long, and short again in time."""

import time
from collections.abc import Callable

FIRST, LONGEST = 1.0, 60.0  # seconds


class Backoff:
    """The pauses of one process that is started again whenever it ends.

    The first is a second, and each later one twice as long, up to a minute. After an
    attempt that lasted longer than a minute they begin anew.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Take a clock, in seconds."""
        self._now, self._next = now, FIRST
        self._began = now()

    def begin(self) -> None:
        """Note that an attempt begins."""
        self._began = self._now()

    def pause(self) -> float:
        """Return how many seconds to wait after the attempt that has just failed."""
        if self._now() - self._began > LONGEST:
            self._next = FIRST
        found, self._next = self._next, min(2 * self._next, LONGEST)
        return found
