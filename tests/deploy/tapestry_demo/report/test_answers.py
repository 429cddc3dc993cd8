"""Country by country: prompts and answers unedited, and what is to be expected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry_demo.report.answers import countries, repeats
from tapestry_demo.report.links import Folder
from tests.support.report_pages import Page, body_words, figures, run_of, words_of


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
    assert "In which language it answers was not counted" in words


def test_the_page_says_of_other_answers_other_things() -> None:
    data = figures()
    data["model"]["parameters"] = 7_000_000_000
    for sample in data["samples"]:
        sample["answers"] = {"given": "Yes.", "adapter": "No."}
    words = words_of(data)
    assert "None of the 24 answers below is empty, repeats itself or copies" in words
    assert "is small" not in words


@given(st.text(st.sampled_from("ab \u65e5"), max_size=30))
def test_a_text_said_three_times_repeats_itself(text: str) -> None:
    said = f"{text} abcdefghijkl"
    assert repeats(said * 3)


@given(st.text("-=. ", max_size=60))
def test_rules_and_dots_repeat_nothing(text: str) -> None:
    assert not repeats(text)


def test_a_country_says_who_took_part_with_what_and_what_it_cost() -> None:
    words = Page(countries(run_of(), Folder()).text).words()
    assert (
        "Italy (Italian)Institute for test data, Italy · at least 1,204 private"
        " records · text under BSD-3-Clause · privacy loss ε 4.84, a factor of at"
        " most 127" in words
    )
    words = Page(countries(run_of(epsilon={}), Folder()).text).words()
    assert "no bound on privacy loss" in words


def test_a_country_links_to_its_own_card_and_promise() -> None:
    files = frozenset(
        f"{kind}"
        for name in ("italy", "spain")
        for kind in (f"adapters/{name}/README.md", f"privacy/{name}.md")
    )
    drawn = countries(run_of(), Folder(files)).text.split('id="country-')
    by_country = {
        part.split(">")[1].split(" ")[0]: Page(part).hrefs() for part in drawn[1:]
    }
    assert by_country["Italy"] == ["adapters/italy/README.md", "privacy/italy.md"]
    assert by_country["Spain"] == ["adapters/spain/README.md", "privacy/spain.md"]
    assert by_country["Germany"] == by_country["France"] == []


def test_a_prompt_is_marked_with_its_language_and_an_answer_with_none() -> None:
    seen = Page(countries(run_of(), Folder()).text)
    quoted = [(a["class"], a.get("lang")) for _, a in seen.tags if "dir" in a]
    assert {lang for kind, lang in quoted if kind == "answer"} == {""}
    assert {lang for kind, lang in quoted if kind == "prompt"} == {
        "de",
        "fr",
        "it",
        "es",
    }


def test_what_an_answer_did_is_counted_once_for_each_answer() -> None:
    prompt = "Come stai oggi?"
    answers = {
        "given": f"{prompt} {prompt} {prompt}",
        "base-4": "",
        "adapter": " Bene. ",
    }
    sample = figures()["samples"][0] | {"prompt": prompt, "answers": answers}
    data = figures() | {"samples": [sample]}
    words = body_words(data)
    assert (
        "Of the three answers below, one repeats itself, one copies the prompt and one "
        "is empty." in words
    )
    data["samples"] = [{**sample, "answers": {"given": "Bene."}}]
    assert "None of the one answer below is empty" in body_words(data)


def test_a_country_of_which_nothing_was_measured_says_so() -> None:
    words = body_words(figures() | {"bits_per_byte": {}})
    assert "compared with the model as it was given: not measured." in words
