"""Reasons in words, and the number of final refusals that ends a run."""

from types import SimpleNamespace
from typing import Any

import pytest

from tapestry.protocol.messages import Reason
from tapestry_coordinator.refusals import end_the_run, in_words, latest
from tapestry_governance.events.round_events import (
    ContributionCommitted,
    ContributionRefused,
)
from tests.support.event_samples import sample_bodies
from tests.support.log_world import World, renamed

MANIFEST = World().found().manifest()  # of three
MODEL, BUDGET = Reason.MODEL_UNSUPPORTED, Reason.BUDGET_EXHAUSTED
NAMES = [p.name for p in MANIFEST.participants]


def test_every_reason_has_words_of_its_own() -> None:
    words = [reason.words for reason in Reason]
    assert len(set(words)) == len(words)
    assert all(word and "\n" not in word for word in words)


def test_the_most_frequent_reason_comes_first() -> None:
    refused = {"a": BUDGET, "b": MODEL, "c": MODEL}
    assert in_words(refused, asked=4) == (
        f"2 of 4 nodes refused: {MODEL.words} (model_unsupported);"
        f" 1 of 4 nodes refused: {BUDGET.words} (budget_exhausted)"
    )
    assert in_words({}, asked=4) == ""


@pytest.mark.parametrize(
    ("reasons", "colluding", "ends"),
    [
        ([MODEL], 1, False),  # one that lies
        ([MODEL], 0, False),
        ([MODEL, BUDGET], 1, True),
        ([MODEL, BUDGET], 2, False),  # both may lie
        ([MODEL, Reason.LOCAL_POLICY], 1, False),  # others may come, and it fits then
        ([Reason.STALE_CHECKPOINT] * 3, 1, False),
        ([MODEL] * 3, 1, True),
        ([Reason.BASE_MISMATCH] * 2, 1, False),  # the third one holds it
        ([Reason.BASE_MISMATCH] * len(NAMES), 1, True),
        ([Reason.BASE_MISMATCH] * len(NAMES), len(NAMES), False),  # all may lie
    ],
)
def test_waiting_ends_when_more_than_may_lie_refuse_for_good(
    reasons: list[Reason], colluding: int, ends: bool
) -> None:
    manifest = renamed(MANIFEST, max_colluding=colluding)
    refused = dict(zip(NAMES, reasons, strict=False))
    assert end_the_run(refused, manifest) is ends


def test_the_last_offer_counts_and_who_took_part_again_refuses_no_more() -> None:
    samples = sample_bodies()
    refused = samples[ContributionRefused.type][2]
    taken = samples[ContributionCommitted.type][2]
    events: Any = [
        SimpleNamespace(actor="fi", body=refused),
        SimpleNamespace(actor="fr", body=refused),
        SimpleNamespace(actor="fr", body=taken),
    ]
    assert latest(events) == {"fi": refused}
    events.append(SimpleNamespace(actor="fr", body=refused))
    assert latest(events) == {"fi": refused, "fr": refused}
