"""The given base, built once; and federations that end with their test."""

from tests.federations import Found, base, found

__all__ = ["Found", "base", "found"]
