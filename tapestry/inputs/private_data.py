"""Errors of code that has private records at hand: without a byte of a record.

A library quotes in its error what it was given, and Python keeps with an error the one
that it replaced. So functions that read, encode or train on records carry
``hides_records``: what leaves them is an error that this repository wrote for an
operator, without the chain behind it, or a ``HiddenError``.

Guarantees:
    Neither the text, the arguments, the cause nor the context of an error that leaves
    such a function comes from anything but this repository or the operating system.

Not protected:
    The frames of a traceback refer to local variables. ``frames_of`` shows none of
    them, and a debugger that is attached to the process shows all.
"""

import os
import traceback
from contextlib import ContextDecorator

from tapestry.errors import ConfigError, PolicyError, ResourceError
from tapestry.inputs.faults import HiddenError, unforeseen

_WRITTEN_HERE = (ConfigError, PolicyError, ResourceError)


class _Hiding(ContextDecorator):
    """Let no error that may carry a record leave a function.

    Edge cases:
        ``MemoryError`` and ``RecursionError`` keep their type, without arguments, and
        an ``OSError`` its number alone.

    Raises:
        HiddenError: The function raised an error that others wrote.
    """

    def __enter__(self) -> None:
        """Begin; there is nothing to prepare."""

    def __exit__(self, *found: object) -> None:
        """Replace the error that ends the function, if it may carry a record."""
        error = found[1]
        if not isinstance(error, Exception) or isinstance(error, HiddenError):
            return
        if isinstance(error, _WRITTEN_HERE):
            error.__cause__ = error.__context__ = None
            return
        if isinstance(error, (MemoryError, RecursionError)):
            hidden: Exception = type(error)()
        elif isinstance(error, OSError) and error.errno is not None:
            hidden = OSError(error.errno, os.strerror(error.errno))  # and no path
        else:
            hidden = HiddenError(unforeseen(error), frames_of(error))
        try:
            raise hidden  # noqa: TRY301 - to take its context away below
        except Exception:
            hidden.__context__ = None  # Python has just put the error there
            raise


hides_records = _Hiding()


def frames_of(error: BaseException) -> str:
    """Print the traceback of an error and of those behind it, with types alone."""
    parts = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        lines = "".join(traceback.format_tb(current.__traceback__))
        if isinstance(current, HiddenError):
            lines = f"{lines}{current.frames}"
        parts.append(f"{lines}{type(current).__name__}\n")
        current = current.__cause__ or current.__context__
    said = "which led to:\n".join(reversed(parts))
    return f"Traceback (most recent call last):\n{said}"
