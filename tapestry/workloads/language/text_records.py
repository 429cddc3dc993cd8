"""Text records in a folder, as ``tapestry_node.data.records`` has them read.

The folder holds ``corpus.toml`` and, beside or below it, the text::

    language = "it"            BCP 47
    licence = "BSD-3-Clause"   SPDX; under which the institution holds the text
    unit = "record"            what the promise of privacy is about
    source = "where it comes from"

    *.txt     each file is one record
    *.jsonl   each line is one record, {"text": "..."}; lines with the same "id",
              in whatever file, are one record: {"id": "patient-7", "text": "..."}
              Instead of a text, a line may hold a dialogue, of which the answers are
              learned: {"messages": [{"role": "user", "content": "..."},
              {"role": "assistant", "content": "..."}, ...]}

What a file may hold is the rule of ``tapestry.inputs.text_reader``, and what a folder
may hold is that of ``tapestry.inputs.folder_walker``: what is there is read, or refused
by name. On top of that:

* A row has the keys ``text`` (or ``messages``) and ``id`` and no other: a third one is
  often a misspelled ``id``, without which a patient's rows would count as many.
* An id is text, never empty, null or a number, in normal form C, without space at its
  ends and without invisible characters inside. Ids that differ in case are two ids.
* A text in which nothing is visible is no record. It is left out and counted.
* Texts and dialogues under one id do not mix.
* The parts of one id are joined in order of file (path by path) and line. That order
  is part of the record's text, and so of the digest.

Guarantees:
    A message names at most a file of the operator's, a line, and a rule. It holds
    nothing of a record, and neither does the error.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from tapestry.inputs import text_reader
from tapestry.inputs.faults import Faults, InputFault
from tapestry.workloads.base import ReadRecords
from tapestry.workloads.data_manifest import DataManifest
from tapestry.workloads.language.joined_rows import RowCollection
from tapestry.workloads.language.record_statistics import Census, Lengths
from tapestry.workloads.language.text_rows import fault_of_row, shown_part, text_of_row

_LANGUAGE = r"^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$"
_SUFFIXES = (".txt", ".jsonl")
_KEYS = ("id",)
_MAX_ID = 1000  # characters
_MIXED = 'has "text", and an earlier row of its id has "messages", or the reverse'


class Corpus(DataManifest):
    """The description of an institution's text; may be published."""

    language: Annotated[
        str,
        Field(
            pattern=_LANGUAGE,
            description="a BCP 47 tag of language, script and region",
            examples=["pt-BR"],
        ),
    ]

    @property
    def languages(self) -> tuple[str, ...]:
        """The language, as the log lists it."""
        return (self.language,)


class TextReader:
    """Reads text and dialogues; implements ``workloads.base.RecordReader``."""

    manifest_file = "corpus.toml"
    manifest: type[DataManifest] = Corpus

    def read(
        self, paths: Iterable[Path], faults: Faults, *, scratch: Path | None = None
    ) -> ReadRecords:
        """Read all files of a folder but the manifest; what is wrong becomes faults.

        Each file is read once. Rows beyond what may stay in memory go to a sealed file
        without a name in the folder ``scratch`` (``tapestry.storage.sealed_rows``).

        Raises:
            ResourceError: The disk is full, or ``scratch`` cannot be written.
        """
        found = RowCollection(scratch)
        files = size = empty = invisible = 0
        for path in paths:
            if path.suffix not in _SUFFIXES:
                faults.add(
                    InputFault(path, _of_other_kind(path), code="file-not-expected")
                )
                continue
            files, size = files + 1, size + _size(path)
            seen, hidden = _add_file(path, found, faults)
            empty, invisible = empty + (not seen), invisible + hidden
        joined = found.join()
        for path, line in found.mixed(joined):
            faults.add(InputFault(path, _MIXED, line=line, code="record-invalid"))
        rest = f"; {invisible} are empty or show nothing" if invisible else ""
        several = int((joined.sizes > 1).sum())
        digests = np.asarray(joined.digests)
        return ReadRecords(
            records=joined.records,
            keys=joined.keys,
            digests=digests.tobytes(),
            parts=joined.parts,
            summary=Census(
                files=files,
                empty=empty,
                bytes=size,
                records=len(digests),
                joined=several,
                invisible=invisible,
                duplicates=int((digests[1:] == digests[:-1]).sum()),
                like_ids=found.like_ids(joined),
                characters=Lengths.of(found.lengths(joined)),
            ),
            hint=f"{rest}; put .txt or .jsonl files there",
        )


def _of_other_kind(path: Path) -> str:
    if path.suffix.lower() in _SUFFIXES:
        return f"ends in capitals; rename it to end in {path.suffix.lower()}"
    return "is neither .txt nor .jsonl; move it out of the data folder"


def _add_file(path: Path, found: RowCollection, faults: Faults) -> tuple[int, int]:
    """Take in the rows of a file; count those that show something, and the others."""
    seen = hidden = 0
    found.begin(path)
    for line, row in _rows_of(path, faults):
        rule = fault_of_row(row, keys=_KEYS) or _fault_of_id(row)
        if rule is not None:
            faults.add(InputFault(path, rule, line=line, code="record-invalid"))
        elif text_reader.is_invisible(shown_part(text := text_of_row(row))):
            hidden += 1
        else:
            seen += 1
            found.add(row.get("id"), text, line=line)
    return seen, hidden


def _rows_of(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line and row of a file; a text file is one row as a whole."""
    if path.suffix != ".txt":
        yield from text_reader.read_rows(path, faults, links=False)
        return
    try:
        yield 1, {"text": text_reader.read_text(path, links=False)}
    except InputFault as fault:
        faults.add(fault)


def _fault_of_id(row: dict[str, Any]) -> str | None:
    """Return which rule the id of a row breaks, in words, or None."""
    if "id" not in row:
        return None
    key = row["id"]
    if not isinstance(key, str):
        return '"id" must be a string; write it in quotes, or leave the key out'
    if not key:
        return '"id" is empty; leave the key out where a row alone is a record'
    rule = text_reader.first_fault(key)
    if rule is None and len(key) > _MAX_ID:
        rule = f"is over {_MAX_ID} characters; shorten it"
    if rule is None and _hides(key):
        rule = "holds an invisible character; remove it"
    if rule is None and key != key.strip():
        rule = "begins or ends with space; remove it"
    if rule is None and not unicodedata.is_normalized("NFC", key):
        rule = "is not in Unicode normal form C (NFC); normalize it"
    return None if rule is None else f'"id" {rule}'


def _hides(key: str) -> bool:
    """Return whether an id holds an invisible character other than a space."""
    if key.isascii() and key.isprintable():
        return False
    return any(c != " " and text_reader.is_invisible(c) for c in key)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # then it cannot be read, either, which is a fault
        return 0
