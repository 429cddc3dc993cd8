"""Placeholder until adapting lands."""
from typing import Any

from tapestry.protocol import Message, Reason
from tapestry_node.guard import Refused


def publish(*a: Any, **k: Any) -> Message:
    raise Refused(Reason.MAINTENANCE, "later")
