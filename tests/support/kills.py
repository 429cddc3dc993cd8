"""Kill a process of ours at the n-th line that it executes, and say whether it died.

For processes that fork: a test calls a module that does, as one of its own.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType

_VISITS = 4


def die_at(line: int, code: tuple[str, ...]) -> None:
    """Send this process SIGKILL before the n-th line of some files' code.

    Only the first visits to a line count: loops over entries are all alike.

    Args:
        line: Which line, from 1, in the order of execution.
        code: What the paths of the files begin with.
    """
    left = line
    visits: Counter[tuple[str, int]] = Counter()

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal left
        if not frame.f_code.co_filename.startswith(code):
            return None
        place = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and visits[place] < _VISITS:
            visits[place] += 1
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)  # type: ignore[arg-type]  # typeshed: a recursive type


def dies(act: Callable[[], object], line: int, code: tuple[str, ...]) -> bool:
    """Act in a child that dies at a line; False if it did not get there."""
    child = os.fork()
    if child == 0:
        die_at(line, code)
        act()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, f"failed at line {line}"
    return False
