"""How much better the models became: chart, cross table, rounds, references."""

import re
from typing import Any

import pytest

from tapestry_demo.report import results
from tests.support.report_pages import (
    Page,
    body_words,
    country_of,
    figures,
    figures_of,
    round_of,
    run_of,
    tables_of,
    words_of,
)


def test_references_that_were_not_made_are_said_to_be_missing() -> None:
    data = figures()
    assert "tapestry demo --references" not in words_of(data)
    data["references"] = False
    for name in ("central", "central-dp"):
        del data["bits_per_byte"][name]
    words = words_of(data)
    assert "Not compared: what the same training gives if all institutions" in words
    assert "tapestry demo --references" in words


def test_the_best_model_of_each_column_is_marked_with_a_sign() -> None:
    cells = re.findall(r"★ ([\d.]+)", results.results(figures_of(figures())).text)
    assert cells == ["1.906", "1.820", "1.909", "1.814", "1.911"]


def test_levels_come_with_what_other_texts_would_have_changed() -> None:
    data = figures()
    data["bits_per_byte_se"] = {"base-4": {"italy": 0.012}}
    words = Page(results.results(figures_of(data)).text).words()
    assert words.count("± 0.012") == 1  # no mean: the other countries have none
    assert "standard error of the difference from the model as it was" in words
    full = dict.fromkeys(data["epsilon"], 0.02)
    assert figures_of(data | {"bits_per_byte_se": {"base-4": full}}).mean_error(
        "base-4"
    ) == pytest.approx(0.01)
    data["bits_per_byte_se"] = {}
    assert "±" not in results.results(figures_of(data)).text


def test_references_are_told_of_those_that_were_made() -> None:
    data = figures()
    del data["bits_per_byte"]["central-dp"]
    words = body_words(data)
    assert "Without noise it promises no privacy." in words
    assert "With noise of the same kind" not in words


def _scores(**changes: Any) -> dict[str, Any]:
    scores = {"given": {"italy": 2.0, "spain": 4.0}, **changes}
    return {
        "countries": [country_of("italy"), country_of("spain")],
        "bits_per_byte": scores,
        "bits_per_byte_se": {},
    }


def test_only_kinds_of_models_that_were_measured_are_drawn() -> None:
    run = run_of(**_scores(central={"italy": 1.0}))
    drawn = results.results(run).text
    legend = Page(drawn.split('class="legend"')[1].split("</ul>")[0]).text
    assert "trained in one place, without noise" in legend
    assert "the shared model" not in legend
    assert "Not compared" not in drawn


def test_a_given_model_alone_is_a_table_and_no_chart() -> None:
    drawn = results.results(run_of(**_scores())).text
    assert "<svg" not in drawn
    assert "The model as it was given" in drawn
    assert not re.findall(r"★ [\d.]+", drawn)  # the best of one is no news


def test_the_shade_of_a_cell_grows_with_how_good_the_model_is() -> None:
    run = run_of(
        **_scores(
            **{
                "base-1": {"italy": 1.5, "spain": None},
                "base-2": {"italy": 1.0, "spain": 4.0},
            }
        )
    )
    cells = re.findall(r'class="number (h\d(?: best)?)"', results.results(run).text)
    assert cells == [
        *("h0", "h0 best", "h0"),  # italy, spain, mean of the given model
        *("h3", "h0", "h0"),
        *("h6 best", "h0 best", "h6 best"),
    ]


def test_a_model_without_a_single_value_has_no_row() -> None:
    drawn = results.results(run_of(**_scores(**{"base-1": {"italy": None}}))).text
    assert "the shared model after" not in drawn.lower()


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (
            {"example_gradients_federated": 6144, "example_gradients_central": 6144},
            "Each way used 6,144 gradients of single examples.",
        ),
        (
            {"example_gradients_federated": 1000, "example_gradients_central": 6144},
            "It used 6,144 gradients of single examples there and 1,000 here.",
        ),
    ],
    ids=["equal", "unequal"],
)
def test_references_are_told_with_the_work_that_they_took(
    budget: dict[str, int], told: str
) -> None:
    assert told in Page(results.results(run_of(budget=budget)).text).words()
    alone = {**budget, "example_gradients_central": None}
    assert "gradients of single" not in results.results(run_of(budget=alone)).text


def test_a_round_names_who_was_in_it_and_who_dropped_out() -> None:
    rounds = [
        round_of(1, included=["italy", "spain"]),
        round_of(
            2,
            outcome="rejected",
            dropped=[{"name": "netherlands", "stage": "advertise_keys"}],
            mean_norm=1.25,
            bits_per_byte={"italy": 2.0},
        ),
    ]
    countries = [country_of("italy")]
    drawn = results.rounds(run_of(rounds=rounds, countries=countries)).text
    (table,) = tables_of(drawn)
    assert table[1:] == [
        ["Round 1", "used", "Italy and Spain", "none", "\u2013", "\u2013"],
        [
            *("Round 2", "rejected by the gate", "\u2013"),
            *("the Netherlands (before it began)", "1.25", "2.000"),
        ],
    ]


@pytest.mark.parametrize(("rounds", "drawn"), [(1, False), (2, True)])
def test_a_plot_has_three_points_at_least(rounds: int, drawn: bool) -> None:
    rows = [
        round_of(n, bits_per_byte={"italy": 2.0 - n / 10, "spain": 4.0})
        for n in range(1, rounds + 1)
    ]
    shown = results.rounds(run_of(**_scores(), rounds=rows)).text
    assert ("<svg" in shown) is drawn
    assert ("as given" in shown) is drawn


def test_a_plot_without_the_given_model_begins_with_its_first_round() -> None:
    rows = [round_of(n, bits_per_byte={"italy": 2.0}) for n in (2, 3, 4)]
    run = run_of(rounds=rows, countries=[country_of("italy")], bits_per_byte={})
    words = Page(results.rounds(run).text).text
    assert "round 2" in words
    assert "as given" not in words
