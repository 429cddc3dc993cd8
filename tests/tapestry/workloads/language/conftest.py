"""The given base, built once."""

from tests.support.federation_fixtures import base

__all__ = ["base"]
