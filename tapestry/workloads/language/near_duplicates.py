"""Records that nearly repeat another one: they are counted, and none is left out.

What trains may depend on no other record, so an institution is told of near duplicates
and takes them out of its folder itself, or does not.

Two texts are alike where their sets of runs of five characters have a Jaccard index
from 0.8. The index is estimated by one-permutation MinHash (Li, Owen, Zhang 2012): the
smallest hash in each of 256 bins, over the bins that are not empty in both. Pairs are
found by banding: texts are compared where eight bins in a row agree, after each empty
bin has borrowed from the next one that is not (Shrivastava, Li 2014).

Shapes: N records, K bins.

Guarantees:
    No record is changed, and the result holds two counts.

Edge cases:
    Texts are compared in NFC, without regard to case and white space, by their first
    10,000 characters. Records that repeat one exactly are another count, of the census;
    here each text counts once. The standard deviation of an estimate is at most 0.032,
    so of pairs with an index of exactly 0.8 about half are counted.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tapestry.vectors import RingVector
from tapestry.workloads.language.dialogue import Text
from tapestry.workloads.language.record_statistics import count, in_sample
from tapestry.workloads.language.text_overlap import plain
from tapestry.workloads.language.text_rows import whole_text
from tapestry.workloads.lazy_sequence import drawn

_LEAST = 0.8  # Jaccard index
_RUN = 5  # characters
_CHARACTERS = 10_000  # of a record
_BINS, _BAND = 256, 8
_EMPTY = np.uint32(2**32 - 1)
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9], dtype=np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicates:
    """The number of records that nearly repeat another one."""

    alike: int  # to a record that was looked at before
    measured: int  # records that were compared: all, or a sample
    records: int

    @classmethod
    def of(cls, records: Sequence[Text]) -> Self:
        """Compare records; of more than 10,000, so many are drawn by lot."""
        sample = drawn(records)
        rows = [_bins(text) for text in _distinct(sample)]
        return cls(
            alike=int(_alike(np.stack(rows)).sum()) if rows else 0,
            measured=len(sample),
            records=len(records),
        )

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what a terminal shows, with its label."""
        text = f"{count(self.alike, 'record')} nearly the same as another one"
        sample = in_sample(self.measured, self.records)
        yield "repeats", f"{text}; none is left out{sample}"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


def _distinct(records: Sequence[Text]) -> Iterator[str]:
    """Yield what is compared of each text, of those that are the same once."""
    seen: set[bytes] = set()
    for record in records:
        text = whole_text(record)
        digest = hashlib.sha256(text.encode()).digest()
        if digest not in seen:
            seen.add(digest)
            yield plain(text[:_CHARACTERS])


def _bins(text: str) -> RingVector:
    """Return the smallest hash of a run of characters in each bin, shape (K,)."""
    codes = np.frombuffer(text.ljust(_RUN).encode("utf-32-le"), dtype=np.uint32)
    runs = np.lib.stride_tricks.sliding_window_view(codes.astype(np.uint64), _RUN)
    hashes = np.zeros(len(runs), dtype=np.uint64)
    for place in range(_RUN):  # the finalizer of SplitMix64 after each character
        hashes = (hashes + runs[:, place] + np.uint64(1)) * _FACTORS[0]
        hashes = (hashes ^ (hashes >> np.uint64(31))) * _FACTORS[1]
        hashes ^= hashes >> np.uint64(29)
    found = np.full(_BINS, _EMPTY)
    which = (hashes >> np.uint64(56)).astype(np.intp)
    np.minimum.at(found, which, hashes.astype(np.uint32))
    return found


def _alike(bins_NK: RingVector) -> npt.NDArray[np.bool_]:
    """Tell of each record whether an earlier one is like it, shape (N,).

    Each of the records that agree in a band is compared with the first of them and with
    the one before it.
    """
    found = np.zeros(len(bins_NK), dtype=np.bool_)
    keys, places = _borrowed(bins_NK), np.arange(len(bins_NK))
    for start in range(0, _BINS, _BAND):
        band = keys[:, start : start + _BAND]
        order = np.lexsort(band.T)
        band = band[order]
        begins = np.append(True, (band[1:] != band[:-1]).any(axis=1))
        first = np.maximum.accumulate(np.where(begins, places, 0))
        for earlier in (first, places - 1):
            one, other = order[~begins], order[earlier[~begins]]
            alike = _jaccard(bins_NK[one], bins_NK[other]) >= _LEAST
            found[np.maximum(one, other)[alike]] = True
    return found


def _borrowed(bins_NK: RingVector) -> npt.NDArray[np.uint64]:
    """Fill each empty bin from the next one that is not, round the end."""
    places = np.arange(_BINS, dtype=np.int16)
    own = np.where(bins_NK == _EMPTY, np.int16(2 * _BINS), places)
    twice = np.concatenate([own, own + np.int16(_BINS)], axis=1)
    near = np.minimum.accumulate(twice[:, ::-1], axis=1)[:, : _BINS - 1 : -1]
    values = np.take_along_axis(bins_NK, near.astype(np.intp) % _BINS, axis=1)
    steps = (near - places).astype(np.uint64)
    return values.astype(np.uint64) + (steps << np.uint64(32))


def _jaccard(one: RingVector, other: RingVector) -> npt.NDArray[np.float64]:
    """Estimate the Jaccard index of the texts of each pair of rows."""
    filled = (one != _EMPTY) | (other != _EMPTY)
    same = np.count_nonzero(filled & (one == other), axis=1)
    index: npt.NDArray[np.float64] = same / np.count_nonzero(filled, axis=1)
    return index
