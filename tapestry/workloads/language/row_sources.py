"""Rows of text from files of each format, one by one: what ``text_records`` reads.

==================  ==================================================================
``.jsonl``          an object a line (``tapestry.inputs.text_reader``)
``.csv``, ``.tsv``  cells as text, the first line names them
                    (``tapestry.inputs.delimited_reader``)
``.parquet``        typed columns (``table_reader``); a file of Arrow's IPC may be a
``.arrow``          stream
==================  ==================================================================

The same rows give the same records in each of them. An id is text, or in typed columns
a whole number, which stands for its decimal text; in JSON and in columns of floats a
number is none.
Dialogues are lists of messages, which cells of text cannot hold, or pairs of columns
for question and answer.
"""

from collections.abc import Iterator
from pathlib import Path

from tapestry.errors import ConfigError
from tapestry.inputs import text_reader
from tapestry.inputs.delimited_reader import read_cells
from tapestry.inputs.faults import Faults, InputFault
from tapestry.workloads.language import table_reader
from tapestry.workloads.language.table_columns import (
    Columns,
    check_columns,
    check_keys,
    roles_of,
    row_of,
)
from tapestry.workloads.language.table_reader import Row

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".jsonl", *_SEPARATORS, *table_reader.SUFFIXES)


def read_rows(path: Path, columns: Columns | None, faults: Faults) -> Iterator[Row]:
    """Yield the rows of a file of one of the ``SUFFIXES``, with their numbers.

    A row is as ``text_rows.fault_of_row`` takes it, and unchecked inside. What breaks a
    rule of its format or of the columns becomes a fault.

    Raises:
        ResourceError: A package for the format is missing.
    """
    if path.suffix in _SEPARATORS:
        return _of_cells(path, columns, faults)
    if path.suffix in table_reader.SUFFIXES:
        return table_reader.read_table(path, columns, faults)
    rows = text_reader.read_rows(path, faults, links=False)
    return rows if columns is None else _of_objects(path, rows, columns, faults)


def _of_objects(
    path: Path, rows: Iterator[Row], columns: Columns, faults: Faults
) -> Iterator[Row]:
    roles = columns.roles.items()
    for number, row in rows:
        try:
            check_keys(row, columns)
        except ConfigError as error:
            faults.add(InputFault(path, str(error), line=number, code=error.code))
        else:
            yield number, row_of({role: row[name] for role, name in roles})


def _of_cells(path: Path, columns: Columns | None, faults: Faults) -> Iterator[Row]:
    rows = read_cells(path, faults, separator=_SEPARATORS[path.suffix])
    for line, names in rows:  # the first of them
        try:
            places = _places(names, columns)
        except ConfigError as error:
            faults.add(InputFault(path, str(error), line=line, code=error.code))
            return
        for number, cells in rows:
            yield number, row_of({role: cells[at] for role, at in places.items()})


def _places(names: list[str], columns: Columns | None) -> dict[str, int]:
    """Return the place of each role's column.

    Raises:
        ConfigError: The columns are not those that are wanted.
    """
    if len(names) == 1 and any(each in names[0] for each in ",;\t|"):
        raise ConfigError(
            "has one column, with another separator in its name; export .csv with"
            " commas and .tsv with tabs",
            code="table-invalid",
        )
    check_columns(names, columns)
    roles = roles_of(names, columns)
    if "messages" in roles:
        raise ConfigError(
            "has a column of messages, and a cell is text; have columns of question and"
            " answer, and name them in [columns]",
            code="column-type-differs",
        )
    return {role: names.index(name) for role, name in roles.items()}
