"""How a node reads the fields of a request; whatever is wrong is the protocol's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tapestry.errors import PolicyError, ProtocolError
from tapestry.protocol.messages import Reason
from tapestry_node.refusal import Refused


def read_note(body: Any) -> bytes:
    """Read the checkpoint that a request shows.

    Raises:
        ProtocolError: It shows none.
    """
    with fields():
        return str(body["checkpoint"]).encode()


@contextmanager
def stale() -> Iterator[None]:
    """Say of a checkpoint's age that it was its age."""
    try:
        yield
    except PolicyError as error:
        raise Refused(Reason.STALE_CHECKPOINT, str(error)) from None


@contextmanager
def fields() -> Iterator[None]:
    """Turn a missing or wrong field of a request into an error of the protocol."""
    try:
        yield
    except (KeyError, TypeError, ValueError):
        raise ProtocolError("a field of the request is missing or wrong") from None
