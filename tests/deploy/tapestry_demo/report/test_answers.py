"""Country by country: prompts and answers unedited, and what is to be expected."""

import pytest

from tapestry_demo.report.answers import repeats
from tests.support.report_pages import figures, words_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am a robot. I am a robot.", True),
        ("я не знаю, я не знаю, я не знаю", True),
        ("ロボットです。ロボットです。ロボットです。", True),
        ("食べ物は食べ物です。食べ物は食べ物です。", True),
        ("私は寿司が好きですが、魚は好きではありません。", False),
        ("The cat and the dog and the bird sang in the garden.", False),
        ("--------------------------------", False),
        ("", False),
    ],
)
def test_an_answer_that_repeats_itself_is_found(text: str, expected: bool) -> None:
    assert repeats(text) is expected


def test_each_country_shows_its_prompts_and_answers_unedited() -> None:
    data = figures()
    words = words_of(data)
    for sample in data["samples"]:
        for text in (
            sample["prompt"],
            sample["reference"],
            *sample["answers"].values(),
        ):
            assert " ".join(text.split()) in words
    assert words.count("(it answered with nothing)") == 1
    assert words.count("Prompt 3 of 3") == 4


def test_the_page_says_of_the_answers_what_they_are() -> None:
    words = words_of(figures())
    assert "134,515,008 parameters, which is small" in words
    assert "Of the 36 answers below, five repeat themselves, one copies the" in words
    assert "18 of 48 (37.5 %) by the model as it was given" in words
    assert "32 of 48 (66.7 %) by the adapters" in words
    assert "Answers in Italian to prompts in Italian: 4 of 12 by the model" in words


def test_the_page_says_of_other_answers_other_things() -> None:
    data = figures()
    del data["language_share"]
    data["model"]["parameters"] = 7_000_000_000
    for sample in data["samples"]:
        sample["answers"] = {"given": "Yes.", "adapter": "No."}
    words = words_of(data)
    assert "None of the 24 answers below is empty, repeats itself or copies" in words
    assert "In which language it answers was not counted" in words
    assert "is small" not in words
