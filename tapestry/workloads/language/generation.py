"""Continue several prompts at once, token by token (``row_batch``).

Shapes: B prompts, V tokens of the vocabulary.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor

from tapestry.errors import ConfigError
from tapestry.workloads.language.row_batch import RowBatch

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
    found: list[list[int]] = [[] for _ in prompts]
    going = [row for row, tokens in enumerate(most) if tokens > 0]
    if not going:
        return found
    batch = RowBatch(module)
    logits_BV = batch.join([prompts[row] for row in going], [""] * len(going))
    while going:
        check_finite(logits_BV)
        chosen = [choose(logits_V) for logits_V in logits_BV]
        left = []
        for place, (row, token) in enumerate(zip(going, chosen, strict=True)):
            if token not in ends:
                found[row].append(token)
                if len(found[row]) < most[row]:
                    left.append(place)
        batch.keep(left)
        going = [going[place] for place in left]
        if going:
            logits_BV = batch.step([chosen[place] for place in left])
    return found


def check_finite(logits: Tensor) -> None:
    """Refuse logits of which a row has no finite largest value.

    Raises:
        ConfigError: The model gives NaN or infinity.
    """
    if not bool(logits.max(dim=-1).values.isfinite().all()):
        raise ConfigError(
            "the model gives NaN or infinity; it cannot answer",
            code="model-not-finite",
        )
