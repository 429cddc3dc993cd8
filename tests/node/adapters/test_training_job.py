"""An operator's training is done once: by whoever has the folder, and after a crash."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ResourceError, VerificationError
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.model_events import AdapterPublished
from tapestry_governance.events.round_events import RoundOpened
from tapestry_node.adapters import adapter_trainer
from tapestry_node.adapters.training_job import (
    JOB,
    TrainingJob,
    TrainingProgress,
    do_job,
    is_asked,
    read_progress,
)
from tapestry_node.availability import pause, resume
from tapestry_node.refusal import Refused
from tests.node.adapters.test_publication import STEPS, Trainings
from tests.support.deaths import dies
from tests.support.federation import Federation, Killed
from tests.support.operated_adapters import (
    LAW,
    adapter,
    adapter_accounts,
    adapter_charges,
    exchange,
    folder_of,
    idle,
    states,
)
from tests.support.refusals import refused

pytestmark = pytest.mark.slow
PLACES = {name: place for name, place in STEPS.items() if name != "pack"}
REPEATED = {("train", True), ("keep the update", False)}  # nothing was left of it


@pytest.fixture
def asked(settled: Federation) -> Federation:
    """One whose node is to train an adapter."""
    adapter(settled, "train", LAW, "--yes")
    return settled


def job_of(federation: Federation) -> Path:
    return folder_of(federation) / "adapters" / f"{LAW}{JOB}"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", PLACES)
def test_a_process_that_dies_is_followed_by_one_that_goes_on(
    asked: Federation, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    trainings = Trainings()
    monkeypatch.setattr(adapter_trainer, "train", trainings)
    owner, called, call = PLACES[step]
    if called == "replace_file":
        call += 2  # the steps of the training are written to a file as well
    dies(monkeypatch, owner, called, after=after, call=call)
    with suppress(Killed):
        idle(asked)
        raise AssertionError("the node was not killed")
    assert is_asked(folder_of(asked), LAW)
    asked.restart("fr")
    idle(asked)
    assert not is_asked(folder_of(asked), LAW)
    assert trainings.count == (2 if (step, after) in REPEATED else 1)
    assert adapter_charges(asked) == [(LAW, 1, "spent")]
    adapter(asked, "publish", LAW)
    exchange(asked)
    (published,) = asked.said(AdapterPublished)
    assert (published.name, published.version) == (LAW, 1)
    assert len(adapter_accounts(asked)) == 1
    asked.bundle()
    assert asked.audit().verdict is AuditVerdict.HOLDS


def test_a_node_that_is_paused_or_in_a_round_lets_a_job_wait(
    asked: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(asked)
    pause(folder, now=asked.moment())
    idle(asked)
    assert f"{LAW} on base-2: waiting, for the node, between rounds" in states(asked)
    resume(folder)
    node = asked.nodes["fr"]
    open_round = asked.nodes["fr"].mirror.state
    monkeypatch.setattr(
        type(open_round), "open_round", property(lambda _: object()), raising=False
    )
    idle(asked)
    monkeypatch.undo()
    assert adapter_charges(asked) == []
    node.session = object()  # type: ignore[assignment]
    with refused(Refused, "round-under-way"):
        do_job(node, LAW)
    node.session = None
    assert TrainingJob.read(folder, LAW).failed is None  # it waits, and did not fail


def test_a_failure_is_told_without_a_record_and_is_not_repeated(
    asked: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings()
    trainings.error = ResourceError("it diverged", code="training-diverged")
    monkeypatch.setattr(adapter_trainer, "train", trainings)
    for _ in range(3):
        idle(asked)
    assert trainings.count == 1
    assert adapter_charges(asked) == [(LAW, 1, "spent")]  # it may depend on a record
    failed = TrainingJob.read(folder_of(asked), LAW).failed
    assert failed == "it diverged [training-diverged]"
    assert asked.nodes["fr"].context.failed == set()  # rounds go on


def test_a_job_that_was_edited_is_refused_and_told(asked: Federation) -> None:
    path = job_of(asked)
    path.write_bytes(path.read_bytes().replace(b'"rank":2', b'"rank":0'))
    with refused(VerificationError, "job-changed"):
        do_job(asked.nodes["fr"], LAW)
    idle(asked)
    assert adapter_charges(asked) == []
    (line,) = [each for each in states(asked) if each.startswith(LAW)]
    assert "[job-changed]" in line


def test_the_steps_of_a_training_are_told_while_it_goes_on(
    asked: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    honest = adapter_trainer.write

    def write(*arguments: Any, **rest: Any) -> Any:
        seen.append(read_progress(folder_of(asked), LAW))
        seen.extend(states(asked))
        return honest(*arguments, **rest)

    monkeypatch.setattr(adapter_trainer, "write", write)
    idle(asked)
    assert seen[0] == TrainingProgress(done=2, total=2)
    assert f"{LAW} on base-2: training, step 2 of 2" in seen
    assert read_progress(folder_of(asked), LAW) is None
    assert not asked.said(RoundOpened)[2:]
