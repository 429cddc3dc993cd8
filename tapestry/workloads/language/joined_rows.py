"""Rows of text, joined by their ids without holding them in memory.

While a folder is read, each row goes into ``SealedRows``. About 80 bytes of numbers a
row stay in memory: digests of id and text, place, and length. Afterwards the rows of an
id are found by sorting those digests, and a record is put together when it is asked
for::

    row       id, NUL, spelling of the text    no id holds NUL; without id it is empty
    record    the texts of the rows of one id, in order of file and line
    order     of the records: by SHA-256 of their spelling

Guarantees:
    What is read back is what was added. The order of the records depends on the
    records alone; only records of the same spelling stand in order of their files.
"""

import hashlib
import json
import secrets
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tapestry.storage.sealed_rows import SealedRows
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.lazy_sequence import LazySequence

_MESSAGES = b"\0messages\0"  # begins the spelling of a dialogue; no text holds NUL
_Integers = npt.NDArray[np.int64]


class RowCollection:
    """Rows while they are read; ``join`` makes records of them."""

    def __init__(self, scratch: Path | None) -> None:
        """Take the folder of the temporary file; without one all stays in memory."""
        self._rows = SealedRows(scratch)
        self._secret = secrets.token_bytes(32)  # no row chooses the digest of its id
        self._ids, self._texts = bytearray(), bytearray()  # digests: 16, 32 bytes a row
        self._folded = array("Q")  # digest of the id without case; 0: there is no id
        self._kinds = bytearray()  # 1: a dialogue
        self._lengths, self._lines = array("I"), array("I")
        self._files: list[tuple[int, Path]] = []  # with the first row of each
        self.merged = 0  # rows that repeat one of the same id

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._rows)

    def begin(self, path: Path) -> None:
        """Count the rows that follow to a file."""
        self._files.append((len(self._rows), path))

    def add(self, key: str | None, text: Text, *, line: int) -> None:
        """Take a row in.

        Raises:
            ResourceError: The disk is full, or the scratch folder cannot be written.
        """
        spelled, number = spelling(text), len(self._rows)
        if key is None:
            self._ids += number.to_bytes(16, "little")
            self._folded.append(0)
        else:
            self._ids += self._digest(key, 16)
            folded = self._digest(key.casefold(), 8)
            self._folded.append(int.from_bytes(folded, "little") | 1)
        self._texts += hashlib.sha256(spelled).digest()
        self._kinds.append(isinstance(text, Dialogue))
        self._lengths.append(_characters(text))
        self._lines.append(line)
        self._rows.append((key or "").encode() + b"\0" + spelled)

    def _digest(self, key: str, size: int) -> bytes:
        return hashlib.blake2b(
            key.encode(), digest_size=size, key=self._secret
        ).digest()

    def join(self, most: int | None = None) -> "JoinedRows":
        """Find the rows of each id; nothing is added afterwards.

        A row that repeats an earlier one of its id exactly counts once. Of an id the
        first ``most`` rows are taken, if that is given. Both depend on its rows alone.
        """
        ids = np.frombuffer(self._ids, "<u8").reshape(-1, 2)
        order = np.lexsort((ids[:, 1], ids[:, 0]))  # stable: rows keep their order
        ids = ids[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (ids[1:] != ids[:-1]).any(axis=1)
        del ids
        kept = self._first_of_equal(order, new)
        self.merged = int(len(order) - kept.sum())
        order, new = order[kept], new[kept]
        starts = np.flatnonzero(new)
        sizes = np.diff(starts, append=len(order))
        whole = int(sizes.sum())
        if most is not None:
            sizes = np.minimum(sizes, most)
        first = order[starts]
        found = JoinedRows(rows=self._rows, order=order, starts=starts, sizes=sizes)
        digests = np.frombuffer(self._texts, "S32")[first]
        joined = np.flatnonzero(sizes > 1)
        for place in joined[np.argsort(first[joined])]:  # as they lie on the disk
            digests[place] = hashlib.sha256(spelling(found.record(place))).digest()
        by_file = np.argsort(first)
        final = by_file[np.argsort(digests[by_file], kind="stable")]
        return JoinedRows(
            rows=self._rows,
            order=order,
            starts=starts[final],
            sizes=sizes[final],
            digests=digests[final],
            beyond=whole - int(sizes.sum()),
        )

    def _first_of_equal(
        self, order: npt.NDArray[np.intp], new: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Mark the rows but those that repeat one of their id, shape (len(order),)."""
        kept = np.ones(len(order), dtype=bool)
        group = np.cumsum(new) - 1
        several = np.flatnonzero(np.bincount(group, minlength=1)[group] > 1)
        if not len(several):
            return kept
        texts, group = np.frombuffer(self._texts, "S32")[order[several]], group[several]
        by_text = np.lexsort((several, texts, group))
        texts, group = texts[by_text], group[by_text]
        again = (texts[1:] == texts[:-1]) & (group[1:] == group[:-1])
        kept[several[by_text[1:][again]]] = False
        return kept

    def mixed(self, joined: "JoinedRows") -> Iterator[tuple[Path, int]]:
        """Yield file and line of rows of another kind than the first of their id."""
        kinds = np.frombuffer(self._kinds, np.uint8)
        if not kinds.any():
            return
        first = np.repeat(joined.order[joined.starts], joined.sizes)
        rows = joined.order[_ranges(joined)]
        for row in np.sort(rows[kinds[rows] != kinds[first]]):
            path = next(p for start, p in reversed(self._files) if start <= row)
            yield path, self._lines[row]

    def lengths(self, joined: "JoinedRows") -> _Integers:
        """Count the characters of each record, (N,); rows are joined by a line end."""
        rows = joined.order[_ranges(joined)]
        ends = np.cumsum(joined.sizes)
        sums = np.cumsum(np.frombuffer(self._lengths, np.uint32)[rows], dtype=np.int64)
        totals = np.diff(sums[ends - 1], prepend=0)
        is_text = np.frombuffer(self._kinds, np.uint8)[joined.order[joined.starts]] == 0
        return np.asarray(totals + (joined.sizes - 1) * is_text, dtype=np.int64)

    def like_ids(self, joined: "JoinedRows") -> int:
        """Count ids that differ from another one in case only."""
        folded = np.frombuffer(self._folded, np.uint64)[joined.order[joined.starts]]
        _, many = np.unique(folded[folded != 0], return_counts=True)
        return int(many[many > 1].sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedRows:
    """Records as places of their rows: record i has ``order[starts[i]:][:sizes[i]]``.

    ``digests`` has SHA-256 of the spelling of each record, in ascending order.
    """

    rows: SealedRows
    order: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    sizes: npt.NDArray[np.intp]
    digests: npt.NDArray[np.bytes_] | None = None
    beyond: int = 0  # rows over the most of an id

    @property
    def records(self) -> Sequence[Text]:
        """All records; each is read when it is asked for."""
        return LazySequence(len(self.starts), self.record)

    @property
    def keys(self) -> Sequence[str | None]:
        """The id of each record; None where the row has none."""
        return LazySequence(len(self.starts), self._key)

    @property
    def parts(self) -> Sequence[Text]:
        """The rows of all records that were joined from several."""
        several = self.sizes > 1
        one = JoinedRows(
            rows=self.rows,
            order=self.order,
            starts=self.starts[several],
            sizes=self.sizes[several],
        )
        rows = self.order[_ranges(one)]
        return LazySequence(len(rows), lambda place: self._row(int(rows[place])))

    def record(self, place: int) -> Text:
        """Read the rows of one record, and join them."""
        start = self.starts[place]
        rows = self.order[start : start + self.sizes[place]]
        return _join([self._row(int(row)) for row in rows])

    def _row(self, number: int) -> Text:
        return _text_of(self.rows[number].partition(b"\0")[2])

    def _key(self, place: int) -> str | None:
        row = self.rows[int(self.order[self.starts[place]])]
        return row.partition(b"\0")[0].decode() or None


def spelling(text: Text) -> bytes:
    """Spell a text or a dialogue in bytes, each in one way."""
    if isinstance(text, str):
        return text.encode()
    turns = json.dumps(text.turns, ensure_ascii=False, separators=(",", ":"))
    return _MESSAGES + turns.encode()


def _text_of(spelled: bytes) -> Text:
    if not spelled.startswith(_MESSAGES):
        return spelled.decode()
    return Dialogue(turns=tuple(json.loads(spelled[len(_MESSAGES) :])))


def _join(parts: Sequence[Text]) -> Text:
    """Make one record of the rows of an id, which are all of one kind."""
    dialogues = [part for part in parts if isinstance(part, Dialogue)]
    if dialogues:
        return Dialogue(turns=tuple(turn for each in dialogues for turn in each.turns))
    return "\n".join(part for part in parts if isinstance(part, str))


def _characters(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text.turns))


def _ranges(joined: JoinedRows) -> Any:
    """List the places in ``order`` of all rows, record by record."""
    ends = np.cumsum(joined.sizes)
    shift = np.repeat(joined.starts - (ends - joined.sizes), joined.sizes)
    return np.arange(len(shift)) + shift
