"""Texts as token windows, and windows as padded batches.

Shapes: B sequences, T positions.
"""

import json
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tapestry.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenExample:
    """One record as token sequences, each of 2 to ``sequence_length`` tokens.

    A token that is context only, and adds nothing to the loss, stands as its
    complement ``~token``; each sequence has at least one that counts.
    """

    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sequences padded on the right.

    ``attention_BT`` is 1 where a token is real, ``counted_BT`` where it counts in the
    loss as well.
    """

    tokens_BT: Tensor
    attention_BT: Tensor
    counted_BT: Tensor


class PlainText:
    """Tokenizes what people wrote: no added token can be spelled in it.

    Guarantees:
        The spelling of an added token (special or not) inside a text is text, not a
        command.

    Edge cases:
        An added token of white space alone, as vocabularies for code have, is made of
        white space as before.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Take a Hugging Face tokenizer; it is not changed."""
        self._tokenizer = tokenizer
        self.deaf = _without_added(tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn each text into tokens, without any that a tokenizer puts around it."""
        if not texts:
            return []
        rows = self.deaf(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            verbose=False,
        )
        return [list(row) for row in rows["input_ids"]]

    @property
    def added(self) -> dict[int, str]:
        """The added tokens that show something, by number."""
        known = self._tokenizer.added_tokens_decoder
        return {n: str(token) for n, token in known.items() if str(token).strip()}

    def check(self, tokens: Collection[int]) -> None:
        """Require that no text spells one of these tokens, where it is an added one.

        Raises:
            ConfigError: The spelling of a token, as text, gives that token.
        """
        added = self._tokenizer.added_tokens_decoder
        marks = {
            number: str(added[number]) for number in sorted(tokens) if number in added
        }
        marks = {number: mark for number, mark in marks.items() if mark.strip()}
        rows = self.encode([text for m in marks.values() for text in (m, f"a {m} a")])
        for place, (number, mark) in enumerate(marks.items()):
            if any(number in row for row in rows[2 * place : 2 * place + 2]):
                raise ConfigError(
                    f"the tokenizer makes token {mark!r} of plain text, so that a turn"
                    " could end itself; choose a base with another tokenizer",
                    code="turn-mark-forgeable",
                )


def _without_added(tokenizer: Any) -> Any:
    """Return a tokenizer that reads added tokens that show something as text.

    As text are read those that are special; so all are made special, in a copy. A
    Unigram model has them among its pieces besides, and finds them in any text; there
    the copy has no added tokens, and in their place pieces that are drawn at random,
    so that no text can spell them.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer  # of Python alone; ``check`` finds what a text can spell
    added = backend.get_added_tokens_decoder().values()
    value = json.loads(backend.to_str())
    is_unigram = value["model"].get("type") == "Unigram"
    plain = all(token.special or not token.content.strip() for token in added)
    if plain and not is_unigram:
        return tokenizer
    import transformers
    from tokenizers import Tokenizer

    shown = {token.content for token in added if token.content.strip()}
    if is_unigram:
        secret = secrets.token_hex(32)
        for place, piece in enumerate(value["model"]["vocab"]):
            if piece[0] in shown:
                piece[0] = f"\ue002{secret}{place}"
        value["added_tokens"] = [
            token for token in value["added_tokens"] if token["content"] not in shown
        ]
    for token in value["added_tokens"]:
        token["special"] = token["special"] or token["content"] in shown
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(value))
    )


def start_tokens(tokenizer: Any) -> list[int]:
    """Return the beginning-of-text token if the tokenizer itself puts it first."""
    bos = tokenizer.bos_token_id
    first = tokenizer("a")["input_ids"][:1]
    return [bos] if bos is not None and first == [bos] else []


def windows(tokens: Sequence[int], length: int) -> list[tuple[int, ...]]:
    """Cut tokens into windows that overlap by one; each has 2 to ``length`` tokens.

    A window in which no token is to be predicted is left out.
    """
    starts = range(0, len(tokens) - 1, length - 1)
    cut = (tuple(tokens[start : start + length]) for start in starts)
    return [window for window in cut if max(window[1:]) >= 0]


def by_length(rows: Sequence[Sequence[int]], *, tokens: int) -> Iterator[list[int]]:
    """Group the indices of rows of like length, longest first, to limit padding.

    A group has up to ``tokens`` positions; one row always fits.
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
