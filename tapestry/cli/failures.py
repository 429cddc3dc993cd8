"""Describes every error in one line: what is wrong and what repairs it.

Guarantees:
    The text of an error is shown only if it is Tapestry's or the machine's. Any other
    may carry a record.
"""

import sqlite3

from tapestry.cli.exit_status import ExitStatus, status_of
from tapestry.errors import TapestryError
from tapestry.inputs.faults import TRACEBACK, unforeseen

_ROLES_WITH_EXTRAS = {"demo", "node", "coordinator", "chat", "serve"}
_KNOWN: dict[type[BaseException], str] = {
    KeyboardInterrupt: "interrupted",
    EOFError: "the input ended before an answer was given",
    MemoryError: "out of memory; close other programs or use a larger machine",
    RecursionError: "something that was given is nested too deeply to be read",
    UnicodeError: "text that was given is not valid UTF-8; save or type it as UTF-8",
}


def describe(error: BaseException, role: str) -> str:
    """Return one line about an error that ended a command of a role."""
    if isinstance(error, TapestryError):
        return str(error)
    for kind, text in _KNOWN.items():
        if isinstance(error, kind):
            return text
    if status_of(error) is ExitStatus.INTERNAL:
        return _internal(error)
    if isinstance(error, ImportError):
        return _missing(error, role)
    return _refused(error)


def _missing(error: ImportError, role: str) -> str:
    """Name the extra that brings a package along."""
    name = (error.name or "").split(".")[0]
    absent = isinstance(error, ModuleNotFoundError)
    state = "is not installed" if absent else "is of another version than is needed"
    if role not in _ROLES_WITH_EXTRAS:
        return (
            f"{name} {state}; install again: pip install tapestry-federated,"
            " or . in the source folder"
        )
    return (
        f"{name} {state}; tapestry {role} needs the extra {role!r}: pip install"
        f" 'tapestry-federated[{role}]', or '.[{role}]' in the source folder"
    )


def _refused(error: BaseException) -> str:
    """Name what the machine refuses, and the file or stream."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    where = getattr(error, "filename", None)
    if isinstance(error, sqlite3.Error):
        why = f"database: {why}"
    text = f"{where}: {why}" if where else str(why)
    return " ".join(text.split())


def _internal(error: BaseException) -> str:
    """Name the place of a bug, and nothing of the data that it was working on."""
    return (
        f"internal error: {unforeseen(error)}; please report it; {TRACEBACK}=1 shows"
        " the traceback"
    )
