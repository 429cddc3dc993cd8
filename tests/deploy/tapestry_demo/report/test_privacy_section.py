"""The privacy section: the promise in words, and a bound that is not overstated."""

from typing import Any

import pytest

from tapestry_demo.report.privacy_section import privacy, promise_in_words
from tapestry_governance.audit.privacy_statement import DEFINITION
from tapestry_governance.events.privacy_events import DpAccounted
from tests.support.report_pages import (
    Page,
    body_words,
    figures,
    run_of,
    tables_of,
    words_of,
)


@pytest.mark.parametrize(
    ("epsilon", "told"),
    [
        (6.28, "could be right 99.9 % of the time"),
        (6.28, "by a factor of at most 534 plus at most 1 in 100,000"),
        (6.28, "is at most e to the power of ε times the probability in the other, pl"),
        (
            1.0,
            "takes 1 in 1,000 of the unused records for used ones recognizes at most",
        ),
        (1.0, "recognizes at most 0.3 % of the used ones"),
        (1.0, "That is a strong promise. Even in the worst case, an observer who must"),
        (2.0, "That is a moderate promise."),
        (8.0, "could be right nearly 100 % of the time"),
        (60.0, "by a factor of more than 1,000,000, which in practice is no bound"),
    ],
)
def test_a_promise_is_called_as_weak_as_it_is(epsilon: float, told: str) -> None:
    data = figures()
    data["epsilon"] = {name: {"total": epsilon} for name in data["epsilon"]}
    words = words_of(data)
    assert told in words
    assert ("weak promise" in words) == (epsilon > 3)


def test_delta_is_no_chance_that_the_factor_does_not_hold() -> None:
    words = words_of(figures())
    for wrong in ("apart from", "but for", "a chance of 1 in 100,000", "any attack"):
        assert wrong not in words
    data = figures()
    data["privacy"]["delta"] = None
    assert "plus at most" not in words_of(data)


def test_a_delta_that_one_record_can_pay_is_not_excused() -> None:
    data = figures()
    assert "should be well below one in the number of records" in words_of(data)
    data["privacy"]["delta"] = 0.01
    assert "That is not small enough" in words_of(data)


def test_who_spent_more_than_agreed_is_named() -> None:
    data = figures()
    assert "More than agreed" not in body_words(data)
    data["epsilon_limit"]["france"] = 7.0
    assert "More than agreed: France." in body_words(data)


def _section(**changes: Any) -> str:
    return Page(privacy(run_of(**changes)).text).words().replace("\u00a0", " ")


def test_an_unbounded_run_says_that_nothing_is_proven_and_shows_no_scale() -> None:
    words = _section(epsilon={"italy": {"total": None}})
    assert "nothing is proven about what can be learned about a single record" in words
    assert "(this run)" not in words
    assert "no bound" in words


def test_the_loss_of_this_run_stands_among_others_in_order() -> None:
    epsilon = {"italy": {"total": 2.0}}
    rounds: list[object] = []
    words = _section(epsilon=epsilon, rounds=rounds)
    places = [
        words.index(f"ε = {value}")
        for value in ("0.1", "1", "2.00 (this run)", "3", "8")
    ]
    assert places == sorted(places)
    assert words.count("(this run)") == 1


def test_a_loss_that_is_one_of_the_others_stands_there_once() -> None:
    drawn = privacy(run_of(epsilon={"italy": {"total": 3.0}}, rounds=[])).text
    losses = [row[0] for row in tables_of(drawn)[0][1:]]
    assert losses == ["ε = 0.1", "ε = 1", "ε = 3.00 (this run)", "ε = 8"]


def test_each_institution_has_its_row_with_what_it_spent() -> None:
    epsilon = {"spain": {"total": 3.0}, "italy": {"total": 1.5}}
    drawn = privacy(run_of(epsilon=epsilon, epsilon_limit={"spain": 8.0})).text
    rows = tables_of(drawn)[-1]
    assert rows == [
        ["Institution", "ε spent", "Factor, at most", "ε agreed, at most"],
        ["Italy (Italian)", "1.50", "4.49", "\u2013"],
        ["Spain (Spanish)", "3.00", "20.1", "8"],
    ]


def test_an_unbounded_loss_is_more_than_any_limit() -> None:
    epsilon = {"italy": {"total": None}, "spain": {"total": 1.0}}
    words = _section(epsilon=epsilon, epsilon_limit={"italy": 8.0, "spain": 1.0})
    assert "More than agreed: Italy." in words


def test_the_exact_terms_are_those_that_are_known() -> None:
    words = _section()
    assert (
        "Unit of privacy: one record; neighbouring data: one is added or removed; "
        "δ: 1 in 100,000; noise multiplier: 0.82; gradients clipped to norm 1." in words
    )
    assert "Unit of privacy" not in _section(privacy={})
    assert "The exact promise." in _section(privacy={"statement": "The exact promise."})


def account(**changes: Any) -> DpAccounted:
    values: dict[str, Any] = {
        "number": 1,
        "run_id": "run-1",
        "round_number": 1,
        "attempt": 1,
        "adapter": None,
        "version": None,
        "steps": 20,
    }
    loss = {
        "mechanism": "poisson-subsampled-gaussian",
        "unit": "record",
        "adjacency": "add-remove",
        "trust_model": "local",
        "clip_norm": "1",
        "noise_multiplier": "1",
        "own_multiplier": "1",
        "shares": 1,
        "coordinates": 0,
        "bound": "0",
        "sampling_rate": "0.05",
        "target_delta": "0.00001",
        "blocks": ({"block": 1, "epsilon": "2.5", "epsilon_fallback": None},),
        "segments": (),
        "accountant": "dp-accounting/pld",
        "accountant_version": "0.6.0",
    }
    if changes.get("mechanism") == "none":
        loss = {}
    return DpAccounted.model_validate({**values, "loss": loss | changes})


def test_a_promise_defines_epsilon_and_delta_and_names_no_chance_of_failure() -> None:
    told = promise_in_words([account()])
    assert told.startswith(DEFINITION)
    assert "chance" not in told


@pytest.mark.parametrize(
    ("second", "told", "not_told"),
    [
        ({}, "adds all of the noise itself", "share the noise"),
        (
            {
                "trust_model": "shared",
                "own_multiplier": "0.5",
                "shares": 4,
                "blocks": ({"block": 1, "epsilon": "2.5", "epsilon_fallback": "9"},),
            },
            "The nodes share the noise",
            "even if the secure aggregation failed",
        ),
    ],
    ids=["local", "shared"],
)
def test_a_promise_names_the_trust_that_its_accounts_need(
    second: dict[str, Any], told: str, not_told: str
) -> None:
    words = promise_in_words([account(), account(**second)])
    assert told in words
    assert not_told not in words


def test_an_account_without_noise_makes_the_promise_empty() -> None:
    assert promise_in_words([account(), account(mechanism="none")]) == ""
    assert promise_in_words([]) == ""
