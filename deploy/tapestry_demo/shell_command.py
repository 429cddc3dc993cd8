"""Command lines that paste into a shell, from the folder that the user is in."""

import os
import shlex
import shutil
import sys
from pathlib import Path

_NAME = "tapestry"


def command(*words: object) -> str:
    """Write a call of this program as a line of shell.

    Guarantees:
        Each word arrives as it is, whatever it contains. A path that begins with a
        dash is not taken for an option: it gets ``./`` in front.
    """
    return " ".join([program(), *(shlex.quote(_word(word)) for word in words)])


def _word(word: object) -> str:
    text = str(word)
    return f"./{text}" if isinstance(word, Path) and text.startswith("-") else text


def program() -> str:
    """Return a call of this program: by its name, its path, or its Python."""
    python = Path(sys.executable)
    beside = python.with_name(_NAME)
    found = shutil.which(_NAME)
    if found is not None and _same(Path(found), beside):
        return _NAME
    if os.access(beside, os.X_OK):
        return shlex.quote(_from_here(beside))
    return f"{shlex.quote(_from_here(python))} -m {_NAME}"


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _from_here(path: Path) -> str:
    """Spell a program's path so that it is found from the current folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
