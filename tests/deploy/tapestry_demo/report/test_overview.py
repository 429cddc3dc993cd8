"""The first screen claims what the figures say, whatever they say."""

from typing import Any

import pytest

from tapestry_demo.report.overview import headline, opening
from tests.support.report_pages import Page, body_words, figures, run_of, words_of


def test_the_first_screen_answers_in_words() -> None:
    first = words_of(figures()).split("Country by country")[0]
    assert first.startswith(
        "Four institutions trained one language model together, and the model got "
        "better for all of them"
    )
    assert "Four institutions (Germany, France, Italy and Spain) trained" in first
    assert (
        "in dialogues that it has never seen 9.5 % better in German, 9.0 % better"
        in first
    )
    assert (
        "each country trained on its own text, it is 13.9 % better in German" in first
    )
    assert "differs by a factor of at most 1,526 plus at most 1 in 100,000 (ε" in first
    assert "That is a weak promise, and in the worst case nearly none" in first
    assert "could be right nearly 100 % of the time" in first
    assert (
        "it can open only their sum. Of six things on the list below it saw three and"
        in first
    )
    assert "a statistical test of the 15 uploads (44.2 MB) found no pattern" in first
    assert "The log of this run has 71 entries, signed by four members." in first
    assert "and all of it holds." in first
    assert "bits per byte" not in first


def test_a_run_that_made_things_worse_says_so() -> None:
    data = figures()
    for country in data["bits_per_byte"]["base-4"]:
        data["bits_per_byte"]["base-4"][country] = 3.0
    assert "35.5 % worse in German" in words_of(data)


def test_a_gain_that_other_texts_could_undo_is_not_called_one() -> None:
    data = figures()
    data["bits_per_byte"]["base-4"]["italy"] = 2.306 - 0.031
    words = words_of(data)
    assert "For Italian the difference is so small" in words
    assert "the shared model 1.3 % better (too little to be sure)" in words


def test_a_run_without_noise_promises_nothing() -> None:
    data = figures()
    data["epsilon"]["italy"]["total"] = float("inf")
    words = words_of(data)
    assert "This run promises no differential privacy:" in words
    assert "Single records, in this run." in words
    assert "no bound on privacy loss" in words


def test_uploads_that_do_not_look_random_are_not_called_random() -> None:
    data = figures()
    data["upload_test"]["p_value"] = 1e-12
    words = words_of(data)
    assert "they do not look random, as masked numbers must" in words
    assert "looked random" not in words
    for unproven in ("only their sum", "not seen", "could not see", "By design"):
        assert unproven not in words
    assert "it saw three and may have seen three" in words
    assert words.count("? in doubt") == 3
    del data["upload_test"]
    assert "no test looked at the uploads" in words_of(data)


@pytest.mark.parametrize(
    "verdict", ["fails", "rule_broken", "foreign_file", "incomplete", "banana", ""]
)
def test_an_audit_that_found_something_is_not_called_clean(verdict: str) -> None:
    data = figures()
    data["log"]["verdict"] = verdict
    words = words_of(data)
    assert f"verdict is {verdict!r}: not all of it holds." in words
    assert "and all of it holds." not in words


def scale_scores(data: dict[str, Any], factor: float) -> None:
    for model, scores in data["bits_per_byte"].items():
        if model != "given":
            for country in scores:
                scores[country] = data["bits_per_byte"]["given"][country] * factor


def test_no_sentence_calls_it_better_where_everything_got_worse() -> None:
    data = figures()
    data["title"] = "Four institutions improved one language model"
    scale_scores(data, 1.45)
    first = body_words(data).split("Country by country")[0]
    assert "and the model got worse for all of them" in first
    assert "improved" not in first
    assert "better" not in first
    assert first.count("45.0 % worse") == 8


def test_the_headline_counts_for_whom_it_got_better() -> None:
    data = figures()
    given = data["bits_per_byte"]["given"]
    last = data["bits_per_byte"]["base-4"]
    last["germany"] = 3.0
    assert "together: better for three and worse for one" in body_words(data)
    last["france"] = None
    assert "better for two, not measured for one and worse for one" in body_words(data)
    last["italy"] = given["italy"] * 0.9999
    assert "better for one, not clearly changed for one, not mea" in body_words(data)
    data["bits_per_byte"] = {}
    words = body_words(data)
    assert "together; how good it became was not measured" in words
    assert "What the shared model gained was not measured." in words


def test_adapters_are_told_of_those_that_have_one() -> None:
    data = figures()
    for name in ("germany", "spain"):
        del data["bits_per_byte"][f"adapter-{name}"]
    words = body_words(data)
    assert "an add-on (an adapter) that France and Italy trained on" in words
    for name in ("france", "italy"):
        del data["bits_per_byte"][f"adapter-{name}"]
    assert "add-on" not in body_words(data)


def test_a_node_in_a_sum_without_an_account_is_not_passed_over() -> None:
    data = figures()
    del data["epsilon"]["italy"]
    assert "This run promises no differential privacy:" in body_words(data)
    assert "no bound on the privacy loss is known" in body_words(data)


def test_private_text_that_was_found_is_told_first() -> None:
    data = figures()
    assert "By design, no message that leaves" in body_words(data)
    data["private_text"] = {"searched": 80, "found": 1}
    words = body_words(data)
    assert "But private text was found in what was sent" in words
    assert "no message that leaves" not in words


def _opening(**changes: Any) -> str:
    return Page(opening(run_of(**changes)).text).words()


def test_a_model_that_did_not_change_is_not_called_better() -> None:
    scores = {
        model: dict.fromkeys(run_of().bits_per_byte["given"], 2.0)
        for model in ("given", "base-4")
    }
    told = headline(run_of(bits_per_byte=scores, bits_per_byte_se={}))
    assert told.endswith("and the model was not clearly changed for all of them")


def test_no_stop_has_a_space_in_front_and_no_two_words_run_together() -> None:
    words = _opening()
    assert " ." not in words
    assert ".." not in words
    assert "betterthan" not in words
    assert "worsethan" not in words


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (
            {"size": 1, "cosignatures": ["a"], "quorum": 1},
            "has one entry, signed by one",
        ),
        (
            {"size": 7, "cosignatures": [], "quorum": 3},
            "signed by no members, fewer than",
        ),
    ],
    ids=str,
)
def test_who_signed_the_log_is_counted(log: dict[str, Any], told: str) -> None:
    assert told in _opening(log=figures()["log"] | log)


def test_a_bound_without_delta_has_nothing_in_addition() -> None:
    privacy = {"unit": "patient", "delta": None}
    words = _opening(privacy=privacy)
    assert "plus at most" not in words
    assert "one particular patient" in words
