"""The privacy section: a bound said so that it can be weighed, and no better."""

import pytest

from tests.support.report_pages import body_words, figures, words_of


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
        (1.0, "That is a strong promise. Even in the worst case, whoever must say"),
        (2.0, "That is a moderate promise."),
        (8.0, "could be right nearly 100 % of the time"),
        (60.0, "by a factor of more than 1,000,000, which in practice is no bound"),
    ],
)
def test_a_promise_is_called_as_weak_as_it_is(epsilon: float, told: str) -> None:
    data = figures()
    data["epsilon"] = {name: {"run-1": epsilon} for name in data["epsilon"]}
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
