"""A founding by the commands, done once, and copies of it for each test."""

from pathlib import Path

import pytest

from tests.support.founding_place import NAMES, Place, asked, ok


@pytest.fixture(scope="session")
def with_requests(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return asked(tmp_path_factory.mktemp("asked") / "place")


@pytest.fixture(scope="session")
def with_charter(
    with_requests: Place, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    place = with_requests.copy(tmp_path_factory.mktemp("chartered") / "place")
    ok(place.write_charter())
    return place


@pytest.fixture(scope="session")
def with_log(with_charter: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = with_charter.copy(tmp_path_factory.mktemp("founded") / "place")
    for name in NAMES:
        ok(place.accept(name))
    ok(place.open())
    return place


@pytest.fixture
def requested(with_requests: Place, tmp_path: Path) -> Place:
    return with_requests.copy(tmp_path / "place")


@pytest.fixture
def chartered(with_charter: Place, tmp_path: Path) -> Place:
    return with_charter.copy(tmp_path / "place")


@pytest.fixture
def founded(with_log: Place, tmp_path: Path) -> Place:
    return with_log.copy(tmp_path / "place")
