"""The coordinator's journal: rounds, sums and facts after a restart."""

from pathlib import Path

import numpy as np
import pytest

from tapestry.errors import IncompleteError, ResourceError
from tapestry_coordinator.journal import Journal
from tests.node.test_node_state import spoil
from tests.support.file_limits import file_limit
from tests.support.refusals import refused


def test_rounds_come_back_as_they_were_left(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open_round(1, b"first")
    journal.store_result(1, b"result")
    journal.settle(1, "closed")
    journal.open_round(2, b"second")
    journal.settle(2, "aborted")
    journal.open_round(3, b"third")
    journal.close()
    journal = Journal(tmp_path)
    rows = [(r.number, r.status, r.manifest, r.result) for r in journal.rounds()]
    assert rows == [
        (1, "closed", b"first", b"result"),
        (2, "aborted", b"second", None),
        (3, "open", b"third", None),
    ]
    assert journal.row(2).manifest == b"second"
    with refused(IncompleteError, "journal-round-missing", match="round 4"):
        journal.row(4)
    assert journal.result(1) == b"result"
    with refused(IncompleteError, "journal-result-missing", match="round 3"):
        journal.result(3)
    journal.close()


def test_a_round_that_is_opened_again_has_no_result(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open_round(1, b"first")
    journal.store_result(1, b"result")
    journal.open_round(1, b"other")
    assert journal.row(1).result is None
    assert journal.row(1).manifest == b"other"
    journal.close()


@pytest.mark.parametrize("length", [0, 1, 100_000])
def test_a_sum_is_read_as_it_was_written(tmp_path: Path, length: int) -> None:
    journal = Journal(tmp_path)
    total = np.random.default_rng(1).integers(0, 2**32, length, dtype=np.uint32)
    journal.store_sum(7, total)
    assert np.array_equal(journal.load_sum(7), total)
    journal.store_sum(7, total[::-1])
    assert np.array_equal(journal.load_sum(7), total[::-1])
    assert [path.suffix for path in (tmp_path / "sums").iterdir()] == [".u32"]
    with refused(IncompleteError, "file-missing", match="00008.*round 8"):
        journal.load_sum(8)
    journal.close()


def test_a_half_written_sum_is_not_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (tmp_path / "sums" / "round-00001.u32.new").write_bytes(b"half")
    with refused(IncompleteError, "file-missing"):
        journal.load_sum(1)
    journal.close()


def test_facts_are_replaced_by_name(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.set_fact("b", "1")
    journal.set_fact("a", "2")
    journal.set_fact("b", "3")
    assert journal.facts() == {"a": "2", "b": "3"}
    journal.close()


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused(ResourceError, "file-unwritable", match=r"^[^\n]+sums[^\n]+$"):
        Journal(tmp_path / "file")
    (tmp_path / "journal.db").write_bytes(b"not a database, but long enough " * 40)
    with refused(ResourceError, "database-damaged", match=r"journal\.db"):
        Journal(tmp_path)


def test_a_full_disk_is_named_in_one_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.database.execute("PRAGMA max_page_count=1")
    with refused(ResourceError, "database-unavailable", match=r"journal\.db: .*full$"):
        journal.open_round(1, b"manifest" * 10_000)
    with refused(ResourceError, "database-unavailable", match=r"journal\.db: .*full$"):
        journal.set_fact("a", "b" * 100_000)
    no_room = refused(ResourceError, "file-unwritable", match=r"round-00001\.u32")
    with file_limit(10_000), no_room:
        journal.store_sum(1, np.zeros(10_000, dtype=np.uint32))
    assert list((tmp_path / "sums").iterdir()) == []
    journal.close()


@pytest.mark.parametrize("readonly", [False, True])
def test_a_row_that_lost_its_types_is_damage(tmp_path: Path, *, readonly: bool) -> None:
    journal = Journal(tmp_path)
    journal.open_round(1, b"first")
    journal.close()
    spoil(tmp_path / "journal.db", "round", "UPDATE round SET manifest = 7")
    with refused(ResourceError, "database-damaged", match=r"journal\.db"):
        Journal(tmp_path, readonly=readonly)


def test_a_node_that_is_left_out_stays_left_out_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.set_fact("scores", "{}")
    assert journal.left_out() == set()
    journal.leave_out("fr", "bad_shares")
    journal.close()
    journal = Journal(tmp_path)
    assert journal.left_out() == {"fr"}
    journal.close()
