"""Renderer of chat templates, which are programs of strangers: in bounded processes.

A template is Jinja that came with a base. Transformers keeps it from files and from
Python's objects, and lets it compute for as long and as much as it likes, read the
clock and draw at random. Here a separate process renders each, with a fixed clock.

Guarantees:
    A rendering takes at most ``SECONDS`` of processor time and, where the system limits
    it, ``BYTES`` of memory, and prints at most ``CHARACTERS``; what takes more is a
    refusal that says so. The same turns give the same text every day: the clock that
    a template reads stands at 2026-01-01, chance is refused, sets have one order, and
    no object shows where it lies in memory. The process gets none of the environment
    but a few usual variables.

Not protected:
    The process is bounded and not confined: that a template reads no file rests on the
    sandbox of Jinja.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tapestry.errors import ResourceError
from tapestry.workloads.language.dialogue import Dialogue

SECONDS = 10
BYTES = 2 << 30
CHARACTERS = 1 << 20
_WAIT = 300  # seconds, also of a machine under load
_KEPT = {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH"}  # of ours
_PROGRAM = Path(__file__).with_name("template_process.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderingJob:
    """Turns to print, the first of the user; ``prompt`` awaits an answer after them."""

    turns: tuple[str, ...]
    prompt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The text that a template printed, or else the reason for none."""

    text: str = ""
    reason: str | None = None


@lru_cache(maxsize=64)
def render(
    template: str,
    variables: tuple[tuple[str, str], ...],
    jobs: tuple[RenderingJob, ...],
) -> tuple[Rendered, ...]:
    """Render each job, in one process for all of them.

    Raises:
        ResourceError: No process can be started, or it ends for another reason.
    """
    request = {
        "template": template,
        "variables": dict(variables),
        "jobs": [
            {"messages": Dialogue(turns=job.turns).messages(), "prompt": job.prompt}
            for job in jobs
        ],
        "seconds": SECONDS,
        "bytes": BYTES,
        "characters": CHARACTERS,
    }
    done = _run(json.dumps(request).encode())
    if (reason := _end(done)) is not None:
        return (Rendered(reason=reason),) * len(jobs)
    answers: Sequence[dict[str, str]] = json.loads(done.stdout)
    return tuple(Rendered(**answer) for answer in answers)


def _end(done: subprocess.CompletedProcess[bytes]) -> str | None:
    """Say why a template ended its process; None if it did not."""
    if done.returncode == 0:
        return None
    said = done.stderr.decode("utf-8", "replace").split("\n")[-2:]
    if done.returncode == -signal.SIGXCPU:
        return f"it takes over {SECONDS} seconds of processor time"
    if said[0] == "MemoryError":
        return "it takes too much memory"
    if -done.returncode in (signal.SIGSEGV, signal.SIGABRT):
        return f"it ends the process that renders it, by signal {-done.returncode}"
    if done.returncode < 0:  # of an operator, or of a system that lacks memory
        raise ResourceError(
            f"the process that renders chat templates was ended by signal"
            f" {-done.returncode}; try again when the machine has less to do",
            code="template-process-failed",
        )
    raise ResourceError(
        f"the process that renders chat templates ended with {done.returncode}:"
        f" {' '.join(' '.join(said).split())[:200]}",
        code="template-process-failed",
    )


def _run(request: bytes) -> subprocess.CompletedProcess[bytes]:
    """Start the process and wait for it."""
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONHASHSEED": "0",  # the order of sets
        "PYTHONIOENCODING": "utf-8",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # each thread takes memory
        "OPENBLAS_NUM_THREADS": "1",
    }
    try:
        return subprocess.run(
            [sys.executable, "-P", "-W", "ignore", str(_PROGRAM)],
            input=request,
            capture_output=True,
            timeout=_WAIT,
            check=False,
            start_new_session=True,  # a signal to our group is not for it
            env={k: v for k, v in os.environ.items() if k in _KEPT} | own,
        )
    except subprocess.TimeoutExpired:
        raise ResourceError(
            f"rendering a chat template took over {_WAIT} seconds; try again when the"
            " machine has less to do",
            code="template-too-slow",
        ) from None
    except OSError as error:
        said = error.strerror
        raise ResourceError(
            f"cannot start {sys.executable}: {said}", code="template-process-failed"
        ) from error
