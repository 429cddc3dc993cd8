"""The given base, built once; federations, and folders of nodes that do not run."""

from tests.support.federation_fixtures import base, found
from tests.support.node_folders import idle, loaded, used

__all__ = ["base", "found", "idle", "loaded", "used"]
