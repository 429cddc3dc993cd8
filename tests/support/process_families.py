"""A process that does not listen to signals, and its child in a session of its own."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil

# A child that does not listen, whose own child has a session of its own and, once the
# middle one has ended, another parent.
_STUBBORN = """
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1]], start_new_session=True)
pathlib.Path(sys.argv[1], str(os.getpid())).touch()
time.sleep(300)
"""


def write_stubborn(folder: Path) -> Path:
    """Write the program; its processes leave their numbers beside it."""
    path = folder / "stubborn.py"
    path.write_text(_STUBBORN)
    (folder / "pids").mkdir()
    return path


def arguments(script: Path) -> list[str]:
    return [str(script), str(script.parent / "pids"), "with a child"]


def pids(script: Path, number: int) -> list[int]:
    """Wait until so many processes have said that they run."""
    folder = script.parent / "pids"
    wait_until(lambda: len(list(folder.iterdir())) == number)
    return [int(path.name) for path in folder.iterdir()]


def wait_until(holds: Callable[[], bool], *, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
