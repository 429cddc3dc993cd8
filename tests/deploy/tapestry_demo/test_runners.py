"""The two ways to run a federation, and how each tells of its progress."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tapestry.cli.progress import ProgressEvent, live
from tapestry.protocol.stages import RoundStage
from tapestry_demo import runners
from tapestry_demo.runners import StageTimer
from tapestry_demo.wire_tap import WireTap
from tests.support.federation_fixtures import Found
from tests.support.settings_files import run_settings


def test_a_round_has_one_number_in_events_of_run_and_nodes() -> None:
    seen: list[ProgressEvent] = []
    clock = StageTimer(seen.append, {})
    for number, fields in (
        (1, {"of": 2, "round_stage": RoundStage.OPEN}),
        (1, {"round_stage": RoundStage.ADVERTISE_KEYS}),
        (2, {"round_stage": RoundStage.COLLECT_MASKED_INPUTS, "node": "italy"}),
        (3, {"of": 2, "round_stage": RoundStage.OPEN}),
    ):
        clock({"stage": "round", "round": number, **fields})
    named = [(event["round"], event["of"]) for event in seen]
    assert named == [(1, 2), (1, 2), (2, 2), (3, 3)]


def _passed(event: dict[str, Any]) -> dict[str, Any]:
    seen: list[Any] = []
    StageTimer(seen.append, {})(event)
    (only,) = seen
    found: dict[str, Any] = only
    return found


def test_time_is_booked_on_the_stage_that_an_event_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    monkeypatch.setattr("tapestry_demo.runners.time.monotonic", lambda: next(now))
    seconds = {"start": 0.5}
    timer = StageTimer(lambda _: None, seconds)
    timer({"stage": "adapter", "node": "italy"})
    timer({"stage": "release"})
    timer({"stage": "adapter", "node": "spain"})
    timer.enter("end")
    assert seconds == {"start": 1.5, "adapter": 6.0, "release": 3.0}


def test_a_field_that_the_view_does_not_know_is_left_out() -> None:
    event = {"stage": "release", "text": "base-1", "digest": "sha256:0", "size": 3}
    assert _passed(event) == {"stage": "release", "text": "base-1"}


def test_scores_of_countries_are_shown_as_their_mean() -> None:
    event = {"stage": "evaluate", "measure": "bits_per_byte"}
    assert _passed({**event, "scores": {"italy": 1.0, "spain": 2.0}}) == {
        **event,
        "score": 1.5,
    }
    assert _passed({**event, "scores": {}})["score"] == 0
    assert _passed({**event, "score": 2.5}) == {**event, "score": 2.5}


def test_every_event_that_is_passed_on_is_one_that_the_view_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with live("A run", stream=io.StringIO()) as progress:
        timer = StageTimer(progress, {})
        for stage in RoundStage:
            event = {"stage": "round", "round": 1, "round_stage": stage}
            timer({**event, "reason": "x"})
        timer({"stage": "round", "round": 1, "text": "aborted", "reason": "x"})
    assert capsys.readouterr().err == ""


def test_a_tail_reads_each_whole_line_once_and_no_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text('{"n": 0}\n')
    told: list[dict[str, Any]] = []
    tail = runners.EventTail(path, told.append)
    tail.read()
    assert told == []
    with path.open("a", encoding="utf-8") as file:
        file.write('{"n": 1}\n{"n": "日本"}\n{"n":')
        file.flush()
        tail.read()
        tail.read()
        assert told == [{"n": 1}, {"n": "日本"}]
        file.write(" 3}\n")
    tail.read()
    assert told == [{"n": 1}, {"n": "日本"}, {"n": 3}]


def test_a_tail_waits_for_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    told: list[dict[str, Any]] = []
    tail = runners.EventTail(path, told.append)
    tail.read()
    path.write_text(json.dumps({"n": 1}) + "\n")
    tail.read()
    assert told == [{"n": 1}]


@pytest.mark.slow
def test_a_federation_of_a_folder_runs_in_this_process_and_lets_go_of_it(
    found: Found,
) -> None:
    patient = {"deadlines": dict.fromkeys(run_settings()["deadlines"], 60)}
    federation = found(train=True, coordinator=patient)
    federation.close()
    tap, seconds, events = WireTap(), dict[str, float](), list[ProgressEvent]()
    for _ in range(2):  # a finished run is found finished
        runners.run_in_process(
            federation.directory,
            workload=federation.base.workload,
            given=federation.base.replica,
            tap=tap,
            seconds=seconds,
            notify=events.append,
        )
    assert [closed.outcome for closed in federation.closed()] == ["applied"]
    assert tap.uploads == 4
    assert seconds["collect_masked_inputs"] > 0
    assert {event["stage"] for event in events} >= {"round"}
    for name in ("fi", "fr", "id", "sw"):
        federation.start(name)  # no node of the run holds its folder
