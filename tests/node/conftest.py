"""The given base, built once; federations, and folders of nodes that do not run."""

from tests.support.federation_fixtures import base, found
from tests.support.node_folders import idle, loaded, used
from tests.support.operated_adapters import settled
from tests.support.superlink import engine

__all__ = ["base", "engine", "found", "idle", "loaded", "settled", "used"]
