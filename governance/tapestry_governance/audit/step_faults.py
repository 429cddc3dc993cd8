"""Unforeseen errors inside a step of a check: each names its step, none is a verdict.

Guarantees:
    What no rule foresees is never a verdict about signatures, rules or files: a bug
    ends the command with the status of a bug, an exhausted machine with that of a
    check that is incomplete. The text of the error is not shown.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tapestry.errors import ResourceError, TapestryError
from tapestry.inputs.faults import HiddenError, unforeseen
from tapestry.inputs.private_data import frames_of


@contextmanager
def within_step(name: str) -> Iterator[None]:
    """Name the step in every error that no rule foresees.

    Edge cases:
        A file that cannot be read, and a missing package, are told as they are.

    Raises:
        ResourceError: The memory or the stack of the machine does not suffice.
        HiddenError: The step has a bug.
    """
    try:
        yield
    except (MemoryError, RecursionError) as error:
        raise ResourceError(
            f"step {name} ends with {type(error).__name__}; use a machine with more"
            " memory",
            code="machine-exhausted",
        ) from error
    except (TapestryError, OSError, ImportError, HiddenError):
        raise
    except Exception as error:  # noqa: BLE001 - the last place that knows the step
        place = f"{unforeseen(error)}, in step {name}"
        raise HiddenError(place, frames_of(error)) from None
