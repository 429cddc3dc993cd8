"""No text, prompt or answer goes beyond the positions that a model has."""

import pytest

from tapestry.errors import ConfigError
from tapestry.workloads.language.model import LanguageModel
from tests.support.model_folders import POSITIONS
from tests.support.refusals import refused


def _tokens(bounded: LanguageModel, prompt: str) -> int:
    return len(bounded.prompt_tokens(prompt))


def test_a_prompt_without_room_for_an_answer_is_refused(bounded: LanguageModel) -> None:
    room = POSITIONS - 1 - (_tokens(bounded, "a") - 1)
    assert bounded.complete_all(["a" * room], max_tokens=5)[0] is not None
    with refused(ConfigError, "prompt-too-long", match=r"64 tokens .* takes 64"):
        bounded.complete_all(["a" * (room + 1)], max_tokens=5)


def test_a_text_is_scored_in_windows_that_the_model_takes(
    bounded: LanguageModel,
) -> None:
    text = "abc " * 50
    wide = bounded.evaluate([text], sequence_length=150)
    assert wide == bounded.evaluate([text], sequence_length=POSITIONS)


@pytest.mark.parametrize("temperature", [float("nan"), 1e-320, -1.0, float("inf")])
def test_a_temperature_is_zero_or_can_be_divided_by(
    bounded: LanguageModel, temperature: float
) -> None:
    with pytest.raises(ValueError, match="temperature"):
        bounded.complete_all(["a"], max_tokens=1, temperature=temperature)
    bounded.complete_all(["a"], max_tokens=2, temperature=0.01)
