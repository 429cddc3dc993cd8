"""Rows of one id become one record, whether they lie in memory or on the disk."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tapestry.storage import sealed_rows
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.joined_rows import JoinedRows, RowCollection, spelling

TALK = Dialogue(turns=("come stai?", "bene"))
ROWS: list[tuple[str | None, Text]] = [
    ("b", "uno"),
    (None, "solo"),
    ("a", TALK),
    ("B", "altro"),
    ("b", "due"),
    (None, ""),
    ("a", TALK),
    ("b", "tre\u2028"),
    (None, "solo"),
]


@pytest.fixture(params=[0, 1 << 20], ids=["disk", "memory"])
def collection(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> RowCollection:
    rows = sealed_rows.SealedRows(tmp_path, room=request.param)
    found = RowCollection(tmp_path)
    monkeypatch.setattr(found, "_rows", rows)
    return found


def _filled(found: RowCollection, rows: list[tuple[str | None, Text]]) -> JoinedRows:
    found.begin(Path("a.jsonl"))
    for line, (key, text) in enumerate(rows, start=1):
        found.add(key, text, line=line)
    return found.join()


def test_records_are_the_rows_of_an_id_in_their_order(
    collection: RowCollection,
) -> None:
    joined = _filled(collection, ROWS)
    wanted = {
        ("b", "uno\ndue\ntre\u2028"),
        ("B", "altro"),
        ("a", TALK),  # which is there twice, and counts once
        (None, "solo"),
        (None, ""),
    }
    pairs = list(zip(joined.keys, joined.records, strict=True))
    assert len(pairs) == 6
    assert set(pairs) == wanted
    assert collection.merged == 1
    assert collection.like_ids(joined) == 2
    assert sorted(map(str, joined.parts)) == sorted(
        map(str, ["uno", "due", "tre\u2028"])
    )


def test_lengths_and_digests_are_those_of_the_records(
    collection: RowCollection,
) -> None:
    joined = _filled(collection, ROWS)
    lengths = [
        len(r) if isinstance(r, str) else sum(map(len, r.turns)) for r in joined.records
    ]
    assert collection.lengths(joined).tolist() == lengths
    assert joined.digests is not None
    assert joined.digests.tolist() == sorted(joined.digests.tolist())
    for digest, record in zip(joined.digests, joined.records, strict=True):
        wanted = hashlib.sha256(spelling(record)).digest()
        assert digest == np.frombuffer(wanted, "S32")[0]


def test_the_order_depends_on_the_records_alone(collection: RowCollection) -> None:
    one = list(_filled(collection, ROWS).records)
    other = RowCollection(None)
    moved = [ROWS[place] for place in (8, 2, 0, 5, 3, 6, 4, 1, 7)]
    assert list(_filled(other, moved).records) == one


def test_rows_of_another_kind_than_the_first_of_their_id_are_named(
    collection: RowCollection,
) -> None:
    collection.begin(Path("a.jsonl"))
    collection.add("x", "uno", line=3)
    collection.add("y", TALK, line=4)
    collection.begin(Path("empty.jsonl"))
    collection.begin(Path("b.jsonl"))
    collection.add("x", TALK, line=1)
    collection.add("x", "due", line=2)
    collection.add("y", "tre", line=7)
    found = list(collection.mixed(collection.join()))
    assert found == [(Path("b.jsonl"), 1), (Path("b.jsonl"), 7)]


def test_no_rows_are_no_records() -> None:
    joined = RowCollection(None).join()
    assert (len(joined.records), len(joined.keys), len(joined.parts)) == (0, 0, 0)
