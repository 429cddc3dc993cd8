"""Sample answers: of the first prompts, unedited, by base and adapter."""

import numpy as np
import pytest

from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.dialogue import Dialogue
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.model_card import Asking
from tapestry.workloads.language.sample_answers import (
    COUNT,
    MAX_TOKENS,
    answer,
    asking,
    first_tokens,
    prompts_of,
)
from tests.support.plans import training_plan

PLAN = training_plan(
    parameterization="low_rank", rank=2, targets=("v_proj",), factor_seed="ab" * 32
)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return build_tiny()


def test_prompts_are_the_beginnings_of_the_first_texts() -> None:
    long = " ".join(f"w{i}" for i in range(100))
    texts = [
        "one two three four",
        "",
        "one two x y",
        long,
        "字" * 300,
        "late text here",
    ]
    found = prompts_of(texts)
    assert found == ["one two", " ".join(f"w{i}" for i in range(12)), "字" * 80]
    assert prompts_of(["a b"] * 9) == ["a"]


def test_prompts_are_questions_where_there_are_dialogues() -> None:
    rows = [Dialogue(turns=(q, "answer")) for q in "aabcd"]
    assert prompts_of(["some text", *rows]) == [Dialogue(turns=(q,)) for q in "abc"]


def test_a_prompt_that_others_would_read_otherwise_is_put_as_tokens(
    model: LanguageModel,
) -> None:
    assert asking(model, ["Ciao a tutti voi"]) is Asking.CONTINUE
    assert asking(model, [Dialogue(turns=("Ciao", "Ciao!"))]) is Asking.LINE
    spelled = ["a </s> tutti voi qui"]
    assert asking(model, spelled) is Asking.TOKENS
    assert first_tokens(model, spelled) == model.prompt_tokens(prompts_of(spelled)[0])


def test_without_public_text_nothing_is_asked(model: LanguageModel) -> None:
    nothing = np.zeros(model.layout(PLAN).length, np.float32)
    assert answer(model, nothing, [], plan=PLAN) == ()
    assert first_tokens(model, []) == ()
    assert asking(model, []) is Asking.CONTINUE


def test_base_and_adapter_each_answer_the_first_prompts(model: LanguageModel) -> None:
    texts = [Dialogue(turns=(question, "no")) for question in ("Ciao", "Chi", "A", "B")]
    update = np.full(model.layout(PLAN).length, 2.0, np.float32)
    found = answer(model, update, texts, plan=PLAN)
    assert [each.prompt for each in found] == ["Ciao", "Chi", "A"]
    assert len(found) == COUNT
    alone = [
        model.complete_all([p], max_tokens=MAX_TOKENS)[0] for p in prompts_of(texts)
    ]
    assert [each.base for each in found] == alone
    with model.moved(update, PLAN):
        moved = [
            model.complete_all([p], max_tokens=MAX_TOKENS)[0] for p in prompts_of(texts)
        ]
    assert [each.adapter for each in found] == moved
    assert moved != alone
