"""The base lies on the disk as it is in memory, twice at most, and is compared."""

import logging
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tapestry.errors import IncompleteError, VerificationError
from tapestry.model.outer_optimizer import OuterState
from tapestry.model.replica import Replica
from tapestry.tensor_types import narrow, to_bytes, type_name
from tapestry_node.round.base_snapshots import FOLDER, BaseSnapshots
from tests.support.file_limits import file_limit
from tests.support.refusals import refused
from tests.support.replicas import replica_of

KINDS = ("F32", "BF16", "F16")


def given(kind: str = "F32", *, size: int = 40) -> Replica:
    values = np.random.default_rng(3).uniform(0.5, 1, (4, size)).astype(np.float32)
    return replica_of({"w": narrow(values, kind), "z/frozen": narrow(values, kind)})


def stepped(start: Replica, step: int = 1) -> Replica:
    """Move one tensor to values that no half precision holds, with both moments."""
    shape = start.parameters["w"].shape
    values = np.random.default_rng(step).standard_normal(shape).astype(np.float32)
    return start.moved(
        {**start.parameters, "w": values},
        known={},
        optimizer=OuterState(
            step=step, first={"w": -values}, second={"w": values * values}
        ),
    )


def end_of(replica: Replica, **changes: str) -> Any:
    named = {
        "base_after": replica.digest,
        "release_digest": replica.release_digest,
        "outer_digest": replica.optimizer.digest,
    }
    return SimpleNamespace(round_number=1, **{**named, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_comes_back_bit_for_bit(tmp_path: Path, kind: str) -> None:
    snapshots = BaseSnapshots(directory=tmp_path, given=given(kind))
    after = stepped(snapshots.given)
    snapshots.keep(9, after)
    found = snapshots.read(9, end_of(after))
    for here, there in (
        (found.parameters, after.parameters),
        (found.optimizer.first, after.optimizer.first),
        (found.optimizer.second, after.optimizer.second),
    ):
        assert here.keys() == there.keys()
        for name, tensor in there.items():
            assert type_name(here[name]) == type_name(tensor)
            assert bytes(to_bytes(here[name])) == bytes(to_bytes(tensor))
    assert type_name(found.parameters["w"]) == "F32"
    assert found.types == snapshots.given.types
    assert (found.digest, found.hashes) == (after.digest, after.hashes)
    assert (found.release_digest == found.digest) == (kind == "F32")
    frozen = snapshots.given.parameters["z/frozen"]
    assert found.parameters["z/frozen"] is frozen  # no second copy


def test_a_base_that_no_round_moved_comes_back(tmp_path: Path) -> None:
    snapshots = BaseSnapshots(directory=tmp_path, given=given())
    snapshots.keep(9, snapshots.given)
    found = snapshots.read(9, end_of(snapshots.given))
    assert (found.digest, found.optimizer.step) == (snapshots.given.digest, 0)


@pytest.mark.parametrize("field", ["base_after", "release_digest", "outer_digest"])
def test_a_base_that_the_log_does_not_name_is_not_used(
    tmp_path: Path, field: str
) -> None:
    snapshots = BaseSnapshots(directory=tmp_path, given=given("BF16"))
    after, other = stepped(snapshots.given), stepped(snapshots.given, 2)
    snapshots.keep(9, after)
    said = end_of(after, **{field: getattr(end_of(other), field)})
    with refused(VerificationError, "replica-differs"):
        snapshots.read(9, said)


def test_a_snapshot_that_is_not_there_is_no_crash(tmp_path: Path) -> None:
    snapshots = BaseSnapshots(directory=tmp_path, given=given())
    snapshots.sweep()
    assert snapshots.held() == []
    with refused(IncompleteError, "file-missing"):
        snapshots.read(9, end_of(snapshots.given))


def test_the_last_two_are_kept_for_the_nodes_user_alone(tmp_path: Path) -> None:
    snapshots = BaseSnapshots(directory=tmp_path, given=given())
    folder = tmp_path / FOLDER
    folder.mkdir()
    for name in ("notes.txt", "012.safetensors", "99.safetensors", "5.safetensors.new"):
        (folder / name).write_bytes(b"x")
    (folder / "98.safetensors").mkdir()
    snapshots.sweep()
    for index in (9, 14, 20, 31):
        snapshots.keep(index, stepped(snapshots.given, index))
    assert snapshots.held() == [31, 20]  # also none of a round that is to come
    assert {path.name for path in folder.iterdir()} == {
        *("notes.txt", "012.safetensors", "98.safetensors"),
        *("20.safetensors", "31.safetensors"),
    }
    modes = [snapshots.path(index).stat().st_mode & 0o777 for index in (20, 31)]
    assert modes == [0o600] * 2


def test_a_full_disk_costs_the_snapshot_and_leaves_no_half_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = BaseSnapshots(directory=tmp_path, given=given(size=2000))
    for index in (9, 14):
        snapshots.keep(index, stepped(snapshots.given, index))
    with file_limit(20_000):
        snapshots.keep(20, stepped(snapshots.given, 20))
    assert snapshots.held() == [14]
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["14.safetensors"]
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert "20.safetensors" in said.getMessage()
    assert "[file-unwritable]; the round was taken" in said.getMessage()
    snapshots.keep(31, stepped(snapshots.given, 31))
    assert snapshots.held() == [31, 14]


def test_a_file_in_the_place_of_the_folder_costs_the_snapshot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = BaseSnapshots(directory=tmp_path, given=given())
    (tmp_path / FOLDER).write_bytes(b"mine")
    snapshots.sweep()
    snapshots.keep(9, stepped(snapshots.given))
    assert "[file-unwritable]" in caplog.text
    assert (tmp_path / FOLDER).read_bytes() == b"mine"


def test_neither_writing_nor_reading_holds_the_model_once_more(tmp_path: Path) -> None:
    snapshots = BaseSnapshots(directory=tmp_path, given=given(size=200_000))
    after = stepped(snapshots.given)
    size = 3 * after.parameters["w"].nbytes  # with both moments
    tracemalloc.start()
    try:
        snapshots.keep(9, after)
        assert tracemalloc.get_traced_memory()[1] < size / 10
        found = snapshots.read(9, end_of(after))
        assert tracemalloc.get_traced_memory()[1] < size * 1.1
    finally:
        tracemalloc.stop()
    assert found.digest == after.digest
