"""Calls of Flower's command-line programs, with answers in JSON."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tapestry.errors import ResourceError

_SECONDS = 60.0
_FRAME = re.compile("[\u2500-\u257f]")  # box drawing, in which Flower frames errors


def program(name: str) -> str:
    """Return the path of a program, beside this Python or else on the search path.

    Raises:
        ResourceError: The program is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ResourceError(
            f"no {name}; in the source folder: make setup, or pip install '.[demo]'",
            code="package-missing",
        )
    return found


def flwr(arguments: Sequence[str], *, environment: Mapping[str, str]) -> Any:
    """Call ``flwr`` and return its answer.

    Raises:
        ResourceError: ``flwr`` is not installed, did not answer within a minute, or
            failed; the message is one line.
    """
    try:
        done = subprocess.run(
            [program("flwr"), *arguments, "--format", "json"],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ResourceError(
            f"flwr {arguments[0]} did not answer within {_SECONDS:.0f} seconds",
            code="flwr-unresponsive",
        ) from None
    answer = _json(done.stdout)
    if done.returncode or not answer.get("success"):
        said = str(answer.get("error-message") or done.stderr or done.stdout)
        raise ResourceError(
            f"flwr {arguments[0]} failed: {one_line(said)}", code="flwr-failed"
        )
    return answer


def one_line(text: str) -> str:
    """Return the last line that is not empty, without its frame."""
    lines = [_FRAME.sub("", line).strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "no message")[:300]


def _json(output: str) -> dict[str, Any]:
    try:
        answer = json.loads(output[output.find("{") :])
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
