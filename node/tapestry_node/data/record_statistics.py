"""Records in numbers, for the institution's own eyes; nothing of this leaves a node."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The shortest, the median (the lower of two) and the longest length."""

    shortest: int
    median: int
    longest: int

    @classmethod
    def of(cls, lengths: Iterable[int]) -> Self | None:
        """Sum up some lengths; None where there are none."""
        ordered = sorted(lengths)
        if not ordered:
            return None
        return cls(
            shortest=ordered[0],
            median=statistics.median_low(ordered),
            longest=ordered[-1],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What lies in a folder of records."""

    files: int
    bytes: int  # of all files
    records: int
    joined: int  # records of several rows with one id
    empty: int  # files that gave no record
    invisible: int  # text files and rows left out, since nothing in them is visible
    duplicates: int  # records that repeat another one exactly
    like_ids: int  # ids that differ from another one in case only
    characters: Lengths | None  # of a record


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What training reads of the records at one sequence length."""

    sequence_length: int
    tokens: Lengths | None  # of a record that is trained on
    cut: int  # records of several sequences, each without sight of the others
    without_loss: int  # records too short to learn anything from
