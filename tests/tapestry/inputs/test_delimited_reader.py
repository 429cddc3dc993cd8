"""Cells of a table as text: each as it was written, or a fault with its line."""

import csv
import io
import sys
import tracemalloc
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ConfigError
from tapestry.inputs import delimited_reader, text_reader
from tapestry.inputs.delimited_reader import read_cells
from tapestry.inputs.faults import Faults
from tests.support.refusals import refused

CELLS = st.text(st.sampled_from('a,"\t\n\r é'), max_size=6)


def cells_of(
    data: bytes, folder: Path, separator: str = ","
) -> list[tuple[int, list[str]]]:
    """Read a table in which there is no fault, with the numbers of its lines."""
    path, faults = folder / "a.csv", Faults()
    path.write_bytes(data)
    found = list(read_cells(path, faults, separator=separator))
    faults.check(path)
    return found


@given(
    rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=5),
    separator=st.sampled_from(",\t"),
    is_all=st.booleans(),
)
def test_what_the_library_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[str]],
    separator: str,
    is_all: bool,
) -> None:
    text = io.StringIO(newline="")
    quoting: Literal[0, 1] = csv.QUOTE_ALL if is_all else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=separator, quoting=quoting).writerows(rows)
    folder = tmp_path_factory.getbasetemp()
    found = cells_of(text.getvalue().encode(), folder, separator)
    assert [cells for _, cells in found] == rows


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", []),
        (b"\n\r\n", []),
        (b"a,b", [(1, ["a", "b"])]),
        (b"\xef\xbb\xbfa\n1\n", [(1, ["a"]), (2, ["1"])]),
        (b'\xef\xbb\xbf"a"\r\n\r\n""\r\n', [(1, ["a"]), (3, [""])]),
        (
            b'a,b\n"x\r\n""y\rz""",\n,"\n"\n',
            [(1, ["a", "b"]), (2, ['x\r\n"y\rz"', ""]), (5, ["", "\n"])],
        ),
        (b" a , b\n, \n", [(1, [" a ", " b"]), (2, ["", " "])]),
    ],
    ids=["empty", "blank", "names", "mark", "quoted", "lines in cells", "space"],
)  # fmt: skip
def test_a_table_is_read_with_the_lines_on_which_rows_begin(
    tmp_path: Path, data: bytes, found: object
) -> None:
    assert cells_of(data, tmp_path) == found


BAD = {
    "too few": (b"a,b\n1\n", "table-invalid", "line 2: has 1 cells, the first line 2"),
    "too many": (b"a,b\n1,2,3\n", "table-invalid", "line 2: has 3 cells"),
    "too many in quotes": (b'a,b\n1,2,"3"\n', "table-invalid", "has 3 cells"),
    "mark inside": (b'a,b\n5" secret,1\n', "table-invalid", "line 2: .* inside a cell"),
    "behind a mark": (b'a,b\n"secret" x,1\n', "table-invalid", "line 2: .* behind"),
    "space before a mark": (b'a,b\n1, "2"\n', "table-invalid", "line 2: .* inside"),
    "unclosed": (b'a,b\n1,2\n"secret,1\n2,3\n', "table-invalid", "line 3: .* no end"),
    "unclosed names": (b'"secret\n1\n2\n', "table-invalid", "line 1: .* no end"),
    "CR alone": (b"a\n1\rsecret\n", "table-invalid", "line 2: CR alone"),
    "NUL": (b"a,b\nsecret\0,1\n", "character-not-allowed", "line 2: .* NUL"),
    "NUL inside a row": (
        b'a,b\n"secret\n\0",1\n', "character-not-allowed", "line 3: .* NUL"
    ),
    "mark of order inside": (
        b"a,b\n\xef\xbb\xbf1,2\n", "character-not-allowed", "line 2: .* byte-order"
    ),
    "Latin 1": (b"a,b\nsecret\xe9,1\n", "text-not-utf8", "line 2: "),
    "surrogate": (b"a,b\n\xed\xa0\x80,1\n", "text-not-utf8", "line 2: "),
    "UTF-16": ("a,b\nsecret,2\n".encode("utf-16"), "text-not-utf8", "UTF-16"),
    "many columns": (b"," * 1000 + b"\n", "table-invalid", "over 1000 columns"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "code", "said"), BAD.values(), ids=BAD)
def test_a_fault_names_its_line_and_rule_and_no_cell(
    tmp_path: Path, data: bytes, code: str, said: str
) -> None:
    with refused(ConfigError, code, match=said) as caught:
        cells_of(data, tmp_path)
    assert "secret" not in str(caught.value)


def test_reading_goes_on_behind_each_fault(tmp_path: Path) -> None:
    path, faults = tmp_path / "a.csv", Faults()
    path.write_bytes(b'a,b\n1\n2,3\n"x"y,\n"\xff\n",4\n5" "z,\n6,7\n')
    found = list(read_cells(path, faults, separator=","))
    assert found == [(1, ["a", "b"]), (3, ["2", "3"]), (8, ["6", "7"])]
    assert len(faults) == 4


def test_a_row_that_never_ends_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_reader, "MAX_TEXT_BYTES", 1 << 16)
    with refused(ConfigError, "line-too-long", match="line 2: "):
        cells_of(b'a,b\n"' + b"secret\n" * 100_000, tmp_path)


def test_a_row_of_many_cells_is_counted_and_not_kept(tmp_path: Path) -> None:
    row = b'"' + b'","' * 60_000 + b'"\n'
    (tmp_path / "a.csv").write_bytes(b"a,b\n" + row + row[1:-2] + b"\n")
    faults = Faults()
    tracemalloc.start()
    found = list(read_cells(tmp_path / "a.csv", faults, separator=","))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1
    assert len(faults) == 2
    assert peak < 5 * len(row)


def test_the_file_is_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n" + b"12345678,x\n" * 30_000)
    tracemalloc.start()
    count = sum(1 for _ in read_cells(path, Faults(), separator=","))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 30_001
    assert peak < 100_000
    assert sys.getsizeof(path.read_bytes()) > 300_000
    assert delimited_reader.MAX_CELLS == 1000
