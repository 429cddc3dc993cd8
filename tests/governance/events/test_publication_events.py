"""Bodies of evaluations, withdrawals, constitutions and limits."""

import pytest
from pydantic import ValidationError

from tapestry_governance.events.publication_events import (
    CoursesCommitted,
    EvaluationPlanned,
    EvaluationTask,
)
from tests.support.event_samples import sample_bodies
from tests.support.log_world import changed, fake_digest


def test_an_evaluation_plans_each_task_once_in_order() -> None:
    _, _, planned = sample_bodies()["evaluation.planned"]
    assert isinstance(planned, EvaluationPlanned)
    first, second = (
        EvaluationTask(name=name, data=fake_digest(name)) for name in ("a", "b")
    )
    changed(planned, tasks=(first, second))
    for tasks in ((second, first), (first, first), ()):
        with pytest.raises(ValidationError):
            changed(planned, tasks=tasks)


def test_a_commitment_to_no_certificate_is_refused() -> None:
    _, _, courses = sample_bodies()["courses.committed"]
    assert isinstance(courses, CoursesCommitted)
    with pytest.raises(ValidationError):
        changed(courses, count=0)
