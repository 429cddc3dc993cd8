"""Run the command line in this process, as a shell would see it."""

import io
import logging
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock

import pytest

from tapestry.cli import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a command."""

    exit_code: int
    stdout: str
    stderr: str


def tapestry(*words: object, typed: str | None = None) -> Result:
    """Run ``tapestry`` with these words; ``typed`` is its standard input."""
    out, err = io.StringIO(), io.StringIO()
    stdin = io.StringIO(typed or "")
    with redirect_stdout(out), redirect_stderr(err), mock.patch("sys.stdin", stdin):
        status = exit_status(map(str, words))
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return Result(exit_code=status, stdout=out.getvalue(), stderr=err.getvalue())


def exit_status(words: Iterable[str]) -> int:
    """Run the command line and return the status that it ends with.

    A command logs to its standard error; what follows in this process must not.
    """
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        with pytest.raises(SystemExit) as end:
            main(list(words))
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
    assert isinstance(end.value.code, int)
    return end.value.code
