"""Texts as token windows, and windows as padded batches.

Shapes: B sequences, T positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sequences padded on the right.

    ``attention_BT`` is 1 where a token is real, ``counted_BT`` where it counts in the
    loss as well.
    """

    tokens_BT: Tensor
    attention_BT: Tensor
    counted_BT: Tensor


def start_tokens(tokenizer: Any) -> list[int]:
    """Return the beginning-of-text token if the tokenizer itself puts it first."""
    bos = tokenizer.bos_token_id
    first = tokenizer("a")["input_ids"][:1]
    return [bos] if bos is not None and first == [bos] else []


def tokenize(tokenizer: Any, texts: Sequence[str], start: list[int]) -> list[list[int]]:
    """Turn texts into tokens; an empty text gives none.

    Edge cases:
        The spelling of a special token inside a text is text, not a command.
    """
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    return [[*start, *row] if row else [] for row in rows["input_ids"]]


def windows(tokens: Sequence[int], length: int) -> list[tuple[int, ...]]:
    """Cut tokens into windows that overlap by one; each has 2 to ``length`` tokens.

    A window in which no token is to be predicted is left out.
    """
    starts = range(0, len(tokens) - 1, length - 1)
    cut = (tuple(tokens[start : start + length]) for start in starts)
    return [window for window in cut if max(window[1:]) >= 0]


def by_length(rows: Sequence[Sequence[int]], *, tokens: int) -> Iterator[list[int]]:
    """Group the indices of rows of like length, longest first, to limit padding.

    Args:
        rows: What will be padded together.
        tokens: How many positions a group may have; one row always fits.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    start = 0
    while start < len(order):
        size = max(1, tokens // len(rows[order[start]]))
        yield order[start : start + size]
        start += size


def pad(sequences: Sequence[Sequence[int]], *, device: torch.device) -> Batch:
    """Pad sequences on the right to the longest; ``~token`` is context alone."""
    if not sequences or min(map(len, sequences)) < 2:
        raise ValueError("a batch holds sequences of two tokens or more")
    width = max(map(len, sequences))
    tokens = np.zeros((len(sequences), width), dtype=np.int64)
    attention = np.zeros_like(tokens)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
        attention[row, : len(sequence)] = 1
    counted = attention * (tokens >= 0)
    return Batch(
        tokens_BT=torch.from_numpy(np.where(tokens < 0, ~tokens, tokens)).to(device),
        attention_BT=torch.from_numpy(attention).to(device),
        counted_BT=torch.from_numpy(counted).to(device),
    )
