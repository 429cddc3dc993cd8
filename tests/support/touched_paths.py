"""The paths that a piece of code opens, makes, lists, moves or removes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_EVENTS = {"open", "glob.glob", "pathlib.Path.glob"}
_current: list[set[str]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if not _current or not (event in _EVENTS or event.startswith(("os.", "shutil."))):
        return
    for each in arguments:
        if isinstance(each, str | bytes | os.PathLike):
            _current[-1].add(os.path.normpath(os.fsdecode(each)))


sys.addaudithook(_note)  # for good: Python has no way to take one out


@contextmanager
def touched() -> Iterator[set[str]]:
    """Collect the paths, normalized, that are touched meanwhile."""
    _current.append(set())
    try:
        yield _current[-1]
    finally:
        _current.pop()
