"""An id that programs exchange becomes the name that a reader knows."""

from collections.abc import Callable

import pytest

from tapestry_demo.report import names
from tests.support.report_pages import figures_of, run_of


def test_ids_become_names() -> None:
    run = figures_of(
        {
            "title": "t",
            "countries": [{"name": "czech-republic", "language_name": "Czech"}],
            "releases": [{"name": "base-1", "round": 2}],
        }
    )
    assert names.country(run, "czech-republic") == "Czech Republic (Czech)"
    assert names.country(run, "node-7") == "node-7"
    assert names.country(run, "netherlands") == "The Netherlands"
    assert names.adapter("netherlands") == "the Netherlands\u2019 adapter"
    assert names.signer("italy/witness") == "Italy"
    shown = {
        "given": "the model as it was given",
        "base-1": "the shared model after round\u00a02",
        "base-3": "the shared model after round\u00a03",
        "central": "trained in one place, without noise",
        "central-dp": "trained in one place, with noise",
        "adapter-italy": "Italy\u2019s adapter",
        "base-" + "9" * 5000: "base-" + "9" * 5000,
        "other": "other",
    }
    assert {model: names.model(run, model) for model in shown} == shown


def test_a_place_is_spelled_in_a_sentence_and_at_the_beginning_of_a_line() -> None:
    assert names.place("uk") == "the United Kingdom"
    assert names.title("uk") == "The United Kingdom"
    assert names.place("south-korea") == names.title("south-korea") == "South Korea"
    for name in ("node-7", "Italy", "", "a--b", "-a", "<b>"):
        assert names.place(name) == names.title(name) == name


def test_a_country_without_a_known_language_is_called_by_its_name() -> None:
    run = run_of(countries=[{"name": "italy"}])
    assert names.country(run, "italy") == names.language(run, "italy") == "Italy"
    assert names.language(run_of(), "italy") == "Italian"
    assert names.language(run_of(), "netherlands") == "the Netherlands"


def test_an_adapter_belongs_to_its_owner() -> None:
    assert names.adapter("italy") == "Italy\u2019s adapter"
    assert names.model(run_of(), "adapter-") == "adapter-"


def test_a_base_has_the_name_that_the_run_gives_it_or_that_of_its_id() -> None:
    assert names.base(run_of()) == "Fixture-135M-Instruct"
    assert names.base(run_of(model=None)) == "SmolLM2 (135 million parameters)"
    assert names.base(run_of(model=None, base="./own")) == "./own"


def test_a_release_is_called_by_its_round_where_that_is_known() -> None:
    run = run_of(releases=[{"name": "base-1", "round": 3}, {"name": "base-2"}])
    assert names.model(run, "base-1") == "the shared model after round\u00a03"
    assert names.model(run, "base-2") == "the shared model after round\u00a02"


@pytest.mark.parametrize(
    "words",
    [names.engine, names.lost_at, names.message, names.stage],
    ids=lambda each: each.__name__,
)
def test_an_id_of_no_table_is_shown_as_it_is(words: Callable[[str], str]) -> None:
    assert words("something-new") == "something-new"


def test_a_round_without_an_outcome_has_a_dash() -> None:
    assert names.outcome("applied") == "used"
    assert names.outcome("odd") == "odd"
    assert names.outcome("") == "\u2013"
