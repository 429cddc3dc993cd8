"""The given base, built once."""

from tests.federations import base

__all__ = ["base"]
