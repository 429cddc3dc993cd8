"""Continuations of several prompts at once: each is what it is alone, and ends."""

import inspect
from typing import Any

import pytest
import torch

from tapestry.dialogue import Dialogue, Text
from tapestry.errors import ConfigError
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.generation import decode
from tapestry.workloads.language.model import LanguageModel
from tests.support.chat_templates import CHATML
from tests.support.model_folders import POSITIONS


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
        bounded.complete("a" * 60, max_tokens=100)
    finally:
        bounded.module.forward = plain
    assert max(given) == POSITIONS - 1  # the last token is made, and not read again


def test_answers_of_one_batch_end_each_by_itself(bounded: LanguageModel) -> None:
    prompts: list[Text] = ["a" * 60, "b", Dialogue(turns=("c" * 30,))]
    together = bounded.complete_all(prompts, max_tokens=100)
    assert together == [bounded.complete(each, max_tokens=100) for each in prompts]


def test_a_model_that_breaks_gives_no_answer(bounded: LanguageModel) -> None:
    before = bounded.parameters()
    with torch.no_grad():
        for parameter in bounded.module.parameters():
            parameter.fill_(float("nan"))
    try:
        with pytest.raises(ConfigError, match="NaN or infinity"):
            bounded.complete("a", max_tokens=2)
    finally:
        bounded.load(before)


def test_prompts_decoded_together_give_what_each_gives_alone(
    model: LanguageModel,
) -> None:
    model.tokenizer.chat_template = CHATML
    prompts = [Dialogue(turns=("a" * n,)) for n in range(1, 24)]
    together = model.complete_all(prompts, max_tokens=8)
    assert together == [model.complete(p, max_tokens=8) for p in prompts]
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
