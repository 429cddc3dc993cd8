"""The program that decodes tables: few words, checked arrays, and not a trace."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from pyarrow.parquet import encryption

from tapestry.workloads.language import table_process
from tapestry.workloads.language.table_process import kind_of
from tests.support.record_canaries import CANARY
from tests.support.tables import write_arrow, write_parquet, write_stream

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.large_string())])
KINDS = {
    "string": (pa.string(), "text"),
    "large string": (pa.large_string(), "text"),
    "string view": (pa.string_view(), "text"),
    "words": (pa.dictionary(pa.int8(), pa.string()), "text"),
    "numbers as words": (pa.dictionary(pa.int8(), pa.int64()), "other"),
    "int64": (pa.int64(), "integer"),
    "uint8": (pa.uint8(), "integer"),
    "float": (pa.float32(), "number"),
    "decimal": (pa.decimal128(9, 0), "number"),
    "boolean": (pa.bool_(), "number"),
    "date": (pa.date32(), "time"),
    "duration": (pa.duration("s"), "time"),
    "bytes": (pa.binary(), "binary"),
    "fixed bytes": (pa.binary(4), "binary"),
    "null": (pa.null(), "null"),
    "list of text": (pa.list_(pa.string()), "nested"),
    "map": (pa.map_(pa.string(), pa.string()), "nested"),
    "messages": (pa.list_(MESSAGE), "messages"),
    "large messages": (pa.large_list(MESSAGE), "messages"),
    "more in a message": (
        pa.list_(pa.struct([*MESSAGE, pa.field("name", pa.string())])),
        "nested",
    ),
    "other messages": (
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.int8())])),
        "nested",
    ),
    "extension": (pa.json_(), "extension"),
}


@pytest.mark.parametrize(("found", "kind"), KINDS.values(), ids=KINDS)
def test_a_type_has_one_word(found: pa.DataType, kind: str) -> None:
    assert kind_of(pa.field("a", found)) == kind


def test_an_extension_that_is_not_known_is_one(tmp_path: Path) -> None:
    marked = {b"ARROW:extension:name": b"of.others"}
    schema = pa.schema([pa.field("text", pa.string(), metadata=marked)])
    parquet.write_table(pa.table([["a"]], schema=schema), tmp_path / "a.parquet")
    assert answers(tmp_path / "a.parquet") == [["columns", [["text", "extension"]]]]


def answers(path: Path, asked: Any = None, **changes: Any) -> list[Any]:
    """Run the program as it is run, and return what it says."""
    with path.open("rb") as file:
        request = {
            "handle": file.fileno(),
            "format": path.suffix[1:],
            "bytes": 2 << 30,
            "seconds": 60,
            "row": 1000,
            **changes,
        }
        lines = [request] if asked is None else [request, asked]
        done = subprocess.run(
            [sys.executable, "-P", table_process.__file__],
            input="".join(json.dumps(line) + "\n" for line in lines).encode(),
            capture_output=True,
            pass_fds=(file.fileno(),),
            check=False,
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [each for each in found if each != ["fault", "damaged"] or asked is not None]


@pytest.mark.parametrize("write", [write_parquet, write_arrow, write_stream])
def test_rows_are_told_by_their_roles(tmp_path: Path, write: Any) -> None:
    path = tmp_path / ("a.parquet" if write is write_parquet else "a.arrow")
    write(path, [{"b": "é\n", "p": n, "x": [n]} for n in (1, None, -3)] * 2)
    kinds = [["b", "text"], ["p", "integer"], ["x", "nested"]]
    assert answers(path, {"text": "b", "id": "p"}) == [
        ["columns", kinds],
        *(
            answer
            for first in (1, 4)
            for answer in (
                ["row", first, {"text": "é\n", "id": "1"}],
                ["refused", first + 1, "id", "null"],
                ["row", first + 2, {"text": "é\n", "id": "-3"}],
            )
        ),
        ["end", 6],
    ]


def test_a_row_above_the_limit_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    messages = [{"role": "user", "content": "é" * 499}]
    write_parquet(path, [{"t": "é" * 500, "m": messages}, {"t": "é" * 501, "m": []}])
    assert answers(path, {"text": "t"})[1:] == [
        ["row", 1, {"text": "é" * 500}],
        ["refused", 2, "", "long"],
        ["end", 2],
    ]
    assert [each[0] for each in answers(path, {"messages": "m"}, row=1001)[1:]] == [
        "refused",
        "row",
        "end",
    ]


def test_a_text_that_is_not_utf8_is_told_by_its_row(tmp_path: Path) -> None:
    raw = pa.array([b"ok", CANARY.encode() + b"\xff", b"\xed\xa0\x80"])
    table = pa.table({"t": raw.view(pa.string())})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as out:
        out.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        assert answers(tmp_path / name, {"text": "t"})[1:] == [
            ["row", 1, {"text": "ok"}],
            ["refused", 2, "text", "text"],
            ["refused", 3, "text", "text"],
            ["end", 3],
        ]


def test_an_offset_outside_of_the_bytes_is_never_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    table = pa.table({"t": ["abc", "def"]})
    with pa.ipc.new_stream(path, table.schema) as out:
        out.write_table(table)
    good = path.read_bytes()
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 3, 6))
    assert good.count(offsets) == 1
    for bad in ((0, 3, 1 << 30), (0, 7, 6), (0, -1, 6)):
        bytes_ = b"".join(n.to_bytes(4, "little", signed=True) for n in bad)
        path.write_bytes(good.replace(offsets, bytes_))
        assert answers(path, {"text": "t"})[1:] == [["fault", "damaged"]]


class _Keys(encryption.KmsClient):  # type: ignore[misc]  # no types
    def __init__(self, _: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64decode(key)


@pytest.mark.parametrize("is_plain", [False, True], ids=["footer too", "columns"])
def test_an_encrypted_file_is_told_to_be_one(tmp_path: Path, is_plain: bool) -> None:
    chosen = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["text"]}, plaintext_footer=is_plain
    )
    properties = encryption.CryptoFactory(_Keys).file_encryption_properties(
        encryption.KmsConnectionConfig(), chosen
    )
    path, table = tmp_path / "a.parquet", pa.table({"text": [CANARY]})
    with parquet.ParquetWriter(
        path, table.schema, encryption_properties=properties
    ) as out:
        out.write_table(table)
    assert answers(path, {"text": "text"})[-1] == ["fault", "encrypted"]


def test_the_process_can_leave_nothing_on_a_disk(tmp_path: Path) -> None:
    code = (
        f"import runpy; ours = runpy.run_path({table_process.__file__!r})\n"
        "ours['_limit'](4 << 30, 60)\n"
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)\n"
        f"open({str(tmp_path / 'copy')!r}, 'wb', buffering=0).write(b'record')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False
    )
    assert b"File too large" in done.stderr
    assert (tmp_path / "copy").read_bytes() == b""


def test_a_fault_says_nothing_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [{"text": CANARY}])
    data = path.read_bytes()
    for size in (0, 3, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        assert answers(path, {"text": "text"}) == [["fault", "damaged"]]


def test_the_program_imports_nothing_of_ours() -> None:
    source = Path(table_process.__file__).read_text("utf-8")
    assert "import tapestry" not in source
    assert "from tapestry" not in source
