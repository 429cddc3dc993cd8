"""Rows from a process that decodes a table, which is not trusted."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tapestry.errors import ConfigError, ResourceError, TapestryError
from tapestry.inputs import text_reader
from tapestry.inputs.faults import Faults
from tapestry.workloads.language import table_reader
from tapestry.workloads.language.table_columns import Columns
from tapestry.workloads.language.table_reader import read_table
from tests.support.record_canaries import CANARY, shown_in, spelled
from tests.support.refusals import refused
from tests.support.tables import TYPED, write_parquet, write_stream


def rows_of(path: Path, columns: Columns | None = None) -> list[Any]:
    faults = Faults()
    found = list(read_table(path, columns, faults))
    faults.check(path)
    return found


@pytest.mark.parametrize("name", TYPED)
def test_rows_are_numbered_from_one(tmp_path: Path, name: str) -> None:
    suffix, write = TYPED[name]
    write(tmp_path / f"a{suffix}", [{"text": f"t{n}", "id": n} for n in range(8)])
    assert rows_of(tmp_path / f"a{suffix}") == [
        (n + 1, {"text": f"t{n}", "id": str(n)}) for n in range(8)
    ]


def test_a_name_with_a_dot_is_one_column(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"a.b": "x", "a": {"b": "y"}}])
    columns = Columns(text="a.b", others="ignored")
    assert rows_of(tmp_path / "a.parquet", columns) == [(1, {"text": "x"})]


def test_a_type_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for cells, said in (
        ([1], "text is whole numbers; want text"),
        ([[CANARY]], "text is nested; want text"),
        ([CANARY.encode()], "text is bytes; want text"),
        ([None], "text is null in each row; want text"),
    ):
        parquet.write_table(pa.table({"text": cells}), path)
        with refused(ConfigError, "column-type-differs", match=said):
            rows_of(path)
    parquet.write_table(pa.table({"text": ["a"], "id": [True]}), path)
    with refused(ConfigError, "column-type-differs", match="text or whole numbers"):
        rows_of(path)
    parquet.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), path)
    with refused(ConfigError, "column-duplicated", match="text"):
        rows_of(path)


def test_a_stream_that_is_cut_between_batches_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_stream(path, [{"text": "x"}] * 9)
    data = path.read_bytes()
    assert data.endswith(b"\xff\xff\xff\xff\0\0\0\0")
    for bad in (data[:-8], data + b"\0", data + data, b"", b"ARROW1", data[:100]):
        path.write_bytes(bad)
        with refused(ConfigError, "table-damaged"):
            rows_of(path)


def test_bytes_in_the_other_order_are_turned(tmp_path: Path) -> None:
    """A stream as a machine of the other order writes it, made of one of this one."""
    path = tmp_path / "a.arrow"
    table = pa.table({"id": [1 << 56], "text": ["a"]})
    with pa.ipc.new_stream(path, table.schema) as out:
        out.write_table(table)
    head, _, rest = path.read_bytes().rpartition(b"\0\0\0\0\1\0\0\0")  # offsets
    data = bytearray(head + b"\0\0\0\0\0\0\0\1" + rest)
    assert data[40:42] == b"\0\0"  # where the schema has its order: nowhere
    data[40:42] = b"\4\0"  # at a number that is not 0
    path.write_bytes(data)
    assert rows_of(path) == [(1, {"text": "a", "id": "1"})]


def test_other_bytes_under_the_name_of_a_table_are_damaged(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.arrow"):
        for data in (b"", CANARY.encode() * 99, b"PAR1" + CANARY.encode() + b"PAR1"):
            (tmp_path / name).write_bytes(data)
            with refused(ConfigError, "table-damaged") as caught:
                rows_of(tmp_path / name)
            assert shown_in(spelled(caught.value)) == []
    with refused(ConfigError, "file-missing"):
        rows_of(tmp_path / "none.parquet")
    (tmp_path / "b.parquet").symlink_to(tmp_path / "a.parquet")
    with refused(ConfigError, "link-not-allowed"):
        rows_of(tmp_path / "b.parquet")


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path, faults = tmp_path / "a.parquet", Faults()
    write_parquet(path, [{"text": "x"}] * 5)
    rows = read_table(path, None, faults)
    next(rows)
    os.utime(path, ns=(1, 1))
    list(rows)
    with refused(ConfigError, "file-changed"):
        faults.check(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_file_that_inflates_into_one_cell_is_refused(
    tmp_path: Path, kind: str
) -> None:
    """300 MiB in a few KiB, within the limit of memory and above a lower one."""
    table = pa.table({"text": ["x" * (300 << 20)]})
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        plain = {"use_dictionary": False, "write_statistics": False}
        parquet.write_table(table, path, compression="zstd", **plain)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(path, table.schema, options=options) as out:
            out.write_table(table)
    assert path.stat().st_size < 100_000
    with refused(ConfigError, "line-too-long", match="row 1: is over 64 MiB"):
        rows_of(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_reader, "BYTES", 600 << 20)
        with pytest.raises(ConfigError) as caught:
            rows_of(path)
    assert caught.value.code in {"table-too-large", "table-damaged"}


def test_rows_that_inflate_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [{"text": "x" * 100_000}] * 300)
    monkeypatch.setattr(table_reader, "_INFLATED", 1 << 20)
    assert len(rows_of(path)) == 300
    monkeypatch.setattr(table_reader, "INFLATION", 10)
    assert path.stat().st_size < 1_000_000
    with refused(ConfigError, "table-too-large", match="inflates"):
        rows_of(path)


def test_a_row_above_the_limit_is_told_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, faults = tmp_path / "a.parquet", Faults()
    write_parquet(path, [{"text": CANARY * 9}, {"text": "x"}])
    monkeypatch.setattr(text_reader, "MAX_TEXT_BYTES", 100)
    assert list(read_table(path, None, faults)) == [(2, {"text": "x"})]
    with refused(ConfigError, "line-too-long", match="row 1: "):
        faults.check(path)


def _answering(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> Path:
    """Put another program in the place of the one that decodes."""
    program = folder / "program.py"
    program.write_text(
        f"import json, os, sys, signal\nsys.stdin.readline()\n{code}\n", "utf-8"
    )
    monkeypatch.setattr(table_reader, "_PROGRAM", program)
    path = folder / "a.parquet"
    write_parquet(path, [{"text": "x"}])
    return path


COLUMNS = """print('["columns", [["text", "text"]]]', flush=True)\n"""
ODD = {
    "nothing": ("", "table-damaged"),
    "no JSON": ("print('[')", "table-damaged"),
    "deep": ("print('[' * 100_000)", "table-damaged"),
    "another word": ("""print('["row", 1, {"text": "a"}]')""", "table-damaged"),
    "an unknown fault": (f"""print('["fault", "{CANARY}"]')""", "table-damaged"),
    "columns of numbers": ("""print('["columns", [[1, 2]]]')""", "table-damaged"),
    "no end": (f"""{COLUMNS}print('["row", 1, {{"text": "a"}}]')""", "table-damaged"),
    "a wrong end": (f"""{COLUMNS}print('["end", 1]')""", "table-damaged"),
    "a row twice": (
        f"""{COLUMNS}print('["row", 1, {{"text": "a"}}]\\n' * 2)""", "table-damaged"
    ),
    "another role": (
        f"""{COLUMNS}print('["row", 1, {{"id": "a"}}]\\n["end", 1]')""", "table-damaged"
    ),
    "an unknown refusal": (
        f"""{COLUMNS}print('["refused", 1, "text", "{CANARY}"]')""", "table-damaged"
    ),
    "a crash": ("os.kill(os.getpid(), signal.SIGSEGV)", "table-damaged"),
    "memory": ("os.kill(os.getpid(), signal.SIGKILL)", "table-too-large"),
    "an error": ("sys.exit(3)", "table-process-failed"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "rule"), ODD.values(), ids=ODD)
def test_no_answer_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, rule: str
) -> None:
    path = _answering(monkeypatch, tmp_path, code)
    with refused(TapestryError, rule) as caught:
        rows_of(path)
    assert shown_in(spelled(caught.value)) == []
    assert isinstance(caught.value, ResourceError) == (rule == "table-process-failed")


def test_a_reader_that_stops_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"""open({str(tmp_path / "id")!r}, "w").write(str(os.getpid()))
{COLUMNS}print('["row", 1, {{"text": "a"}}]', flush=True)
signal.pause()"""
    rows = read_table(_answering(monkeypatch, tmp_path, code), None, Faults())
    assert next(rows) == (1, {"text": "a"})
    rows.close()  # type: ignore[attr-defined]  # a generator
    number = int((tmp_path / "id").read_text())
    for _ in range(100):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            break
        time.sleep(0.01)
    else:
        os.kill(number, signal.SIGKILL)
        pytest.fail("the process goes on")


def test_a_missing_package_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [{"text": "x"}])
    monkeypatch.setattr(table_reader, "find_spec", lambda _: None)
    with refused(ResourceError, "package-missing", match=r"pyarrow.*\[node\]"):
        rows_of(path)
