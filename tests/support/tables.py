"""The same rows as a file of each format that holds a table."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

Rows = Sequence[Mapping[str, Any]]


def write_jsonl(path: Path, rows: Rows) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_bytes("".join(lines).encode())


def write_cells(path: Path, rows: Rows, *, separator: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(
            file, [*rows[0]], delimiter=separator, quoting=csv.QUOTE_ALL
        )
        out.writeheader()
        out.writerows(rows)


def write_tabs(path: Path, rows: Rows) -> None:
    write_cells(path, rows, separator="\t")


def write_parquet(path: Path, rows: Rows) -> None:
    parquet.write_table(pa.Table.from_pylist([*rows]), path, row_group_size=3)


def write_arrow(path: Path, rows: Rows) -> None:
    table = pa.Table.from_pylist([*rows])
    with pa.ipc.new_file(path, table.schema) as out:
        out.write_table(table, max_chunksize=3)


def write_stream(path: Path, rows: Rows) -> None:
    table = pa.Table.from_pylist([*rows])
    with pa.ipc.new_stream(path, table.schema) as out:
        out.write_table(table, max_chunksize=3)


WRITERS: dict[str, tuple[str, Callable[[Path, Rows], None]]] = {
    "JSON lines": (".jsonl", write_jsonl),
    "CSV": (".csv", write_cells),
    "TSV": (".tsv", write_tabs),
    "Parquet": (".parquet", write_parquet),
    "Arrow file": (".arrow", write_arrow),
    "Arrow stream": (".arrow", write_stream),
}
TYPED = {name: each for name, each in WRITERS.items() if name[0] in "PA"}
