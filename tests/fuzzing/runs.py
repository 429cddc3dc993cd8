"""Run a case in this process, or in one of its own, as a shell would."""

import io
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn
from unittest import mock

import torch

from tapestry.cli import main
from tests.fuzzing.cases import Case
from tests.fuzzing.surroundings import Surroundings
from tests.fuzzing.verdicts import Outcome

SECONDS = 300  # after which a case hangs; the slowest takes ten on a busy machine
_ADDRESSES = 16 << 20  # KiB that a process may map; a terabyte of a file is more
_MEMORY = 2 << 30  # bytes that a case may map beside what is mapped already


class Hung(BaseException):
    """A case took too long; nobody catches this but the end of the program."""


_WITHOUT_END = (
    "tapestry_node.flower.serve",
    "tapestry_coordinator.superlink.service_process._serve_once",
    "tapestry.cli.live_status.pause",
)


def run_here(case: Case, work: Path, *, cache: Path) -> Outcome:
    """Run a case in this process; work without an end is interrupted at once."""
    around, out, err = case.surroundings, io.BytesIO(), io.BytesIO()
    sinks = {"stdin": io.BytesIO(around.stdin), "stdout": out, "stderr": err}
    streams: dict[str, Any] = {
        name: None if name in around.closed else io.TextIOWrapper(sink, around.encoding)
        for name, sink in sinks.items()
    }
    status: int | None = None
    with ExitStack() as stack:
        stack.enter_context(_contained())
        stack.enter_context(mock.patch.dict(os.environ, clear=True))
        os.environ.update(_environment(around, cache))
        stack.enter_context(chdir(work))
        stack.enter_context(mock.patch.multiple(sys, **streams))
        stack.enter_context(mock.patch("tapestry_demo.demo_command._work", _interrupt))
        for served in _WITHOUT_END:
            stack.enter_context(mock.patch(served, _interrupt))
        with suppress(Hung):
            try:
                main(list(case.words))
            except SystemExit as end:
                status = int(end.code or 0)
    for stream in filter(None, streams.values()):
        stream.flush()
    return _outcome(status, out, err)


def run_apart(case: Case, work: Path, *, cache: Path) -> Outcome:
    """Run a case in a process of its own, which may not read what modes forbid."""
    around, status = case.surroundings, None
    program = [*_without_rights(), sys.executable, "-m", "tapestry", *case.words]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _script(around), "sh", *program],
            cwd=work,
            env=_environment(around, cache),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            process.communicate(around.stdin, timeout=SECONDS)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return _outcome(status, out, err)


def _outcome(status: int | None, *files: IO[bytes]) -> Outcome:
    for file in files:
        file.seek(0)
    out, err = (file.read().decode("utf-8", "backslashreplace") for file in files)
    return Outcome(status=status, stdout=out, stderr=err)


def _environment(around: Surroundings, cache: Path) -> dict[str, str]:
    found = {**os.environ, "TAPESTRY_CACHE": str(cache), **around.environment}
    return {name: value for name, value in found.items() if value is not None}


@cache
def _without_rights() -> tuple[str, ...]:
    """Return what gives up root's right to read everything, where it is held."""
    tool = shutil.which("setpriv")
    if os.geteuid() != 0 or tool is None:
        return ()
    words = (tool, "--inh-caps=-all", "--bounding-set=-all")
    tried = subprocess.run([*words, sys.executable, "-c", ""], check=False)
    return words if tried.returncode == 0 else ()


def _script(around: Surroundings) -> str:
    """Write what a shell does before it becomes the command."""
    signs = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-"}
    line = " ".join(['exec "$@"', *(signs[name] for name in around.closed)])
    line += " >/dev/full" if around.full else ""
    return f"ulimit -v {_ADDRESSES}; {line}"


@contextmanager
def _contained() -> Iterator[None]:
    """Bound time and memory of a command, and put back what it sets for its process."""

    def end(*_: Any) -> NoReturn:
        raise Hung

    root = logging.getLogger()
    level, handlers, root.handlers = root.level, root.handlers, []
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    held = {each: signal.getsignal(each) for each in kinds}
    signal.signal(signal.SIGALRM, end)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        root.handlers, root.level = handlers, level
        for each, handler in held.items():
            signal.signal(each, handler)
        torch.set_num_threads(1)


def _interrupt(*_: Any, **_rest: Any) -> NoReturn:
    """Press Ctrl-C for whoever begins a demo, serves or watches."""
    raise KeyboardInterrupt
