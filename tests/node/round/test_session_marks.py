"""A session goes one step on, in one round, and ends with it."""

from dataclasses import replace

import pytest

from tapestry.errors import VerificationError
from tapestry.protocol.stages import SECAGG_STAGES
from tapestry_node.round.session_marks import SessionMark, has_uploaded, round_of
from tests.support.refusals import refused

MARK = SessionMark(
    run="run",
    round_number=2,
    attempt=1,
    stage="advertise_keys",
    digest="sha256:" + "0" * 64,
    changed="1",
)


def test_a_mark_follows_the_one_before_it_and_no_other() -> None:
    marks = [replace(MARK, stage=stage.value) for stage in SECAGG_STAGES]
    for place, before in enumerate([None, *marks]):
        found = [mark.stage for mark in marks if mark.follows(before)]
        assert found == [stage.value for stage in SECAGG_STAGES[place : place + 1]]
    second = replace(MARK, stage="share_keys")
    for other in (
        replace(second, run="other"),
        replace(second, round_number=3),
        replace(second, attempt=2),
    ):
        assert not other.follows(MARK)


def test_a_mark_is_read_as_it_was_written() -> None:
    assert SessionMark.parse(MARK.body()) == MARK


def test_an_upload_may_have_left_from_the_third_stage_on() -> None:
    found = [has_uploaded(stage) for stage in SECAGG_STAGES]
    assert found == [False, False, True, True, True]


@pytest.mark.parametrize("stage", SECAGG_STAGES)
def test_without_a_log_no_round_is_open(stage: str) -> None:
    with refused(VerificationError, "round-not-open", match="round 2 of 'run'"):
        round_of(replace(MARK, stage=stage), None)
