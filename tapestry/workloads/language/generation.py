"""Decode continuations of several prompts at once, token by token.

Prompts are padded on the left, so that each ends in the last column; positions count
real tokens only, so a row's logits are those it has alone, but for rounding. A row that
has ended takes part as padding: its positions stay where they are.

Shapes: B prompts, T positions, V tokens of the vocabulary.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from tapestry.errors import ConfigError

_ROWS = 20  # prompts at a time: bounds the memory of keys and values


def decode(
    module: Any,
    prompts: Sequence[Sequence[int]],
    *,
    ends: Collection[int],
    most: Sequence[int],
    choose: Callable[[Tensor], int],
) -> list[list[int]]:
    """Continue each prompt until it ends itself or has as many more as it may.

    Args:
        module: A causal language model of Hugging Face, in evaluation mode.
        prompts: Tokens, at least one each.
        ends: Tokens that end a continuation; they are left out.
        most: How many tokens at most, for each prompt.
        choose: Picks a token from logits of shape (V,).

    Raises:
        ConfigError: The model gives NaN or infinity.
    """
    found: list[list[int]] = []
    for start in range(0, len(prompts), _ROWS):
        rows = slice(start, start + _ROWS)
        found += _decode_rows(module, prompts[rows], ends, most[rows], choose)
    return found


def _decode_rows(
    module: Any,
    prompts: Sequence[Sequence[int]],
    ends: Collection[int],
    most: Sequence[int],
    choose: Callable[[Tensor], int],
) -> list[list[int]]:
    width = max(map(len, prompts))
    device = module.device
    fresh_BT = torch.zeros(len(prompts), width, dtype=torch.long)
    attention_BT = torch.zeros_like(fresh_BT)
    for row, tokens in enumerate(prompts):
        fresh_BT[row, width - len(tokens) :] = torch.tensor(tokens)
        attention_BT[row, width - len(tokens) :] = 1
    positions_BT = (attention_BT.cumsum(dim=1) - 1).clamp(min=0)
    found: list[list[int]] = [[] for _ in prompts]
    open_rows, cache = {row for row, tokens in enumerate(most) if tokens > 0}, None
    known = inspect.signature(module.forward).parameters
    while open_rows:
        optional = {"position_ids": positions_BT.to(device), "logits_to_keep": 1}
        out = module(
            input_ids=fresh_BT.to(device),
            attention_mask=attention_BT.to(device),
            past_key_values=cache,
            use_cache=True,
            **{name: value for name, value in optional.items() if name in known},
        )
        cache, logits_BV = out.past_key_values, out.logits[:, -1].float().cpu()
        fresh_BT = torch.zeros(len(prompts), 1, dtype=torch.long)
        for row in sorted(open_rows):
            if not logits_BV[row].max().isfinite():
                raise ConfigError(
                    "the model gives NaN or infinity; it cannot answer",
                    code="model-not-finite",
                )
            token = choose(logits_BV[row])
            if token in ends:
                open_rows.discard(row)
                continue
            found[row].append(token)
            fresh_BT[row, 0] = token
            if len(found[row]) == most[row]:
                open_rows.discard(row)
        going_BT = torch.zeros_like(fresh_BT)
        going_BT[sorted(open_rows)] = 1
        attention_BT = torch.cat([attention_BT, going_BT], dim=1)
        positions_BT = positions_BT[:, -1:] + going_BT
    return found
