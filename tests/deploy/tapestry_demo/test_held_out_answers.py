"""The report's answers are the first ones, unedited, to the same questions."""

from dataclasses import asdict

import pytest
import torch

from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.dialogue import Dialogue
from tapestry.workloads.language.model import LanguageModel
from tapestry_demo.held_out_answers import MAX_TOKENS, ask, choose_samples


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.set_num_threads(1)
    return build_tiny()


def test_the_first_distinct_questions_are_taken_in_order() -> None:
    rows = [Dialogue(turns=(q, f"{q} answered {i}")) for i, q in enumerate("aabcd")]
    samples = choose_samples({"italy": ["no dialogue", *rows], "spain": rows[:1]})
    assert [(s.country, s.prompt) for s in samples] == [
        ("italy", "a"),
        ("italy", "b"),
        ("italy", "c"),
        ("spain", "a"),
    ]
    assert samples[0].reference == "a answered 0"


def test_answers_are_those_of_the_model_at_hand_and_short(model: LanguageModel) -> None:
    samples = choose_samples({"italy": [Dialogue(turns=("ciao", "ciao"))]})
    ask(model, samples, name="given")
    parameters = model.parameters()
    model.load({name: -value for name, value in parameters.items()})
    ask(model, samples, name="other")
    model.load(parameters)
    answers = samples[0].answers
    ciao = Dialogue(turns=("ciao",))
    assert [answers["given"]] == model.complete_all([ciao], max_tokens=MAX_TOKENS)
    assert answers["given"] != answers["other"]
    assert asdict(samples[0]) == {
        "country": "italy",
        "prompt": "ciao",
        "reference": "ciao",
        "answers": answers,
    }
