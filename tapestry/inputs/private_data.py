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

import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from tapestry.errors import ConfigError, PolicyError, ResourceError
from tapestry.inputs.faults import HiddenError, unforeseen

_In = ParamSpec("_In")
_Out = TypeVar("_Out")
_WRITTEN_HERE = (ConfigError, PolicyError, ResourceError)
_OF_THE_MACHINE = (OSError, ImportError)


def hides_records(function: Callable[_In, _Out]) -> Callable[_In, _Out]:
    """Let no error that may carry a record leave a function.

    Edge cases:
        ``MemoryError`` and ``RecursionError`` keep their type, without arguments.

    Raises:
        HiddenError: The function raised an error that others wrote.
    """

    @wraps(function)
    def call(*positional: _In.args, **named: _In.kwargs) -> _Out:
        try:
            return function(*positional, **named)
        except HiddenError:
            raise
        except (*_WRITTEN_HERE, *_OF_THE_MACHINE) as error:
            error.__cause__ = error.__context__ = None
            raise
        except (MemoryError, RecursionError) as error:
            found: Exception = type(error)()
        except Exception as error:  # noqa: BLE001 - whatever it is, it may quote a record
            found = HiddenError(unforeseen(error), frames_of(error))
        raise found  # here, where it has no context

    return call


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
