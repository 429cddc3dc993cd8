"""The given base, built once; and federations that end with their test."""

from tests.support.federation_fixtures import Found, base, found
from tests.support.founding_fixtures import (
    chartered,
    founded,
    requested,
    with_charter,
    with_log,
    with_requests,
)
from tests.support.node_folders import loaded
from tests.support.operated_adapters import settled

__all__ = [
    "Found",
    "base",
    "chartered",
    "found",
    "founded",
    "loaded",
    "requested",
    "settled",
    "with_charter",
    "with_log",
    "with_requests",
]
