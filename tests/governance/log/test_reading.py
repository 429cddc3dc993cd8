"""A reader of the log writes nothing, whether or not a writer has it open."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import InconsistentLog, ResourceError
from tapestry_governance.log.writer import Log
from tests.support.cosigning import LOG_KEY, entry, public_files, publish
from tests.support.refusals import refused


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log.create(tmp_path / "log", key=LOG_KEY) as log:
        yield log


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A closed log of 300 entries, of which 290 are public."""
    with Log.create(tmp_path / "closed", key=LOG_KEY) as log:
        log.append([entry(number) for number in range(290)])
        publish(log)
        log.append([entry(number) for number in range(290, 300)])
    return tmp_path / "closed"


def test_a_log_is_read_while_it_is_written(log: Log, tmp_path: Path) -> None:
    log.append([entry(0), entry(1)])
    publish(log)
    log.append([entry(2)])
    found = [entry(0), entry(1), entry(2)]
    assert Log.read(tmp_path / "log", key=LOG_KEY) == found
    log.append([entry(3)])
    assert Log.read(tmp_path / "log", key=LOG_KEY) == [*found, entry(3)]


def test_reading_a_log_finishes_nothing(copied: Path) -> None:
    """The writer finishes what a crash left out."""
    shutil.rmtree(copied / "public" / "tile")
    (copied / "lock").unlink()
    (copied / "public" / "checkpoint").unlink()
    before = public_files(copied)
    assert len(Log.read(copied, key=LOG_KEY)) == 300
    assert public_files(copied) == before
    assert not (copied / "lock").exists()


def test_a_log_behind_its_public_checkpoint_is_not_read(
    copied: Path, tmp_path: Path
) -> None:
    with Log.create(tmp_path / "short", key=LOG_KEY) as short:
        short.append([entry(0)])
    shutil.copy(tmp_path / "short" / "log.db", copied / "log.db")
    for read in (Log.read, Log.open):
        with refused(InconsistentLog, "log-restored", match="290 .* 1:"):
            read(copied, key=LOG_KEY)


def test_a_public_checkpoint_that_is_too_large_is_not_read(copied: Path) -> None:
    os.truncate(copied / "public" / "checkpoint", 1 << 40)
    for read in (Log.read, Log.open):
        with refused(InconsistentLog, "file-too-large"):
            read(copied, key=LOG_KEY)


def test_a_lock_that_is_a_link_is_not_followed(copied: Path, tmp_path: Path) -> None:
    (copied / "lock").unlink(missing_ok=True)
    (copied / "lock").symlink_to(tmp_path / "made")
    with refused(ResourceError, "lock-unavailable", match="lock"):
        Log.open(copied, key=LOG_KEY)
    assert not (tmp_path / "made").exists()
