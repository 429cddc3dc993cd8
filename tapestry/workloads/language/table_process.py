"""Program that decodes a Parquet or Arrow file, in a process that can harm no other.

A program, run by path: standard input has what to do and which columns to read, an
open file lies behind a number that it is given, and standard output gets a list of
JSON a line. It imports nothing of tapestry, opens no file and can write none::

    > {"handle": 5, "format": "parquet", "bytes": ..., "seconds": ...,
       "row": ...}
    < ["columns", [["body", "text"], ["patient", "integer"], ...]]
    > {"text": "body", "id": "patient"}
    < ["row", 1, {"text": "...", "id": "7"}]
    < ["refused", 2, "id", "null"]
    < ["end", 2]            or, at any time, ["fault", "damaged"]

What it says of a fault is one of a few words, and never a library's own message, which
may quote a record.

Guarantees:
    Offsets and indices of an array are checked before a value is read, a page's
    checksum where it has one. Texts are read as bytes and decoded strictly, each by
    itself. Memory is bounded, no core is dumped, and no map of the file is made, which
    another program could truncate.
"""

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

Cell = Callable[[int], Any]  # from the number of a row, from 0
_MOST_ROWS = 1024  # of a batch
_BATCH_BYTES = 8 << 20  # that a batch should have, by what the file says
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_THRIFT = 64 << 20  # bytes and elements of the description of a Parquet file
_PLAIN_TYPES = (
    ("binary", ("is_binary", "is_large_binary", "is_fixed_size_binary")),
    ("number", ("is_floating", "is_decimal", "is_boolean")),
    ("time", ("is_temporal",)),
    ("integer", ("is_integer",)),
    ("null", ("is_null",)),
    ("nested", ("is_nested",)),
)


class _Refused(Exception):
    """A cell that cannot be read; ``args[0]`` is the word for it."""


def main() -> None:
    """Answer the request on standard input."""
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    from pyarrow import parquet  # noqa: F401  # before memory is bounded

    _limit(request["bytes"], request["seconds"])
    try:
        with os.fdopen(request["handle"], "rb") as file:
            _decode(file, request)
    except MemoryError:  # pyarrow's own is one, too
        _say("fault", "memory")
    except Exception as error:  # noqa: BLE001  # pyarrow raises anything on odd bytes
        _say("fault", "encrypted" if "crypt" in str(error) else "damaged")


def _decode(file: BinaryIO, request: dict[str, Any]) -> None:
    is_parquet = request["format"] == "parquet"
    if is_parquet and _is_encrypted(file):
        _say("fault", "encrypted")
        return
    schema, batches = (_open_parquet if is_parquet else _open_arrow)(file)
    _say("columns", [[each.name, kind_of(each)] for each in schema])
    wanted: dict[str, str] = json.loads(sys.stdin.readline())
    number = 0
    for batch in batches(list(wanted.values())):
        cells = {
            role: _reader_of(batch.column(batch.schema.get_field_index(name)))
            for role, name in wanted.items()
        }
        for place in range(batch.num_rows):
            number += 1
            _say(*_row(cells, place, number, request["row"]))
    _say("end", number)


def _row(cells: dict[str, Cell], place: int, number: int, most: int) -> list[Any]:
    """Read a row: its cells, or the role and the fault of the first bad one."""
    row = {}
    for role, cell in cells.items():
        try:
            row[role] = cell(place)
        except UnicodeDecodeError:
            return ["refused", number, role, "text"]
        except _Refused as refused:
            return ["refused", number, role, refused.args[0]]
    size = sum(map(_size, row.values()))
    return ["row", number, row] if size <= most else ["refused", number, "", "long"]


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    return sum(_size(text) for each in value for text in each.values())


def _reader_of(column: Any) -> Cell:
    """Check an array, and return how a cell of it is read.

    Raises:
        ArrowInvalid: An offset or index leads outside of the array's bytes.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        words = column.dictionary.view(_as_bytes(column.dictionary.type))
        pa.DictionaryArray.from_arrays(column.indices, words).validate(full=True)
        return lambda place: _text_of(words, _known(column.indices[place].as_py()))
    if pa.types.is_integer(column.type):
        column.validate(full=True)
        return lambda place: str(_known(column[place].as_py()))
    seen = column.view(_as_bytes(column.type))
    seen.validate(full=True)
    if pa.types.is_nested(column.type):
        return lambda place: _messages_of(seen, place)
    return lambda place: _text_of(seen, place)


def _known(value: Any) -> Any:
    if value is None:
        raise _Refused("null")
    return value


def _text_of(column: Any, place: int) -> str:
    data: bytes = _known(column[place].as_py())
    return data.decode()


def _messages_of(column: Any, place: int) -> list[dict[str, str]]:
    return [
        {key: _known(text).decode() for key, text in _known(each).items()}
        for each in _known(column[place].as_py())
    ]


def kind_of(column: Any) -> str:
    """Name the type of a column in one word."""
    import pyarrow as pa

    types, found = pa.types, column.type
    if b"ARROW:extension:name" in (column.metadata or {}) or isinstance(
        found, pa.BaseExtensionType
    ):
        return "extension"
    if types.is_dictionary(found):
        return "text" if _is_text(found.value_type) else "other"
    if _is_text(found) or _is_messages(found):
        return "text" if _is_text(found) else "messages"
    kinds = (
        kind
        for kind, tests in _PLAIN_TYPES
        if any(getattr(types, test)(found) for test in tests)
    )
    return next(kinds, "other")


def _is_text(found: Any) -> bool:
    from pyarrow import types

    return bool(
        types.is_string(found)
        or types.is_large_string(found)
        or types.is_string_view(found)
    )


def _is_messages(found: Any) -> bool:
    from pyarrow import types

    if not (types.is_list(found) or types.is_large_list(found)):
        return False
    inner = found.value_type
    if not types.is_struct(inner):
        return False
    names = [each.name for each in inner]
    return sorted(names) == ["content", "role"] and all(
        _is_text(each.type) for each in inner
    )


def _as_bytes(found: Any) -> Any:
    """Return the type of texts as that of their bytes, also inside of messages."""
    import pyarrow as pa

    if pa.types.is_struct(found):
        return pa.struct([(each.name, _as_bytes(each.type)) for each in found])
    if pa.types.is_large_list(found):
        return pa.large_list(_as_bytes(found.value_type))
    if pa.types.is_list(found):
        return pa.list_(_as_bytes(found.value_type))
    if pa.types.is_large_string(found):
        return pa.large_binary()
    return pa.binary_view() if pa.types.is_string_view(found) else pa.binary()


def _is_encrypted(file: BinaryIO) -> bool:
    """Return whether the end of a Parquet file is that of an encrypted one."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 4))
    return file.read(4) == b"PARE"


def _open_parquet(file: BinaryIO) -> tuple[Any, Callable[[list[str]], Iterator[Any]]]:
    """Return the columns, and a reader of some of them by pages and not by groups."""
    from pyarrow import parquet

    table = parquet.ParquetFile(
        file,
        pre_buffer=False,
        buffer_size=1 << 20,
        thrift_string_size_limit=_THRIFT,
        thrift_container_size_limit=_THRIFT,
        page_checksum_verification=True,
        arrow_extensions_enabled=False,
    )

    def batches(names: list[str]) -> Iterator[Any]:
        found = 0
        for group in range(table.num_row_groups):
            for batch in table.iter_batches(
                batch_size=_rows_of(table.metadata.row_group(group)),
                row_groups=[group],
                columns=names,
                use_threads=False,
            ):
                found += batch.num_rows
                yield batch
        if found != table.metadata.num_rows:
            raise ValueError("another number of rows")

    return table.schema_arrow, batches


def _rows_of(group: Any) -> int:
    """Return how many rows of a group a batch should have, by what the file says.

    A column's own part of it may be encrypted, and pyarrow ends the process then.
    """
    rows = _BATCH_BYTES * max(group.num_rows, 1) // max(group.total_byte_size, 1)
    return int(min(max(rows, 1), _MOST_ROWS))


def _open_arrow(file: BinaryIO) -> tuple[Any, Callable[[list[str]], Iterator[Any]]]:
    """Return the columns of a file or a stream, and a reader of some of them."""
    import pyarrow as pa

    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    opener = pa.ipc.open_file if is_file else pa.ipc.open_stream
    schema = opener(file).schema
    file.seek(0)

    def batches(names: list[str]) -> Iterator[Any]:
        options = pa.ipc.IpcReadOptions(
            use_threads=False,
            included_fields=sorted(schema.get_field_index(name) for name in names),
        )
        reader = opener(file, options=options)
        if not is_file:
            yield from reader
            _check_end(file)
            return
        for place in range(reader.num_record_batches):
            yield reader.get_batch(place)

    return schema, batches


def _check_end(file: BinaryIO) -> None:
    """Require that a stream says that it ends, and that nothing follows.

    Raises:
        ValueError: It was cut between two batches, or something stands behind it.
    """
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(_END_OF_STREAM)))
    if place != size or file.read() != _END_OF_STREAM:
        raise ValueError("no end of stream")


def _limit(most: int, seconds: int) -> None:
    """Bound memory and time, and keep the process from leaving anything on a disk."""
    with suppress(ValueError, OSError):  # a system that does not limit memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with suppress(ValueError, OSError):  # a hard limit below stays
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _say(*parts: Any) -> None:
    line = json.dumps(parts, ensure_ascii=False).encode()
    sys.stdout.buffer.write(line + b"\n")
    if parts[0] != "row":
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # a TextIOWrapper
    main()
    sys.stdout.flush()
    os._exit(0)  # whatever the library would do at the end
