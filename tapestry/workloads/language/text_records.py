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

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from tapestry.inputs import text_reader
from tapestry.inputs.faults import Faults, InputFault
from tapestry.workloads.base import ReadRecords
from tapestry.workloads.data_manifest import DataManifest
from tapestry.workloads.language import row_sources
from tapestry.workloads.language.dataset_folders import OF_THE_HUB, is_companion
from tapestry.workloads.language.joined_rows import RowCollection
from tapestry.workloads.language.protected_domains import DomainFilter, ProtectedDomain
from tapestry.workloads.language.record_statistics import Census, Lengths
from tapestry.workloads.language.table_columns import Columns
from tapestry.workloads.language.text_rows import (
    fault_of_row,
    shown_part,
    text_of_row,
    whole_text,
)

_LANGUAGE = r"^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$"
_SUFFIXES = (".txt", *row_sources.SUFFIXES)
_LISTED = f"{', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}"
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

    columns: Columns | None = None
    domains: Annotated[tuple[ProtectedDomain, ...], Field(max_length=100)] = ()
    undigested: ClassVar[frozenset[str]] = frozenset({"source", "columns"})

    @property
    def key(self) -> str:
        """The column or field that names a record's person."""
        named = None if self.columns is None else self.columns.id
        return named or "id"

    @property
    def languages(self) -> tuple[str, ...]:
        """The language, as the log lists it."""
        return (self.language,)


class TextReader:
    """Reads text and dialogues; implements ``workloads.base.RecordReader``."""

    manifest_file = "corpus.toml"
    manifest: type[DataManifest] = Corpus
    beside = OF_THE_HUB

    def read(
        self,
        paths: Iterable[Path],
        faults: Faults,
        *,
        manifest: DataManifest | None,
        scratch: Path | None = None,
        beside: Sequence[str] = (),
    ) -> ReadRecords:
        """Read all files of a folder but the manifest; what is wrong becomes faults.

        Each file is read once. Rows beyond what may stay in memory go to a sealed file
        without a name in the folder ``scratch`` (``tapestry.storage.sealed_rows``).

        Raises:
            ConfigError: The protected domains cannot be compiled.
            ResourceError: The disk is full, ``scratch`` cannot be written, or a package
                is missing.
        """
        found = _Reading.of(manifest, scratch)
        for path in paths:
            if is_companion(path, faults):
                continue
            if path.suffix in _SUFFIXES:
                found.add(path, faults)
            else:
                rule = _of_other_kind(path)
                faults.add(InputFault(path, rule, code="file-not-expected"))
        return found.records(faults, beside=beside)


@dataclass(slots=True)
class _Reading:
    """A folder while it is read."""

    corpus: Corpus | None
    rows: RowCollection
    domains: DomainFilter
    keys: tuple[str, ...]  # of a row, beside its text
    files: int = 0
    size: int = 0  # bytes
    empty: int = 0  # files
    invisible: int = 0  # rows

    @classmethod
    def of(cls, manifest: DataManifest | None, scratch: Path | None) -> Self:
        corpus = manifest if isinstance(manifest, Corpus) else None
        domains = () if corpus is None else corpus.domains
        columns = None if corpus is None else corpus.columns
        labels = any(domain.labels for domain in domains) or (
            columns is not None and columns.label is not None
        )
        keys = ("id", "label") if labels else ("id",)
        return cls(corpus, RowCollection(scratch), DomainFilter(domains), keys)

    def add(self, path: Path, faults: Faults) -> None:
        """Take in the rows of a file."""
        self.files, self.size = self.files + 1, self.size + _size(path)
        self.rows.begin(path)
        before = len(self.rows)
        columns = None if self.corpus is None else self.corpus.columns
        for line, row in _rows_of(path, columns, faults):
            rule = fault_of_row(row, keys=self.keys) or self._fault(row)
            if rule is not None:
                faults.add(InputFault(path, rule, line=line, code="record-invalid"))
                continue
            text, labels = text_of_row(row), (row["label"],) if "label" in row else ()
            if text_reader.is_invisible(shown_part(text)):
                self.invisible += 1
            elif not self.domains.keeps_out(whole_text(text), labels):
                self.rows.add(row.get("id"), text, line=line)
        self.empty += len(self.rows) == before

    def _fault(self, row: dict[str, Any]) -> str | None:
        is_person = self.corpus is not None and self.corpus.unit == "person"
        if is_person and "id" not in row:
            return 'names no person; with unit = "person" each row has an "id"'
        if self.domains.wants_labels and "label" not in row:
            return 'has no "label", and a protected domain asks for it'
        return _fault_of_id(row) or _fault_of_label(row)

    def records(self, faults: Faults, *, beside: Sequence[str]) -> ReadRecords:
        """Join the rows of each id; those of two kinds are faults."""
        most = None if self.corpus is None else self.corpus.max_rows
        joined = self.rows.join(most)
        for path, line in self.rows.mixed(joined):
            faults.add(InputFault(path, _MIXED, line=line, code="record-invalid"))
        hidden = self.invisible
        rest = f"; {hidden} are empty or show nothing" if hidden else ""
        if beside:
            rest += f"; {' and '.join(beside)} are read as no record"
        digests = np.asarray(joined.digests)
        return ReadRecords(
            records=joined.records,
            keys=joined.keys,
            digests=digests.tobytes(),
            parts=joined.parts,
            summary=Census(
                files=self.files,
                empty=self.empty,
                bytes=self.size,
                beside=tuple(beside),
                records=len(digests),
                joined=int((joined.sizes > 1).sum()),
                invisible=hidden,
                duplicates=int((digests[1:] == digests[:-1]).sum()),
                merged=self.rows.merged,
                beyond=joined.beyond,
                kept_out=dict(sorted(self.domains.met.items())),
                like_ids=self.rows.like_ids(joined),
                characters=Lengths.of(self.rows.lengths(joined)),
            ),
            hint=f"{rest}; put {_LISTED} files there",
        )


def _of_other_kind(path: Path) -> str:
    if path.suffix.lower() in _SUFFIXES:
        return f"ends in capitals; rename it to end in {path.suffix.lower()}"
    return f"is not {_LISTED}; move it out of the data folder, or name a folder below"


def _rows_of(
    path: Path, columns: Columns | None, faults: Faults
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line and row of a file; a text file is one row as a whole."""
    if path.suffix != ".txt":
        yield from row_sources.read_rows(path, columns, faults)
        return
    try:
        yield 1, {"text": text_reader.read_text(path, links=False)}
    except InputFault as fault:
        faults.add(fault)


def _fault_of_label(row: dict[str, Any]) -> str | None:
    """Return which rule the label of a row breaks, in words, or None."""
    label = row.get("label", "")
    if not isinstance(label, str) or len(label) > _MAX_ID:
        return f'"label" must be a string of up to {_MAX_ID} characters'
    return None


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
