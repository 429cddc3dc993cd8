"""The given base, built once; and federations that end with their test."""

from tests.support.federation_fixtures import Found, base, found

__all__ = ["Found", "base", "found"]
