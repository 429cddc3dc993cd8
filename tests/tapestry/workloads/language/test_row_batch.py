"""Rows that join and leave at any time: each gets the tokens that it gets alone."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.row_batch import RowBatch
from tests.support.model_folders import build

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "gemma3_text": {"sliding_window": 6},
    "gpt2": {},
}


def alone(module: Any, prompt: Sequence[int], count: int) -> list[int]:
    """Decode without a cache or another row."""
    tokens = list(prompt)
    for _ in range(count):
        out = module(input_ids=torch.tensor([tokens]), use_cache=False)
        tokens.append(int(out.logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_rows_have_the_tokens_that_each_has_alone(kind: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    module = LanguageModel.open(build(tmp_path / kind, kind, **KINDS[kind])).module
    drawn = np.random.default_rng(len(kind))
    sizes = drawn.choice((1, 3, 9, 14), size=9)
    prompts = [drawn.integers(256, size=size).tolist() for size in sizes]
    want = [alone(module, prompt, 3 + n) for n, prompt in enumerate(prompts)]
    batch, rows = RowBatch(module), list[int]()
    found: list[list[int]] = [[] for _ in prompts]
    waiting = list(range(len(prompts)))
    while waiting or rows:
        logits = [batch.step([found[row][-1] for row in rows])] if rows else []
        fresh = [
            waiting.pop(0) for _ in range(min(len(waiting), int(drawn.integers(3))))
        ]
        if fresh:
            logits.append(batch.join([prompts[n] for n in fresh], [""] * len(fresh)))
            rows += fresh
        if not rows:
            continue
        assert len(batch) == len(rows)
        for row, token in zip(rows, torch.cat(logits).argmax(dim=-1), strict=True):
            found[row].append(int(token))
        left = [n for n, row in enumerate(rows) if len(found[row]) < len(want[row])]
        batch.keep(left)
        rows = [rows[n] for n in left]
    assert found == want


@torch.no_grad()
def test_columns_that_no_row_needs_go_with_the_row_that_did(tmp_path: Path) -> None:
    batch = RowBatch(LanguageModel.open(build(tmp_path / "llama", "llama")).module)
    batch.join([[1] * 20, [2, 3]], ["", ""])
    assert batch.columns == 20
    batch.keep([1])
    assert (len(batch), batch.columns) == (1, 2)
    batch.step([4])
    assert batch.columns == 3
    batch.keep([])
    assert (len(batch), batch.columns) == (0, 0)
    batch.join([[5, 6, 7]], [""])
    assert (len(batch), batch.columns) == (1, 3)


@torch.no_grad()
def test_each_pass_is_told_the_adapters_of_its_rows(tmp_path: Path) -> None:
    told: list[list[str]] = []

    def chosen(names: Sequence[str]) -> nullcontext[None]:
        told.append(list(names))
        return nullcontext()

    module = LanguageModel.open(build(tmp_path / "llama", "llama")).module
    batch = RowBatch(module, adapters=chosen)
    batch.join([[1], [2]], ["a", "b"])
    batch.step([3, 4])
    batch.join([[5]], ["c"])
    batch.keep([1, 2])
    batch.step([6, 7])
    assert told == [["a", "b"], ["a", "b"], ["c"], ["b", "c"]]
