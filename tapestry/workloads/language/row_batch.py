"""Rows of tokens that are decoded together, and that join and leave between steps.

Prompts are padded on the left, so that each row ends in the last column; positions
count real tokens only, so a row has the logits that it has alone, but for rounding::

    step 1   . . a b        two rows have joined
             p q r s
    step 2   . . a b c      each gets a token
             p q r s t
    join     . . a b c      a third one: its keys and values are computed alone,
             p q r s t      and put beside those of the others
             . . . x y
    keep     a b c          the second one has ended; empty columns go with it
             . x y

Shapes: B rows, T positions, V tokens of the vocabulary.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Chosen = Callable[[Sequence[str]], AbstractContextManager[None]]


def _all_alike(_: Sequence[str]) -> AbstractContextManager[None]:
    return nullcontext()


class RowBatch:
    """The keys and values of some rows, and the model that continues them."""

    def __init__(self, module: Any, *, adapters: Chosen = _all_alike) -> None:
        """Take a causal language model of Hugging Face, in evaluation mode.

        ``adapters`` runs a forward pass with an adapter for each row, by its name.
        """
        self._module, self._adapters = module, adapters
        known = inspect.signature(module.forward).parameters
        self._takes = {"position_ids", "logits_to_keep"} & set(known)
        self._cache: Any = None
        self._attention_BT = torch.zeros(0, 0, dtype=torch.long)
        self._next_B = torch.zeros(0, dtype=torch.long)
        self._names: list[str] = []

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._names)

    @property
    def columns(self) -> int:
        """The positions that are held for each row."""
        return self._attention_BT.shape[1]

    def join(self, prompts: Sequence[Sequence[int]], names: Sequence[str]) -> Tensor:
        """Add rows after those that are there; return logits (new rows, V).

        The logits are of the token that follows each prompt, float32 on the processor.
        """
        from transformers import DynamicCache

        width = max(map(len, prompts))
        tokens_BT = torch.zeros(len(prompts), width, dtype=torch.long)
        attention_BT = torch.zeros_like(tokens_BT)
        for row, tokens in enumerate(prompts):
            tokens_BT[row, width - len(tokens) :] = torch.tensor(tokens)
            attention_BT[row, width - len(tokens) :] = 1
        # Without a configuration every layer keeps all columns, so that rows can move.
        cache = DynamicCache()
        positions_BT = (attention_BT.cumsum(dim=1) - 1).clamp(min=0)
        logits_BV = self._run(tokens_BT, attention_BT, positions_BT, cache, names)
        self._merge(cache, attention_BT)
        self._next_B = torch.cat([self._next_B, attention_BT.sum(dim=1)])
        self._names += names
        return logits_BV

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Give each row a token; return the logits of the next ones, (B, V)."""
        one_BT = torch.ones(len(self), 1, dtype=torch.long)
        self._attention_BT = torch.cat([self._attention_BT, one_BT], dim=1)
        logits_BV = self._run(
            torch.tensor(tokens, dtype=torch.long)[:, None],
            self._attention_BT,
            self._next_B[:, None],
            self._cache,
            self._names,
        )
        self._next_B = self._next_B + 1
        return logits_BV

    def keep(self, rows: Sequence[int]) -> None:
        """Let all rows go but these, by their places, in ascending order."""
        if len(rows) == len(self):
            return
        self._names = [self._names[row] for row in rows]
        self._next_B = self._next_B[list(rows)]
        left_BT = self._attention_BT[list(rows)]
        if not rows:
            self._cache, self._attention_BT = None, left_BT[:, :0]
            return
        start = int(left_BT.any(dim=0).nonzero()[0])
        self._attention_BT = left_BT[:, start:]
        for layer in self._cache.layers:
            layer.keys = layer.keys[list(rows), :, start:]
            layer.values = layer.values[list(rows), :, start:]

    def _run(
        self,
        tokens_BT: Tensor,
        attention_BT: Tensor,
        positions_BT: Tensor,
        cache: Any,
        names: Sequence[str],
    ) -> Tensor:
        device = self._module.device
        optional = {"position_ids": positions_BT.to(device), "logits_to_keep": 1}
        with self._adapters(names):
            out = self._module(
                input_ids=tokens_BT.to(device),
                attention_mask=attention_BT.to(device),
                past_key_values=cache,
                use_cache=True,
                **{
                    name: value
                    for name, value in optional.items()
                    if name in self._takes
                },
            )
        found: Tensor = out.logits[:, -1].float().cpu()
        return found

    def _merge(self, cache: Any, attention_BT: Tensor) -> None:
        """Put new rows under those that are there, padded on the left to one width."""
        if self._cache is None or not len(self):
            self._cache, self._attention_BT = cache, attention_BT
            return
        width = max(self.columns, attention_BT.shape[1])
        old, new = width - self.columns, width - attention_BT.shape[1]
        self._attention_BT = torch.cat(
            [
                functional.pad(self._attention_BT, (old, 0)),
                functional.pad(attention_BT, (new, 0)),
            ]
        )
        for layer, more in zip(self._cache.layers, cache.layers, strict=True):
            for part in ("keys", "values"):
                pieces = (getattr(layer, part), getattr(more, part))
                padded = [
                    functional.pad(piece, (0, 0, missing, 0))
                    for piece, missing in zip(pieces, (old, new), strict=True)
                ]
                setattr(layer, part, torch.cat(padded))
