"""Text records in a folder, as ``tapestry_node.data.records`` has them read.

The folder holds ``corpus.toml`` and, beside or below it, the text::

    language = "it"            BCP 47
    licence = "BSD-3-Clause"   SPDX; under which the institution holds the text
    unit = "record"            what the promise of privacy is about; or "person"
    max_rows = 20              with "person": the most rows of one that are read
    source = "where it comes from"

    *.txt     each file is one record
    *.jsonl   each line is one record, {"text": "..."}; lines with the same "id",
              in whatever file, are one record: {"id": "patient-7", "text": "..."}
              Instead of a text, a line may hold a dialogue, of which the answers are
              learned: {"messages": [{"role": "user", "content": "..."},
              {"role": "assistant", "content": "..."}, ...]}
    *.csv, *.tsv, *.parquet, *.arrow    each row is one record, as a line of JSON is;
              the columns are the keys

The table ``[columns]`` says which columns or keys are these (``table_columns``), and
``row_sources`` how each format is read. What a file may hold is the rule of
``tapestry.inputs.text_reader``, and what a folder may hold is that of
``tapestry.inputs.folder_walker``: what is there is read, or refused by name. On top of
that:

* A row has the keys ``text`` (or ``messages``) and ``id`` and no other, unless
  ``[columns]`` names it: a third one is often a misspelled ``id``, without which a
  patient's rows would count as many.
* An id is text, never empty, null or a number, in normal form C, without space at its
  ends and without invisible characters inside. Ids that differ in case are two ids. A
  typed column of whole numbers gives their decimal text.
* A text in which nothing is visible is no record. It is left out and counted.
* Texts and dialogues under one id do not mix.
* The parts of one id are joined in order of file (path by path) and line. That order
  is part of the record's text, and so of the digest.
* With ``unit = "person"`` an id is the person's key: each row has one, so that there
  are no .txt files, and of one person the first ``max_rows`` rows are read.

Guarantees:
    A message names at most a file of the operator's, a line, and a rule. It holds
    nothing of a record, and neither does the error.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tapestry.inputs import text_reader
from tapestry.inputs.faults import Faults, InputFault
from tapestry.workloads.base import ReadRecords
from tapestry.workloads.data_manifest import DataManifest
from tapestry.workloads.language import row_sources
from tapestry.workloads.language.dataset_folders import is_companion
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.record_statistics import Census, Lengths
from tapestry.workloads.language.table_columns import Columns
from tapestry.workloads.language.text_rows import fault_of_row, shown_part, text_of_row

_LANGUAGE = r"^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$"
_SUFFIXES = (".txt", *row_sources.SUFFIXES)
_LISTED = f"{', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}"
_KEYS = ("id",)
_MAX_ID = 1000  # characters


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

    columns: Columns | None = None
    undigested: ClassVar[frozenset[str]] = frozenset({"source", "columns"})

    @property
    def languages(self) -> tuple[str, ...]:
        """The language, as the log lists it."""
        return (self.language,)


@dataclass(slots=True)
class _Collection:
    """Records while they are read; a key is an id, or the number of a record."""

    persons: bool = False  # an id is a person, and each row needs one
    max_rows: int | None = None  # of an id
    parts: dict[str | int, list[Text]] = field(default_factory=dict)
    invisible: int = 0
    beyond: int = 0  # rows over max_rows

    def add(self, key: str | None, text: Text) -> bool:
        """Take a row in; return whether anything in it is visible."""
        if text_reader.is_invisible(shown_part(text)):
            self.invisible += 1
            return False
        rows = self.parts.setdefault(len(self.parts) if key is None else key, [])
        if self.max_rows is not None and len(rows) == self.max_rows:
            self.beyond += 1
        else:
            rows.append(text)
        return True


class TextReader:
    """Reads text and dialogues; implements ``workloads.base.RecordReader``."""

    manifest_file = "corpus.toml"
    manifest: type[DataManifest] = Corpus

    def read(
        self, paths: Sequence[Path], faults: Faults, *, manifest: DataManifest | None
    ) -> ReadRecords:
        """Read all files of a folder but the manifest; what is wrong becomes faults."""
        found = _Collection()
        if manifest is not None and manifest.unit == "person":
            found = _Collection(persons=True, max_rows=manifest.max_rows)
        files = size = empty = 0
        columns = manifest.columns if isinstance(manifest, Corpus) else None
        for path in paths:
            if is_companion(path, faults):
                continue
            if path.suffix not in _SUFFIXES:
                faults.add(
                    InputFault(path, _of_other_kind(path), code="file-not-expected")
                )
                continue
            files, size = files + 1, size + _size(path)
            empty += not _add_file(path, columns, found, faults)
        units = [(_join(parts), key) for key, parts in found.parts.items()]
        units.sort(key=lambda unit: (_order(unit[0]), str(unit[1])))
        joined = [text for text, _ in units]
        rest = f"; {found.invisible} are empty or show nothing"
        return ReadRecords(
            records=tuple(joined),
            spellings=tuple(map(_bytes_of, joined)),
            keys=tuple(key if isinstance(key, str) else None for _, key in units),
            parts=tuple(part for parts in found.parts.values() for part in parts),
            summary=_count(found, joined, files=(files, empty, size)),
            hint=f"{rest if found.invisible else ''}; put {_LISTED} files there",
        )


def _of_other_kind(path: Path) -> str:
    if path.suffix.lower() in _SUFFIXES:
        return f"ends in capitals; rename it to end in {path.suffix.lower()}"
    return f"is not {_LISTED}; move it out of the data folder, or name a folder below"


def _add_file(
    path: Path, columns: Columns | None, found: _Collection, faults: Faults
) -> bool:
    """Take in the rows of a file; return whether anything in it is visible."""
    seen = False
    for line, key, text in _read_file(path, columns, faults):
        rule = _fault_of_key(found, key) or _fault_of_mixture(found, key, text)
        if rule is None:
            seen = found.add(key, text) or seen
        else:
            faults.add(InputFault(path, rule, line=line, code="record-invalid"))
    return seen


def _read_file(
    path: Path, columns: Columns | None, faults: Faults
) -> Iterator[tuple[int, str | None, Text]]:
    """Yield line, id and text of each row of a file, or of a text file as a whole."""
    if path.suffix == ".txt":
        try:
            yield 1, None, text_reader.read_text(path, links=False)
        except InputFault as fault:
            faults.add(fault)
        return
    for number, row in row_sources.read_rows(path, columns, faults):
        rule = fault_of_row(row, keys=_KEYS) or _fault_of_id(row)
        if rule is None:
            yield number, row.get("id"), text_of_row(row)
        else:
            faults.add(InputFault(path, rule, line=number, code="record-invalid"))


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
    hidden = (c for c in key if c != " " and text_reader.is_invisible(c))
    if rule is None and any(hidden):
        rule = "holds an invisible character; remove it"
    if rule is None and key != key.strip():
        rule = "begins or ends with space; remove it"
    if rule is None and not unicodedata.is_normalized("NFC", key):
        rule = "is not in Unicode normal form C (NFC); normalize it"
    return None if rule is None else f'"id" {rule}'


def _fault_of_key(found: _Collection, key: str | None) -> str | None:
    """Return that a row names no person, where each must."""
    if found.persons and key is None:
        return 'names no person; with unit = "person" each row has an "id"'
    return None


def _fault_of_mixture(found: _Collection, key: str | None, text: Text) -> str | None:
    """Return that the rows of an id are of two kinds, if they are."""
    parts = found.parts.get(key, []) if key is not None else []
    if parts and type(parts[0]) is not type(text):
        return 'has "text", and an earlier row of its id has "messages", or the reverse'
    return None


def _join(parts: list[Text]) -> Text:
    """Make one record of the rows of an id, which are all of one kind."""
    dialogues = [part for part in parts if isinstance(part, Dialogue)]
    if dialogues:
        return Dialogue(turns=tuple(turn for each in dialogues for turn in each.turns))
    return "\n".join(part for part in parts if isinstance(part, str))


def _order(text: Text) -> tuple[bool, tuple[str, ...]]:
    """Sort texts before dialogues."""
    return (True, text.turns) if isinstance(text, Dialogue) else (False, (text,))


def _bytes_of(text: Text) -> bytes:
    """Spell a record for its digest; NUL, which no text holds, marks a dialogue."""
    if isinstance(text, str):
        return text.encode()
    turns = json.dumps(text.turns, ensure_ascii=False, separators=(",", ":"))
    return b"\0messages\0" + turns.encode()


def _characters(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text.turns))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # then it cannot be read, either, which is a fault
        return 0


def _count(
    found: _Collection, texts: list[Text], *, files: tuple[int, int, int]
) -> Census:
    ids = [key for key in found.parts if isinstance(key, str)]
    folded = Counter(key.casefold() for key in ids)
    return Census(
        files=files[0],
        empty=files[1],
        bytes=files[2],
        records=len(texts),
        joined=sum(len(parts) > 1 for parts in found.parts.values()),
        invisible=found.invisible,
        duplicates=len(texts) - len(set(texts)),
        like_ids=sum(many for many in folded.values() if many > 1),
        beyond=found.beyond,
        characters=Lengths.of(map(_characters, texts)),
    )
