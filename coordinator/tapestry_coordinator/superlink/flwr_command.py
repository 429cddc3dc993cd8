"""Flower's programs, called as a person would call them; answers in JSON."""

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
    """Find a program beside our Python, or else on the path.

    Raises:
        ResourceError: It is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ResourceError(
            f"no {name}; in the source folder: make setup, or pip install '.[demo]'"
        )
    return found


def flwr(arguments: Sequence[str], *, environment: Mapping[str, str]) -> Any:
    """Call ``flwr``; return what it answers.

    Raises:
        ResourceError: It failed; the message is one line.
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
        raise ResourceError(f"flwr {arguments[0]} did not answer") from None
    answer = _json(done.stdout)
    if done.returncode or not answer.get("success"):
        said = str(answer.get("error-message") or done.stderr or done.stdout)
        raise ResourceError(f"flwr {arguments[0]} failed: {one_line(said)}")
    return answer


def one_line(text: str) -> str:
    """Return the last line that says something, without its frame."""
    lines = [_FRAME.sub("", line).strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "no message")[:300]


def _json(output: str) -> dict[str, Any]:
    try:
        answer = json.loads(output[output.find("{") :])
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
