"""Counts of text records, for the institution alone; none leaves a node."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from tapestry.workloads.base import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The shortest, the median (the lower of two) and the longest length."""

    shortest: int
    median: int
    longest: int

    @classmethod
    def of(cls, lengths: Iterable[int]) -> Self | None:
        """Sum up some lengths; None where there are none."""
        ordered = np.sort(np.fromiter(lengths, dtype=np.int64))
        if not len(ordered):
            return None
        return cls(
            shortest=int(ordered[0]),
            median=int(ordered[(len(ordered) - 1) // 2]),
            longest=int(ordered[-1]),
        )

    def __str__(self) -> str:
        return f"{self.shortest} to {self.longest}, median {self.median}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The contents of a folder of records, in numbers."""

    files: int
    bytes: int  # of all files
    beside: tuple[str, ...]  # files that describe the data, and are not read
    records: int
    joined: int  # records of several rows with one id
    empty: int  # files that gave no record
    invisible: int  # text files and rows left out, since nothing in them is visible
    duplicates: int  # records that repeat another one exactly
    merged: int  # rows that repeat one of the same id exactly, left out
    like_ids: int  # ids that differ from another one in case only
    beyond: int  # rows left out, since their person has max_rows before them
    kept_out: dict[str, int]  # rows of each protected domain, left out
    characters: Lengths | None  # of a record

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what a terminal shows, each line with its label."""
        files = count(self.files, "file")
        yield (
            "data",
            f"{count(self.records, 'record')} in {files} of {self.bytes} bytes",
        )
        yield "length", f"{self.characters or 'none'} characters"
        if self.beside:
            names = ", ".join(self.beside)
            files = count(len(self.beside), "file")
            yield "note", f"{files} not read, as descriptions of the data: {names}"
        for number, what in (
            (self.joined, "records joined from several rows with one id"),
            (self.duplicates, "records that repeat another one exactly"),
            (self.merged, "rows left out that repeat one of the same id exactly"),
            *(
                (number, f"rows left out, of the protected domain {name}")
                for name, number in self.kept_out.items()
            ),
            (self.like_ids, "ids that differ from another one in case only"),
            (self.beyond, "rows left out, over max_rows of their person"),
            (self.empty, "files without a visible text"),
            (self.invisible, "texts left out, since nothing in them is visible"),
        ):
            if number:
                yield "note", f"{number} {what}"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The part of the records that training reads at one sequence length."""

    sequence_length: int
    tokens: Lengths | None  # of a record that is trained on
    cut: int  # records of several sequences, each without sight of the others
    without_loss: int  # records too short to learn anything from
    measured: int  # records that were counted: all, or a sample
    records: int

    @classmethod
    def of(
        cls, examples: Iterable[Example], *, sequence_length: int, records: int
    ) -> Self:
        """Count what is read of some examples, of all records or of a sample."""
        # Sequences of one record overlap by a token.
        sizes = [
            (len(each.rows), 1 + sum(len(row) - 1 for row in each.rows))
            for each in examples
        ]
        return cls(
            sequence_length=sequence_length,
            tokens=Lengths.of(tokens for rows, tokens in sizes if rows),
            cut=sum(rows > 1 for rows, _ in sizes),
            without_loss=sum(not rows for rows, _ in sizes),
            measured=len(sizes),
            records=records,
        )

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what a terminal shows, with its label."""
        text = (
            f"{self.tokens or 'none'}; in sequences of {self.sequence_length},"
            f" {count(self.cut, 'record')} cut, {self.without_loss} too short"
        )
        yield "tokens", text + in_sample(self.measured, self.records)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncounted:
    """A count that could not be made, and why."""

    label: str
    reason: str  # with what to do

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what a terminal shows, with its label."""
        yield self.label, f"not counted: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Return the reason."""
        return {"not_counted": self.reason}


def in_sample(measured: int, records: int) -> str:
    """Say that a sample of the records was looked at, where it was one."""
    if measured == records:
        return ""
    return f"; in {measured} of {records} records, drawn by lot"


def count(number: int, what: str) -> str:
    """Print a number of things: one record, two records."""
    return f"{number} {what}{'' if number == 1 else 's'}"
