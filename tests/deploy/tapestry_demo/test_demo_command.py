"""``tapestry demo`` begins, goes on or refuses, and leaves nothing half begun."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry_demo import demo_command
from tapestry_demo.demo_command import (
    DemoOptions,
    needed_bytes,
    spelled_base,
    start_or_resume,
    usable_cores,
)
from tapestry_demo.demo_folder import FINISHED, read_record
from tests.support.commands import tapestry
from tests.support.demo_folders import begun
from tests.support.refusals import refused


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (["--out", "full"], 64, "full is not empty; choose another folder"),
        (["--out", "begun"], 64, "demo --out begun --resume"),
        (["--out", "done"], 64, "a finished demo lies there"),
        (["--out", "full/file"], 64, "full/file is a file"),
        (["--out", "full/file/x"], 3, "cannot make full/file/x: Not a directory"),
        (["--out", "new", "--base", "gone"], 64, "no base 'gone'"),
        (["--out", "a:b", "--engine", "flower"], 64, "holds ':'"),
        (["--resume"], 64, "no unfinished demo"),
        (["--resume", "--out", "full"], 64, "holds no demo to go on with"),
        (["--resume", "--out", "new"], 64, "holds no demo to go on with"),
        (["--resume", "--out", "full/file"], 64, "holds no demo to go on with"),
        (["--resume", "--out", "begun", "--base", "smollm2"], 64, "with --base tiny"),
        (["--resume", "--out", "begun", "--engine", "flower"], 64, "leave --engine"),
        (["--threads", "-1"], 64, "from 0 to 1024"),
        (["extra"], 64, "extra"),
    ],
    ids=str,
)
def test_a_demo_that_cannot_start_says_why_and_leaves_no_trace(
    here: Path, words: list[str], status: int, named: str
) -> None:
    Path("full").mkdir()
    Path("full/file").touch()
    begun("begun", "prepare")
    begun("done", FINISHED)
    before = sorted(map(str, here.rglob("*")))
    result = tapestry("demo", *words)
    assert (result.exit_code, named in result.stderr) == (status, True), result.stderr
    said = [li for li in result.stderr.splitlines() if li.startswith("tapestry:")]
    assert len(said) == 1
    assert sorted(map(str, here.rglob("*"))) == before


def _stopping(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, *done: str
) -> None:
    """Let the work of a demo end in an error, after some steps."""

    def work(demo: Any) -> Any:
        for step in done:
            demo.once(step, lambda: None)
        raise error

    monkeypatch.setattr(demo_command, "run_demo", work)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("threads", [-1, 1025])
def test_a_number_of_threads_that_cannot_be_is_refused_before_anything_is_made(
    threads: int,
) -> None:
    with refused(ConfigError, "setting-out-of-range", match=f"--threads {threads} "):
        start_or_resume(None, DemoOptions(threads=threads), resume=False)
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("here")
def test_a_finished_demo_is_not_done_again_and_says_what_to_do_with_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = begun("demo", "prepare", FINISHED)
    for name in ("releases/base-1", "releases/base-2", "adapters/italy"):
        (out / name).mkdir(parents=True)
    start_or_resume(out, DemoOptions(), resume=True)
    said = capsys.readouterr().out
    assert "demo is finished; there is nothing left to do" in said
    assert "report    demo/report.html" in said
    assert "audit verify demo/bundle" in said
    assert "chat --base demo/releases/base-2 --adapter demo/adapters/italy" in said


@pytest.mark.usefixtures("here")
def test_a_demo_without_an_adapter_prints_no_chat_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = begun("demo", FINISHED)
    (out / "releases" / "base-1").mkdir(parents=True)
    start_or_resume(out, DemoOptions(), resume=True)
    assert "chat" not in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_a_demo_that_fails_before_it_is_prepared_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _stopping(monkeypatch, ConfigError("no such base", code="base-missing"))
    with refused(ConfigError, "base-missing"):
        start_or_resume(None, DemoOptions(base="tiny"), resume=False)
    assert list(Path().iterdir()) == []
    assert "--resume" not in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_a_demo_that_fails_later_keeps_what_is_done_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _stopping(monkeypatch, ResourceError("full", code="disk-full"), "prepare")
    with refused(ResourceError, "disk-full"):
        start_or_resume(None, DemoOptions(base="tiny", references=True), resume=False)
    record = read_record(Path("demo"))
    assert (record.base, record.engine, record.done) == (
        "tiny",
        "inprocess",
        ["prepare"],
    )
    assert record.references
    assert "demo --out demo --resume" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_a_demo_that_is_stopped_before_it_is_prepared_can_be_resumed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)

    _stopping(monkeypatch, ConfigError("never"))
    monkeypatch.setattr(demo_command, "run_demo", work)
    with pytest.raises(KeyboardInterrupt):
        start_or_resume(None, DemoOptions(base="tiny"), resume=False)
    assert read_record(Path("demo")).done == []
    assert "demo --out demo --resume" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_an_interruption_that_became_another_error_is_raised_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(_: Any) -> Any:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise ResourceError("the engine ended") from None

    _stopping(monkeypatch, ConfigError("never"))
    monkeypatch.setattr(demo_command, "run_demo", work)
    with pytest.raises(KeyboardInterrupt):
        start_or_resume(None, DemoOptions(base="tiny"), resume=False)


@pytest.mark.usefixtures("here")
def test_references_can_be_added_later_and_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun("demo", "prepare")
    _stopping(monkeypatch, ResourceError("stop", code="disk-full"))
    for wanted in (True, False):
        with refused(ResourceError, "disk-full"):
            start_or_resume(None, DemoOptions(references=wanted), resume=True)
        assert read_record(Path("demo")).references


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "options", [DemoOptions(engine="flower"), DemoOptions(base="smollm2")], ids=str
)
def test_a_demo_goes_on_only_with_the_options_that_it_began_with(
    options: DemoOptions,
) -> None:
    begun("demo", "prepare")
    given = options.engine or options.base
    with refused(ConfigError, "demo-option-differs", match=f"not {given}"):
        start_or_resume(Path("demo"), options, resume=True)


def test_a_base_in_a_folder_is_spelled_so_that_every_process_finds_it(
    here: Path,
) -> None:
    (here / "own").mkdir()
    assert spelled_base("own") == str(here / "own")
    assert spelled_base("./own") == str(here / "own")
    assert spelled_base("gone") == "gone"
    (here / "tiny").mkdir()
    assert spelled_base("tiny") == "tiny"  # a known name comes first


def test_a_base_folder_needs_room_for_its_copies(here: Path) -> None:
    (here / "own").mkdir()
    least = needed_bytes("own")
    (here / "own" / "model.safetensors").write_bytes(bytes(1000))
    (here / "own" / "notes.bin").write_bytes(bytes(5000))
    assert needed_bytes("own") == least + 10 * 1000
    assert needed_bytes("smollm2") > needed_bytes("tiny") == least


def test_the_number_of_threads_is_that_of_the_cores_and_one_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
