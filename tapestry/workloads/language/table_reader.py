"""Reader of Parquet and Arrow files, which a process of their own decodes.

A hostile file can make a decoder crash or fill the memory. So the node opens the file
and hands it to ``table_process``, and takes rows from it one by one.

==================  ================================================================
columns             text (also large, as a view, or as words of a dictionary); whole
                    numbers as an id, by their decimal text; lists of role and content
                    as messages. Only the columns that are asked for are decoded
cells               null is refused where a cell is asked for
size                a row: 64 MiB. A decoder: 2 GiB of memory, so a batch of Arrow or
                    a page of Parquet has to fit into that; and, over all rows, a
                    thousand times the size of the file, or 1 GiB, and ten minutes
                    of processor time, or ten seconds a MiB
format              Parquet without encryption; Arrow's IPC as file or as stream, which
                    must say that it ends. An order of bytes other than the machine's
                    is turned by pyarrow
==================  ================================================================

Guarantees:
    Neither pyarrow nor a byte of the file's own words reaches the node's memory or its
    messages, but for cells and the names of columns. Nothing is written to a disk.

Not protected:
    The process is bounded and not confined: a fault of pyarrow by which a file runs
    code would have that code run as the node's user. Where the system does not limit
    memory (macOS), a file may fill it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, BinaryIO

from tapestry.errors import ConfigError, ResourceError
from tapestry.inputs import text_reader
from tapestry.inputs.faults import Faults, InputFault
from tapestry.workloads.language.table_columns import (
    Columns,
    check_columns,
    roles_of,
    row_of,
)

SUFFIXES = (".parquet", ".arrow")
Row = tuple[int, dict[str, Any]]
BYTES = 2 << 30  # memory of a decoder
INFLATION = 1000  # times the size of the file
_INFLATED = 1 << 30  # bytes that any file may inflate to
_SECONDS = 600  # of processor time, for any file
_SECONDS_A_MIB = 10
_ANSWER = 7 * text_reader.MAX_TEXT_BYTES  # bytes; JSON spells a control in six
_PROGRAM = Path(__file__).with_name("table_process.py")
_KEPT = {"PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH"}  # of our environment
_FILE_FAULTS = {
    "damaged": ConfigError(
        "is damaged, cut short or of another format; copy or export it again",
        code="table-damaged",
    ),
    "encrypted": ConfigError(
        "is encrypted; export it without encryption", code="table-encrypted"
    ),
    "memory": ConfigError(
        f"takes over {BYTES >> 30} GiB of memory to decode; export it in row groups or"
        " batches of at most 10,000 rows",
        code="table-too-large",
    ),
    "inflation": ConfigError(
        f"inflates to over {INFLATION} times its size; export it again, or as several"
        " files",
        code="table-too-large",
    ),
}
_CELL_FAULTS = {
    "null": ConfigError(
        "is null; fill it in, or take the row out", code="record-invalid"
    ),
    "text": ConfigError("is not UTF-8; export the data again", code="text-not-utf8"),
    "long": ConfigError(
        f"is over {text_reader.MAX_TEXT_BYTES >> 20} MiB long; split the record",
        code="line-too-long",
    ),
}
_KINDS = {
    "text": "text",
    "integer": "whole numbers",
    "messages": "messages",
    "extension": "of an extension type",
    "binary": "bytes",
    "number": "numbers that are no whole ones",
    "time": "dates or times",
    "null": "null in each row",
    "nested": "nested",
}
_TAKEN = {"id": ("text", "integer"), "messages": ("messages",)}  # others: text


def read_table(path: Path, columns: Columns | None, faults: Faults) -> Iterator[Row]:
    """Yield the rows of a file, numbered from 1, as ``text_rows`` takes them.

    A row that breaks a rule becomes a fault, and reading goes on behind it. A file that
    cannot be decoded is a fault where that shows, which may be behind good rows.

    Raises:
        ResourceError: pyarrow is not installed, or no process can be started.
    """
    if find_spec("pyarrow") is None:
        raise ResourceError(
            f"reading {path.name} takes pyarrow, which is not installed; pip install"
            " 'tapestry-federated[node]', or '.[node]' in the source folder",
            code="package-missing",
        )
    try:
        with text_reader.opened(path, links=False) as file, _decoder(file) as decoder:
            size = os.fstat(file.fileno()).st_size
            request = {
                "handle": file.fileno(),
                "format": path.suffix.removeprefix("."),
                "bytes": BYTES,
                "seconds": _SECONDS + _SECONDS_A_MIB * (size >> 20),
                "row": text_reader.MAX_TEXT_BYTES,
            }
            decoder.ask(request)
            most = max(_INFLATED, INFLATION * size)
            yield from _rows(path, decoder, columns, faults, most=most)
    except FileNotFoundError as error:
        rule = f"cannot read it: {error.strerror}"
        faults.add(InputFault(path, rule, code="file-missing"))
    except InputFault as fault:
        faults.add(fault)


@contextmanager
def _decoder(file: BinaryIO) -> Iterator["_Decoder"]:
    """Start a process that decodes an open file, and end it.

    Raises:
        ResourceError: No process can be started.
    """
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others reserve more than they use
        "OMP_NUM_THREADS": "1",
    }
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it may quote a record
            pass_fds=(file.fileno(),),
            start_new_session=True,  # a signal to our group is not for it
            env={k: v for k, v in os.environ.items() if k in _KEPT} | own,
        )
    except OSError as error:
        raise ResourceError(
            f"cannot start {sys.executable}: {error.strerror}",
            code="table-process-failed",
        ) from error
    if process.stdin is None or process.stdout is None:  # unreachable: both are pipes
        raise ResourceError("no pipes", code="table-process-failed")
    try:
        yield _Decoder(process, process.stdin, process.stdout)
    finally:
        process.kill()
        with suppress(BrokenPipeError):  # of what the process did not take
            process.stdin.close()
        process.stdout.close()
        process.wait()


@dataclass(slots=True)
class _Decoder:
    """A process that decodes a file, and how much it has said so far."""

    process: subprocess.Popen[bytes]
    stdin: IO[bytes]
    stdout: IO[bytes]
    said: int = 0  # bytes of all answers

    def ask(self, request: Mapping[str, Any]) -> None:
        """Send a line; where the process has ended, its answer will say so."""
        with suppress(BrokenPipeError):
            self.stdin.write(json.dumps(request).encode() + b"\n")
            self.stdin.flush()

    def answer(self) -> Any:
        """Return its next answer, or the fault by which it ended.

        Raises:
            ResourceError: The process could not do its work.
        """
        line = self.stdout.readline(_ANSWER)
        self.said += len(line)
        if not line:
            return ["fault", self._end()]
        try:
            return json.loads(line)
        except (ValueError, RecursionError):  # it was ended within a line
            return ["fault", "damaged"]

    def _end(self) -> str:
        """Say why the process ended before it had said all."""
        status = self.process.wait()
        if status > 0:
            raise ResourceError(
                f"the process that decodes tables ended with {status}; install pyarrow"
                " again: pip install 'tapestry-federated[node]'",
                code="table-process-failed",
            )
        return "memory" if status == -signal.SIGKILL else "damaged"


def _rows(
    path: Path, decoder: _Decoder, columns: Columns | None, faults: Faults, *, most: int
) -> Iterator[Row]:
    """Yield the rows of a file whose columns are those wanted; trust no answer.

    Raises:
        ConfigError: The file cannot be decoded, or its columns are others.
    """
    roles = _choose(path, decoder.answer(), columns)
    decoder.ask(roles)
    number = 0
    while (answer := decoder.answer()) != ["end", number]:
        if decoder.said > most:
            raise _fault(path, ["fault", "inflation"])
        number += 1
        cells = _cells(path, answer, number, roles=roles, faults=faults)
        if cells is not None:
            yield number, row_of(cells)


def _choose(path: Path, answer: Any, columns: Columns | None) -> dict[str, str]:
    """Return the column of each role.

    Raises:
        ConfigError: The file cannot be decoded, or its columns are others.
    """
    match answer:
        case ["columns", [*found]] if all(map(_is_column, found)):
            names = [name for name, _ in found]
        case _:
            raise _fault(path, answer)
    try:
        check_columns(names, columns)
    except ConfigError as error:
        raise InputFault(path, str(error), code=error.code) from None
    roles, kinds = roles_of(names, columns), dict(found)
    for role, name in roles.items():
        if kinds[name] not in _TAKEN.get(role, ("text",)):
            wanted = " or ".join(_KINDS[kind] for kind in _TAKEN.get(role, ("text",)))
            rule = (
                f"the column of {role} is {_KINDS.get(kinds[name], 'of another type')};"
                f" want {wanted}, so cast it where the data come from"
            )
            raise InputFault(path, rule, code="column-type-differs")
    return roles


def _is_column(found: Any) -> bool:
    match found:
        case [str(_), str(_)]:
            return True
    return False


def _cells(
    path: Path, answer: Any, number: int, *, roles: Mapping[str, str], faults: Faults
) -> dict[str, Any] | None:
    """Return the cells of a row by their roles; None if they became a fault.

    Raises:
        ConfigError: The answer is none for this row.
    """
    match answer:
        case ["row", said, dict(cells)] if said == number and [*cells] == [*roles]:
            return cells
        case ["refused", said, role, word] if (
            said == number and role in ("", *roles) and word in _CELL_FAULTS
        ):
            fault = _CELL_FAULTS[word]
            rule = f'"{role}" {fault}' if role else str(fault)
            faults.add(InputFault(path, rule, line=number, code=fault.code))
            return None
    raise _fault(path, answer)


def _fault(path: Path, answer: Any) -> InputFault:
    """Return the fault that an answer names, or that it is no answer."""
    match answer:
        case ["fault", word] if word in _FILE_FAULTS:
            fault = _FILE_FAULTS[word]
        case _:
            fault = _FILE_FAULTS["damaged"]
    return InputFault(path, str(fault), code=fault.code)
