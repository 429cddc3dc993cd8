"""A version of the data keeps what the log gets of it, and when the next is due."""

from datetime import UTC, datetime, timedelta

import pytest

from tapestry_node.data.data_version import (
    INTERVAL,
    DataVersion,
    commitment,
    dataset_digest,
)

ONE, TWO = b"1" * 32, b"2" * 32
NOW = datetime(2026, 12, 1, tzinfo=UTC)
VERSION = DataVersion(
    version=2,
    block=2,
    records=100,
    withdrawn=10,
    trains=(1, 2),
    dataset="sha256:a",
    register="sha256:b",
    time=NOW,
)


def test_an_entry_holds_a_version_whole() -> None:
    entry = {**VERSION.body(), "time": NOW.isoformat()}
    assert DataVersion.parse(entry) == VERSION


@pytest.mark.parametrize("early", [0, 1])
def test_versions_are_a_week_apart(early: int) -> None:
    """Daily ones would tell how many persons come and go in a day."""
    assert VERSION.is_due(NOW + INTERVAL - timedelta(seconds=early)) is not bool(early)


def test_a_commitment_opens_with_its_salt_alone() -> None:
    dataset = dataset_digest({"licence": "CC0-1.0"}, ONE + TWO)
    assert commitment(dataset, b"a" * 32) == commitment(dataset, b"a" * 32)
    assert commitment(dataset, b"a" * 32) != commitment(dataset, b"b" * 32)
    assert dataset not in commitment(dataset, b"a" * 32)
    with pytest.raises(ValueError, match="32 bytes"):
        commitment(dataset, b"a" * 31)


def test_a_dataset_is_its_records_and_its_description() -> None:
    same = dataset_digest({"licence": "CC0-1.0"}, ONE + TWO)
    assert same == dataset_digest({"licence": "CC0-1.0"}, TWO + ONE)
    assert same != dataset_digest({"licence": "CC0-1.0"}, ONE)
    assert same != dataset_digest({"licence": "CC0-1.0"}, ONE + TWO + TWO)
    assert same != dataset_digest({"licence": "MIT"}, ONE + TWO)
