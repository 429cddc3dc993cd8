"""How much better the models became: chart, cross table, rounds, references."""

import re

import pytest

from tapestry_demo.report import results
from tapestry_demo.report.data import read
from tests.support.report_pages import Page, body_words, figures, words_of


def test_figures_of_answers_alone_are_called_that() -> None:
    data = figures()
    data["measure"] = "answers"
    data["answer_bits"] = {
        "given": dict.fromkeys(data["epsilon"], 2.0),
        "base-4": dict.fromkeys(data["epsilon"], 1.8),
    }
    data["answer_bits_se"] = {"base-4": dict.fromkeys(data["epsilon"], 0.01)}
    words = words_of(data)
    assert "predicts the answers in dialogues that it has never seen 10.0 %" in words
    assert "over answers in held-out dialogues" in words
    assert "9.5 % better" not in words
    del data["answer_bits"]  # nothing but the text was measured after all
    assert "9.5 % better" in words_of(data)


def test_references_that_were_not_made_are_said_to_be_missing() -> None:
    data = figures()
    assert "tapestry demo --references" not in words_of(data)
    data["references"] = False
    for name in ("central", "central-dp"):
        del data["bits_per_byte"][name]
    words = words_of(data)
    assert "Not compared: what the same training gives if everybody hands" in words
    assert "tapestry demo --references" in words


def test_the_best_model_of_each_column_is_marked_with_a_sign() -> None:
    cells = re.findall(r"★ ([\d.]+)", results.results(read(figures())).text)
    assert cells == ["1.906", "1.820", "1.909", "1.814", "1.911"]


def test_levels_come_with_what_other_texts_would_have_changed() -> None:
    data = figures()
    data["bits_per_byte_se"] = {"base-4": {"italy": 0.012}}
    words = Page(results.results(read(data)).text).words()
    assert words.count("± 0.012") == 1  # no mean: the other countries have none
    assert "standard error of the difference from the model as it was" in words
    full = dict.fromkeys(data["epsilon"], 0.02)
    assert read(data | {"bits_per_byte_se": {"base-4": full}}).mean_error(
        "base-4"
    ) == pytest.approx(0.01)
    del data["bits_per_byte_se"]
    assert "±" not in results.results(read(data)).text


def test_references_are_told_of_those_that_were_made() -> None:
    data = figures()
    del data["bits_per_byte"]["central-dp"]
    words = body_words(data)
    assert "Without noise it promises no privacy." in words
    assert "With noise of the same kind" not in words
