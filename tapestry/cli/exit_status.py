"""The exit statuses of every command: one table, and the errors behind each line.

Guarantees:
    ``FAILED`` is the status of cryptographic failures alone. A mistake of the caller,
    a fault of the machine and a bug of the program each have their own status, so that
    a script never takes one of them for tampering, or tampering for one of them.

Not protected:
    A signal that ends the process, such as SIGKILL, leaves the shell's own status.
"""

import errno
import sqlite3
from collections.abc import Iterable
from enum import IntEnum

from tapestry.errors import (
    ConfigError,
    ForeignFileError,
    IncompleteError,
    PolicyError,
    ResourceError,
    RuleError,
    TapestryError,
    WithdrawnError,
)


class ExitStatus(IntEnum):
    """The exit status of a command."""

    HOLDS = 0
    FAILED = 1
    RULE_BROKEN = 2
    INCOMPLETE = 3
    FOREIGN_FILE = 4
    PROVISIONAL = 5
    USAGE = 64
    INTERNAL = 70
    INTERRUPTED = 130


MEANINGS = {
    ExitStatus.HOLDS: "done, or everything that was checked holds",
    ExitStatus.FAILED: "a signature, proof, digest or format does not hold",
    ExitStatus.RULE_BROKEN: "a rule is broken, or a policy or privacy budget refuses",
    ExitStatus.INCOMPLETE: "something needed is missing, or the machine refuses",
    ExitStatus.FOREIGN_FILE: "a folder holds a file that is not part of it",
    ExitStatus.PROVISIONAL: "it holds, but members did not approve, or withdrew it",
    ExitStatus.USAGE: "wrong usage: an argument, an option or a setting",
    ExitStatus.INTERNAL: "a fault of this program; please report it",
    ExitStatus.INTERRUPTED: "interrupted",
}
"""The meaning of each status."""

_KINDS: tuple[tuple[tuple[type[BaseException], ...], ExitStatus], ...] = (
    ((ConfigError, UnicodeError), ExitStatus.USAGE),
    ((RuleError, PolicyError), ExitStatus.RULE_BROKEN),
    ((ForeignFileError,), ExitStatus.FOREIGN_FILE),
    ((WithdrawnError,), ExitStatus.PROVISIONAL),
    ((IncompleteError, ResourceError), ExitStatus.INCOMPLETE),
    ((TapestryError,), ExitStatus.FAILED),
    ((KeyboardInterrupt,), ExitStatus.INTERRUPTED),
    ((OSError, sqlite3.Error), ExitStatus.INCOMPLETE),
    ((MemoryError, RecursionError, EOFError), ExitStatus.INCOMPLETE),
)
_SEVERITY = (
    ExitStatus.FAILED,
    ExitStatus.RULE_BROKEN,
    ExitStatus.FOREIGN_FILE,
    ExitStatus.INCOMPLETE,
    ExitStatus.PROVISIONAL,
)


def status_of(error: BaseException) -> ExitStatus:
    """Return the exit status of a command that ends with this error.

    Edge cases:
        A missing package is the machine's, unless it is a module of Tapestry: that
        is a bug, as is every error that this function does not know.
    """
    for kinds, status in _KINDS:
        if isinstance(error, kinds):
            return status
    # An ImportError names its module; where that is one of Tapestry's, it is a bug.
    if isinstance(error, ImportError):
        is_ours = (error.name or "tapestry").startswith("tapestry")
        return ExitStatus.INTERNAL if is_ours else ExitStatus.INCOMPLETE
    return ExitStatus.INTERNAL


def worst(statuses: Iterable[ExitStatus]) -> ExitStatus:
    """Return the status of several checks together; HOLDS if none found anything.

    Cryptographic failures come first, then broken rules, then foreign files, and last
    what is missing.
    """
    found = set(statuses)
    return next((each for each in _SEVERITY if each in found), ExitStatus.HOLDS)


def is_broken_pipe(error: BaseException) -> bool:
    """Return whether the reader of the output went away."""
    return isinstance(error, OSError) and error.errno == errno.EPIPE
