"""No text, prompt or answer goes beyond the positions that a model has."""

import inspect
from typing import Any

import pytest
import torch

from tapestry.errors import ConfigError
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.model import LanguageModel
from tests.support.model_folders import build

LIMIT = 64


@pytest.fixture(params=["gpt2", "opt", "llama"], scope="module")
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> LanguageModel:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("positions") / request.param
    found = LanguageModel.open(build(folder, request.param))
    template: Any = found._template
    template.__dict__["ends"] = frozenset()  # answers that never end by themselves
    return found


def _tokens(model: LanguageModel, prompt: str) -> int:
    return len(model._prompt(prompt))


def test_an_answer_ends_where_the_positions_do(model: LanguageModel) -> None:
    given: list[Any] = []
    plain = model.module.forward

    def watching(*inputs: Any, **named: Any) -> Any:
        given.append(int(named["attention_mask"].sum(dim=1).max()))
        return plain(*inputs, **named)

    watching.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]
    model.module.forward = watching
    try:
        model.complete("a" * 60, max_tokens=100)
    finally:
        model.module.forward = plain
    assert max(given) == LIMIT - 1  # the last token is made, and not read again


def test_answers_of_one_batch_end_each_by_itself(model: LanguageModel) -> None:
    prompts: list[Text] = ["a" * 60, "b", Dialogue(turns=("c" * 30,))]
    together = model.complete_all(prompts, max_tokens=100)
    assert together == [model.complete(each, max_tokens=100) for each in prompts]


def test_a_prompt_without_room_for_an_answer_is_refused(model: LanguageModel) -> None:
    room = LIMIT - 1 - (_tokens(model, "a") - 1)
    assert model.complete("a" * room, max_tokens=5) is not None
    with pytest.raises(ConfigError, match=r"has 64 tokens .* the model takes 64"):
        model.complete("a" * (room + 1), max_tokens=5)


def test_a_text_is_scored_in_windows_that_the_model_takes(model: LanguageModel) -> None:
    text = "abc " * 50
    wide = model.evaluate([text], sequence_length=150)
    assert wide == model.evaluate([text], sequence_length=LIMIT)


@pytest.mark.parametrize("temperature", [float("nan"), 1e-320, -1.0, float("inf")])
def test_a_temperature_is_zero_or_can_be_divided_by(
    model: LanguageModel, temperature: float
) -> None:
    with pytest.raises(ValueError, match="temperature"):
        model.complete_all(["a"], max_tokens=1, temperature=temperature)
    model.complete_all(["a"], max_tokens=2, temperature=0.01)


def test_a_model_that_breaks_gives_no_answer(model: LanguageModel) -> None:
    before = model.parameters()
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.fill_(float("nan"))
    try:
        with pytest.raises(ConfigError, match="NaN or infinity"):
            model.complete("a", max_tokens=2)
    finally:
        model.load(before)
