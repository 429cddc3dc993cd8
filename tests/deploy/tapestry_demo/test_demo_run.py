"""A demo under way: steps that are taken once, and time that adds up."""

import json
from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry_demo.demo_folder import FILE, read_record
from tapestry_demo.demo_run import FLOWER, IN_PROCESS
from tapestry_demo.wire_tap import WireTap
from tests.support.demo_folders import demo_run
from tests.support.refusals import refused


def test_a_step_is_taken_once_over_all_calls_of_the_program(tmp_path: Path) -> None:
    taken: list[str] = []
    demo = demo_run(tmp_path)
    demo.once("prepare", lambda: taken.append("prepare"))
    demo.once("prepare", lambda: taken.append("prepare"))
    again = demo_run(tmp_path)
    again.record = read_record(tmp_path)
    again.once("prepare", lambda: taken.append("prepare"))
    again.once("rounds", lambda: taken.append("rounds"))
    assert taken == ["prepare", "rounds"]
    assert read_record(tmp_path).done == ["prepare", "rounds"]


def test_a_step_that_fails_is_taken_again(tmp_path: Path) -> None:
    demo = demo_run(tmp_path)

    def fail() -> None:
        raise ConfigError("no", code="some-rule")

    with refused(ConfigError, "some-rule"):
        demo.once("prepare", fail)
    assert demo.record.done == []
    assert not (tmp_path / FILE).exists()
    taken: list[int] = []
    demo.once("prepare", lambda: taken.append(1))
    assert taken == [1]


def test_time_adds_up_over_calls_and_by_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([10.0, 11.5, 20.0, 22.0, 30.0, 30.25])
    monkeypatch.setattr("tapestry_demo.demo_run.time.monotonic", lambda: next(now))
    demo = demo_run(tmp_path, seconds={"prepare": 1.0})
    for name in ("prepare", "evaluate", "prepare"):
        with demo.stage(name):
            pass
    assert demo.seconds == {"prepare": 2.75, "evaluate": 2.0}


def test_the_taps_counts_are_saved_with_the_record(tmp_path: Path) -> None:
    demo = demo_run(tmp_path)
    demo.tap = WireTap(uploads=3, wanted=(b"secret",))
    demo.save()
    saved = (tmp_path / FILE).read_text()
    assert json.loads(saved)["tap"]["uploads"] == 3
    assert "secret" not in saved
    assert WireTap.restore(read_record(tmp_path).tap).uploads == 3


def test_the_engine_is_that_of_the_record(tmp_path: Path) -> None:
    demo = demo_run(tmp_path)
    assert demo.engine == IN_PROCESS
    demo.record.engine = FLOWER
    assert demo.engine == FLOWER


def test_the_plan_is_read_from_the_coordinators_folder(tmp_path: Path) -> None:
    with refused(ConfigError, "file-missing", match=r"coordinator/run\.toml"):
        demo_run(tmp_path).settings  # noqa: B018  reading it is what fails
