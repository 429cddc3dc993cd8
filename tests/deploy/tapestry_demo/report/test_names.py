"""An id that programs exchange becomes the name that a reader knows."""

from collections.abc import Callable

import pytest

from tapestry_demo.report import names
from tests.support.report_pages import country_of, figures, run_of


def test_ids_become_names() -> None:
    run = run_of(
        countries=[country_of("czech-republic", language_name="Czech")],
        releases=[figures()["releases"][0] | {"name": "base-1", "round": 2}],
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
    assert names.place("netherlands") == "the Netherlands"
    assert names.title("netherlands") == "The Netherlands"
    assert names.place("south-korea") == names.title("south-korea") == "South Korea"
    for name in ("node-7", "Italy", "", "a--b", "-a", "<b>"):
        assert names.place(name) == names.title(name) == name


def test_a_country_that_is_not_known_is_called_by_its_name() -> None:
    assert names.language(run_of(), "italy") == "Italian"
    assert names.language(run_of(), "netherlands") == "the Netherlands"


def test_an_adapter_belongs_to_its_owner() -> None:
    assert names.adapter("italy") == "Italy\u2019s adapter"
    assert names.model(run_of(), "adapter-") == "adapter-"


@pytest.mark.parametrize(
    "words",
    [names.engine, names.lost_at, names.message, names.stage],
    ids=lambda each: each.__name__,
)
def test_an_id_of_no_table_is_shown_as_it_is(words: Callable[[str], str]) -> None:
    assert words("something-new") == "something-new"


def test_an_outcome_has_its_word() -> None:
    assert names.outcome("applied") == "used"
    assert names.outcome("odd") == "odd"
