"""Continuations of several prompts at once: each is what it is alone, and ends."""

import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tapestry.errors import ConfigError
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.generation import decode
from tapestry.workloads.language.model import LanguageModel
from tests.support.chat_templates import CHATML
from tests.support.model_folders import POSITIONS
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.set_num_threads(1)
    return build_tiny()


def test_an_answer_ends_where_the_positions_do(bounded: LanguageModel) -> None:
    given: list[Any] = []
    plain = bounded.module.forward

    def watching(*inputs: Any, **named: Any) -> Any:
        given.append(int(named["attention_mask"].sum(dim=1).max()))
        return plain(*inputs, **named)

    watching.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]
    bounded.module.forward = watching
    try:
        bounded.complete_all(["a" * 60], max_tokens=100)
    finally:
        bounded.module.forward = plain
    assert max(given) == POSITIONS - 1  # the last token is made, and not read again


def test_answers_of_one_batch_end_each_by_itself(bounded: LanguageModel) -> None:
    prompts: list[Text] = ["a" * 60, "b", Dialogue(turns=("c" * 30,))]
    together = bounded.complete_all(prompts, max_tokens=100)
    assert together == [
        bounded.complete_all([each], max_tokens=100)[0] for each in prompts
    ]


def test_a_model_that_breaks_gives_no_answer(bounded: LanguageModel) -> None:
    before = bounded.parameters()
    with torch.no_grad():
        for parameter in bounded.module.parameters():
            parameter.fill_(float("nan"))
    try:
        with refused(ConfigError, "model-not-finite"):
            bounded.complete_all(["a"], max_tokens=2)
    finally:
        bounded.load(before)


@pytest.mark.slow
def test_prompts_decoded_together_give_what_each_gives_alone(
    model: LanguageModel,
) -> None:
    model.tokenizer.chat_template = CHATML
    prompts = [Dialogue(turns=("a" * n,)) for n in range(1, 24)]
    together = model.complete_all(prompts, max_tokens=8)
    assert together == [model.complete_all([p], max_tokens=8)[0] for p in prompts]
    assert len(set(together)) > 1


def test_decoding_stops_at_an_end_and_at_the_limit() -> None:
    class Counting(torch.nn.Module):
        """A model whose next token is one more than the last."""

        device = torch.device("cpu")

        def forward(self, input_ids: Any, past_key_values: Any = None, **_: Any) -> Any:
            class Out:
                logits = torch.nn.functional.one_hot(
                    (input_ids + 1).clamp(max=9), 10
                ).float()

            Out.past_key_values = past_key_values  # type: ignore[attr-defined]
            return Out

    found = decode(
        Counting(),
        [[1], [5]],
        ends={8},
        most=[4, 4],
        choose=lambda logits: int(logits.argmax()),
    )
    assert found == [[2, 3, 4, 5], [6, 7]]


class _Counting(torch.nn.Module):
    """A model whose next token is one more than the last, and which notes its input."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self.added = 0.0

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Any,
        **_: Any,
    ) -> Any:
        self.seen.append((input_ids, attention_mask, position_ids))
        drawn = torch.nn.functional.one_hot(input_ids + 1, 100) + self.added

        class Out:
            logits = drawn

        Out.past_key_values = past_key_values  # type: ignore[attr-defined]
        return Out


def _decode(
    module: Any, prompts: Sequence[Sequence[int]], most: Sequence[int], *ends: int
) -> list[list[int]]:
    return decode(
        module, prompts, ends=ends, most=most, choose=lambda row: int(row.argmax())
    )


def test_prompts_end_in_one_column_and_positions_count_real_tokens() -> None:
    module = _Counting()
    assert _decode(module, [[5], [1, 2, 3]], [2, 2]) == [[6, 7], [4, 5]]
    tokens, attention, positions = module.seen[0]
    assert tokens.tolist() == [[0, 0, 5], [1, 2, 3]]
    assert attention.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert positions[:, -1].tolist() == [0, 2]
    assert positions[1].tolist() == [0, 1, 2]
    assert module.seen[1][2].tolist() == [[1], [3]]


def test_a_row_that_ended_leaves() -> None:
    module = _Counting()
    assert _decode(module, [[5], [1]], [9, 4], 7) == [[6], [2, 3, 4, 5]]
    assert [tokens.shape[0] for tokens, _, _ in module.seen] == [2, 2, 1, 1]
    tokens, attention, positions = module.seen[-1]
    assert tokens.tolist() == [[4]]
    assert attention.tolist() == [[1, 1, 1, 1]]
    assert positions.tolist() == [[3]]


def test_a_prompt_that_may_have_no_token_more_has_none_and_asks_for_nothing() -> None:
    module = _Counting()
    assert _decode(module, [[1], [2]], [0, 0]) == [[], []]
    assert _decode(module, [], []) == []
    assert module.seen == []
    assert _decode(module, [[1], [2]], [0, 1]) == [[], [3]]


def test_more_prompts_than_are_decoded_at_a_time_keep_their_order() -> None:
    module = _Counting()
    prompts = [[number] for number in range(45)]
    most = [1 + number % 3 for number in range(45)]
    found = _decode(module, prompts, most)
    assert found == [list(range(n + 1, n + 2 + n % 3)) for n in range(45)]
    assert max(tokens.shape[0] for tokens, _, _ in module.seen) == 20


def test_a_model_without_positions_is_given_none() -> None:
    class Plain(torch.nn.Module):
        device = torch.device("cpu")

        def forward(
            self,
            input_ids: Tensor,
            attention_mask: Tensor,
            past_key_values: Any,
            **_: Any,
        ) -> Any:
            assert attention_mask.shape[1] >= input_ids.shape[1]

            class Out:
                logits = torch.nn.functional.one_hot(input_ids + 1, 9).float()

            Out.past_key_values = past_key_values  # type: ignore[attr-defined]
            return Out

    assert _decode(Plain(), [[1, 2]], [2]) == [[3, 4]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_end_the_answer_with_an_error(value: float) -> None:
    module = _Counting()
    module.added = value
    with refused(ConfigError, "model-not-finite"):
        _decode(module, [[1]], [2])
