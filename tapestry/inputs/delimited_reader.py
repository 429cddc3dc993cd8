"""Reader of tables as text: cells with one separator, a comma or a tab (RFC 4180).

==================  ================================================================
first line          names of columns; what follows has one cell for each of them
quotation marks     a cell that holds the separator, a line end or a quotation mark
                    stands in quotation marks, and each of its own is doubled. A mark
                    inside a cell without, or anything behind the closing one, is
                    refused
cells               text, kept as it is written; space around it counts, and so does
                    how a line ends inside a cell. An empty cell is empty text
lines               a line without any character does not count; LF or CRLF ends one,
                    and CR alone is refused outside of quotation marks. Encoding and
                    characters are as in ``tapestry.inputs.text_reader``
size                a row: 64 MiB and 1,000 cells; of the file one row is in memory
==================  ================================================================

The C module ``csv`` takes a mark inside a cell, and counts no lines of what it refuses.

Guarantees:
    No message holds a byte of the content. A row is told by the line on which it
    begins, a wrong character by its own line.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tapestry.inputs import text_reader
from tapestry.inputs.faults import Faults, InputFault

MAX_CELLS = 1000
_INSIDE = re.compile('(?:[^"]++|"")*+')  # of quotation marks
_MARK_INSIDE = (
    "a quotation mark stands inside a cell without them; put the cell in quotation"
    " marks and double its own"
)
_BEHIND = (
    "something stands behind a closing quotation mark; double the quotation marks of"
    " the cell"
)
_BARE_CR = (
    "CR alone stands outside of quotation marks; put the cell in them, or export the"
    " table with lines that end with LF or CRLF"
)
_UNCLOSED = "a cell that begins here has no end; close its quotation marks"


def read_cells(
    path: Path, faults: Faults, *, separator: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield the names of the columns, then the cells of each row, with their lines.

    A row that breaks a rule becomes a fault, and reading goes on behind it; without
    names that can be read, nothing is yielded.
    """
    width = None
    try:
        for row in _rows(path, separator):
            if (rule := _fault_of_width(row, width)) is not None:
                row.refuse(InputFault(path, rule, line=row.line, code="table-invalid"))
            if row.fault is not None:
                faults.add(row.fault)
                if width is None:
                    return
                continue
            width = width or row.count
            yield row.line, row.cells
    except InputFault as fault:
        faults.add(fault)


@dataclass(slots=True)
class _CellRow:
    """A row while it is read."""

    line: int  # where it begins
    cells: list[str] = field(default_factory=list)
    count: int = 0  # of its cells, those above MAX_CELLS as well
    open: list[str] | None = None  # parts of a cell whose quotation marks are open
    size: int = 0  # bytes
    fault: InputFault | None = None

    def take(self, text: str, separator: str) -> str | None:
        """Take a line in, with its end; return the rule that it breaks, if any."""
        line = text.rstrip("\r\n")
        if self.open is None and '"' not in line:
            self.count = line.count(separator) + 1
            self.cells = line.split(separator) if self.count <= MAX_CELLS else []
            return None
        rule, place = None, 0
        while True:  # a cell begins at the place, or goes on there
            is_quoted = self.open is not None or line.startswith('"', place)
            if is_quoted:
                place = self._take_quoted(text, place)
            if self.open is not None:
                return rule
            end = line.find(separator, place)
            end = len(line) if end < 0 else end
            if is_quoted:
                rule = rule or (_BEHIND if end > place else None)
            else:
                cell = line[place:end]
                rule = rule or (_MARK_INSIDE if '"' in cell else None)
                self._add(cell)
            if end == len(line):
                return rule
            place = end + 1

    def _take_quoted(self, text: str, place: int) -> int:
        """Take a cell in up to its closing mark or the line's end; return the place."""
        if self.open is None:
            self.open, place = [], place + 1
        found = _INSIDE.match(text, place)
        end = found.end() if found else place  # it matches nothing, too
        self.open.append(text[place:end].replace('""', '"'))
        if end == len(text):
            return end
        self._add("".join(self.open))
        self.open = None
        return end + 1

    def _add(self, cell: str) -> None:
        self.count += 1
        if self.count <= MAX_CELLS:
            self.cells.append(cell)

    def refuse(self, fault: InputFault) -> None:
        """Note the first rule that the row breaks."""
        self.fault = self.fault or fault


def _rows(path: Path, separator: str) -> Iterator[_CellRow]:
    """Yield each row with the first rule that it breaks.

    Raises:
        ConfigError: The file cannot be read, or a row is too long.
    """
    row = None
    for number, data in text_reader.lines_of(path, links=False):
        if row is None and not data.strip(b"\r\n"):
            continue
        row = row or _CellRow(line=number)
        row.size += len(data)
        if row.size > text_reader.MAX_TEXT_BYTES:
            limit = text_reader.MAX_TEXT_BYTES >> 20
            rule = f"is over {limit} MiB long; split the row, or close its quotation"
            raise InputFault(path, f"{rule} marks", line=row.line, code="line-too-long")
        _take(row, data, path, line=number, separator=separator)
        if row.open is None:
            yield row
            row = None
    if row is not None:
        row.refuse(InputFault(path, _UNCLOSED, line=row.line, code="table-invalid"))
        yield row


def _take(row: _CellRow, data: bytes, path: Path, *, line: int, separator: str) -> None:
    """Take a line in; one with a wrong character still opens and closes cells."""
    try:
        text = text_reader.decoded(data, path, line=line)
    except InputFault as fault:
        row.refuse(fault)
        text = data.decode("utf-8", "replace")
    if (rule := text_reader.first_fault(text)) is not None:
        row.refuse(InputFault(path, rule, line=line, code="character-not-allowed"))
    if (rule := row.take(text, separator)) is not None:
        row.refuse(InputFault(path, rule, line=row.line, code="table-invalid"))
    if row.open is None and data.endswith(b"\r"):
        row.refuse(InputFault(path, _BARE_CR, line=line, code="table-invalid"))


def _fault_of_width(row: _CellRow, width: int | None) -> str | None:
    """Return that a row has other cells than there are names, or too many names."""
    if width is None:
        too_many = row.count > MAX_CELLS
        return f"has over {MAX_CELLS} columns; take some out" if too_many else None
    if row.count == width:
        return None
    return (
        f"has {row.count} cells, the first line {width}; write one for each column, and"
        " put a cell that holds the separator in quotation marks"
    )
