"""Flower's programs as this one meets them: where they are, and what they say."""

import re
import shutil
import sys
from pathlib import Path

from tapestry.errors import ResourceError

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


def one_line(text: str) -> str:
    """Return the last line that is not empty, without its frame."""
    lines = [_FRAME.sub("", line).strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "no message")[:300]
