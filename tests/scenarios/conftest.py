"""The given base, built once; and federations that end with their test."""

from tests.support.federation_fixtures import Found, base, found
from tests.support.node_folders import loaded

__all__ = ["Found", "base", "found", "loaded"]
