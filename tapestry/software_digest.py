"""The digest of the running code, which a round names and a node compares.

The digest covers every Python file of the six packages as installed, by path below
the package's folder. Two machines with the same release have the same digest.
"""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tapestry.encoding import canonical_json, digest
from tapestry.errors import ResourceError

PACKAGES = (
    "tapestry",
    "tapestry_coordinator",
    "tapestry_demo",
    "tapestry_governance",
    "tapestry_node",
    "tapestry_serve",
)


@cache
def software_digest() -> str:
    """Digest the installed packages.

    Raises:
        ResourceError: A package is not installed as files.
    """
    rows = []
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ResourceError(
                f"package {package} is not installed as files; install"
                " tapestry-federated again",
                code="package-missing",
            )
        root = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(root.rglob("*.py")):
            inner = hashlib.sha256(path.read_bytes()).hexdigest()
            rows.append([f"{package}/{path.relative_to(root).as_posix()}", inner])
    return digest(canonical_json(rows))
