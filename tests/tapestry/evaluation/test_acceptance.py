"""The rule of the gate, and the outcomes that a member disputes."""

import math

import pytest

from tapestry.errors import VerificationError
from tapestry.evaluation.acceptance import BAND, WORSE, Scored, check_outcome
from tests.support.plans import outer_plan
from tests.support.refusals import refused

PLAN = outer_plan(max_loss_increase="0.5")
LIMIT = 2.5  # mean score before, and the increase that is allowed


def scored(after: float) -> Scored:
    return Scored(before={"fr": 1.0, "id": 3.0}, after={"fr": after, "id": after})


def check(
    after: float, reason: str | None, claimed: dict[str, float] | None = None
) -> None:
    found = scored(after)
    check_outcome(found, plan=PLAN, reason=reason, claimed=claimed or dict(found.after))


@pytest.mark.parametrize(
    ("after", "worse"), [(LIMIT, False), (LIMIT + 1e-9, True), (math.nan, True)]
)
def test_a_step_is_worse_beyond_the_limit(after: float, worse: bool) -> None:
    assert scored(after).is_worse(PLAN) is worse


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (1.0, None),
        (LIMIT * (1 + BAND / 2), None),  # within the band both outcomes stand
        (LIMIT * (1 - BAND / 2), WORSE),
        (LIMIT * 2, WORSE),
    ],
)
def test_an_outcome_that_the_scores_give_stands(
    after: float, reason: str | None
) -> None:
    check(after, reason)


@pytest.mark.parametrize(
    ("after", "reason", "code"),
    [
        (1.0, WORSE, "gate-outcome-differs"),
        (LIMIT * (1 - 2 * BAND), WORSE, "gate-outcome-differs"),
        (LIMIT * (1 + 2 * BAND), None, "gate-outcome-differs"),
        (1.0, "norm_too_large", "gate-reason-unfounded"),
        (LIMIT * 2, "by_decree", "gate-reason-unfounded"),
    ],
)
def test_an_outcome_that_the_scores_contradict_is_disputed(
    after: float, reason: str | None, code: str
) -> None:
    with refused(VerificationError, code):
        check(after, reason)


@pytest.mark.parametrize(
    "claimed",
    [
        {"fr": 1.0 + 2 * BAND, "id": 1.0},
        {"fr": 1.0},
        {"fr": 1.0, "id": 1.0, "xx": 1.0},
        {},
    ],
)
def test_scores_that_are_not_those_of_the_step_are_disputed(
    claimed: dict[str, float],
) -> None:
    with refused(VerificationError, "gate-scores-differ"):
        check_outcome(scored(1.0), plan=PLAN, reason=None, claimed=claimed)


@pytest.mark.parametrize("before", [math.nan, math.inf])
@pytest.mark.parametrize("reason", [None, WORSE])
def test_nothing_is_judged_against_a_score_that_is_not_finite(
    before: float, reason: str | None
) -> None:
    found = Scored(before={"fr": before}, after={"fr": 1.0})
    with refused(VerificationError, "gate-score-not-finite"):
        check_outcome(found, plan=PLAN, reason=reason, claimed={"fr": 1.0})


def test_a_step_without_a_finite_score_is_never_applied() -> None:
    with refused(VerificationError, "gate-outcome-differs"):
        check_outcome(scored(math.nan), plan=PLAN, reason=None, claimed={})
    check_outcome(scored(math.inf), plan=PLAN, reason=WORSE, claimed={})
