"""Public test vectors of other projects, read where they lie and not copied.

They are in a folder ``shared/vectors`` in this repository or beside it, or in the
folder that ``TAPESTRY_VECTORS`` names; its README has sources and licences. Tests that
need them are skipped where there are none, and say so.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.house.test_house import ROOT

_PLACES = (
    *(
        [Path(os.environ["TAPESTRY_VECTORS"])]
        if "TAPESTRY_VECTORS" in os.environ
        else []
    ),
    ROOT / "shared" / "vectors",
    ROOT.parent / "shared" / "vectors",
)


def read_vectors(name: str) -> Any:
    """Read a file of vectors, or skip the test."""
    for place in _PLACES:
        if (place / name).is_file():
            return json.loads((place / name).read_text("utf-8"))
    pytest.skip(f"no {name} in shared/vectors: this is not checked against others")


def read_wycheproof(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Read a file of Wycheproof's as pairs of a test and its group."""
    groups = read_vectors(name)["testGroups"]
    return [(test, group) for group in groups for test in group["tests"]]
