"""An error of the product as a test expects it: by its kind and its rule's code.

A sentence may be written anew without a test of the rule failing; the code may not::

    with refused(RuleError, "round-not-open"):
        apply(state, entry, index=7)

``match`` is for the values that a message must name, not for its words.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from tapestry.errors import TapestryError

E = TypeVar("E", bound=TapestryError)


@contextmanager
def refused(
    kind: type[E], code: str, *, match: str | None = None
) -> Iterator[pytest.ExceptionInfo[E]]:
    """Expect an error of this kind, or one below it, with this code.

    Args:
        kind: The class.
        code: The rule that is broken.
        match: A pattern that the message must hold, for the values in it.
    """
    with pytest.raises(kind, match=match) as caught:
        yield caught
    assert caught.value.code == code, str(caught.value)
