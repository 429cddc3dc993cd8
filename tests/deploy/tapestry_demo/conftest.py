from pathlib import Path

import pytest

from tests.support.federation_fixtures import Found, base, found

__all__ = ["Found", "base", "found", "here"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the user is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
