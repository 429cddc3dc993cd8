"""The folder of a demo: free ones are found, begun ones taken up, nothing is lost."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry_demo import shell_command
from tapestry_demo.demo_folder import (
    FILE,
    FINISHED,
    Record,
    check_space,
    claim_begun,
    claim_new,
    free_folder,
    read_record,
    unfinished_folder,
)
from tests.support.commands import tapestry

ROOT = Path(__file__).resolve().parent.parent.parent.parent


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the user is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begun(name: str, *done: str, **fields: Any) -> Path:
    """A folder in which a demo was begun."""
    folder = Path(name)
    folder.mkdir()
    Record(engine="inprocess", base="tiny", done=list(done), **fields).write(folder)
    return folder


def test_the_next_free_folder_is_taken() -> None:
    assert free_folder() == Path("demo")
    Path("demo").mkdir()
    assert free_folder() == Path("demo")
    begun("demo-2")
    Path("demo", "file").touch()
    assert free_folder() == Path("demo-3")
    Path("demo-3").touch()
    Path("demo-4").symlink_to("nowhere")
    assert free_folder() == Path("demo-5")


def test_the_last_unfinished_folder_is_gone_on_with() -> None:
    begun("demo", "prepare")
    begun("demo-2", "prepare")
    begun("demo-3", "prepare", "rounds", "collect", FINISHED)
    begun("demo-5").joinpath(FILE).write_text("{")
    assert unfinished_folder() == Path("demo-2")
    shutil.rmtree("demo-2")
    shutil.rmtree("demo")
    with pytest.raises(ConfigError, match=r"no unfinished demo here.*OUT=DIR"):
        unfinished_folder()


def test_what_is_written_is_read_again() -> None:
    folder = begun(
        *("demo", "prepare"), seconds={"prepare": 1.5}, tap={"uploads": 4}, genesis="g"
    )
    record = read_record(folder)
    assert (record.engine, record.base, record.genesis) == ("inprocess", "tiny", "g")
    assert (record.done, record.seconds) == (["prepare"], {"prepare": 1.5})
    assert [path.name for path in folder.iterdir()] == [FILE]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", '{"format": "tapestry-demo/1"}'),
        '{"format": "tapestry-demo/2", "done": []}',
    ],
)
def test_a_damaged_record_says_how_to_begin_again(text: str) -> None:
    folder = begun("demo")
    (folder / FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"demo\.json is damaged.* demo --out"):
        read_record(folder)


@pytest.mark.parametrize(
    "change", [{"done": "all"}, {"more": 1}, {"seconds": {"a": "b"}}, {"tap": 3}]
)
def test_a_record_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    folder = begun("demo")
    value = json.loads((folder / FILE).read_text()) | change
    (folder / FILE).write_text(json.dumps(value))
    with pytest.raises(ConfigError, match="damaged or of another version"):
        read_record(folder)


def test_other_code_does_not_go_on() -> None:
    folder = begun("demo", software="sha256:" + "0" * 64)
    with (
        pytest.raises(ConfigError, match=r"other code \(sha256:0000.*begin again with"),
        claim_begun(folder),
    ):
        pass


@pytest.mark.parametrize("claim", [claim_new, claim_begun])
def test_two_demos_do_not_work_in_one_folder(claim: Callable[[Path], Any]) -> None:
    folder = begun("demo")
    with (
        claim_begun(folder),
        pytest.raises(ConfigError, match="another demo works in demo: stop it, or"),
        claim(folder),
    ):
        pass
    with claim_begun(folder):
        pass


def test_a_failed_start_leaves_nothing_that_was_not_there() -> None:
    Path("mine").mkdir()
    for out in (Path("a/b/c"), Path("mine"), Path("mine/too")):
        with claim_new(out) as claim:
            (out / "nodes").mkdir()
            (out / "nodes" / "key").touch()
            (out / "coordinator").symlink_to("..")
            claim.withdraw()
    assert [str(path) for path in Path().rglob("*")] == ["mine"]


def test_a_folder_that_another_program_uses_meanwhile_stays() -> None:
    with claim_new(Path("a/b")) as claim:
        for other in ("a/other", "a/b/theirs", "a/b/notes/text"):
            Path(other).parent.mkdir(exist_ok=True)
            Path(other).touch()
        claim.withdraw()
    files = {str(path) for path in Path().rglob("*") if path.is_file()}
    assert files == {"a/other", "a/b/theirs", "a/b/notes/text"}


def test_a_disk_that_is_too_small_is_said_before_anything_is_made() -> None:
    check_space(Path("new/folder"), needed=1)
    with pytest.raises(ResourceError, match=r"MiB free at .*, \d+ are needed; make"):
        check_space(Path("new/folder"), needed=1 << 60)
    assert list(Path().iterdir()) == []


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


def test_a_base_that_changed_is_not_gone_on_with() -> None:
    begun("begun", "prepare", base_digest="sha256:" + "0" * 64)
    result = tapestry("demo", "--resume", "--out", "begun")
    assert result.exit_code == 64
    assert "was begun on sha256:0000" in result.stderr


@pytest.mark.parametrize(
    "path", ["plain", "with space", "-dash", "quo'te", 'dou"ble', "$HOME", "ü;ls", "~"]
)
def test_a_line_pastes_into_a_shell(path: str) -> None:
    """A shell hands each word over as it is: here to a stand-in for the program."""
    line = shell_command.command("audit", "verify", Path(path))
    program = shell_command._program()
    assert line.startswith(program)
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {line.removeprefix(program)}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    expected = f"./{path}" if path.startswith("-") else path
    assert words == ["audit", "verify", expected]


def test_the_program_is_named_by_what_works_from_here(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{shell_command.command('--version')}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("tapestry ")
    bin_folder = here / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(bin_folder / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert shell_command.command() == ".venv/bin/python -m tapestry"
    (bin_folder / "tapestry").touch(mode=0o755)
    assert shell_command.command() == ".venv/bin/tapestry"
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert shell_command.command() == str(bin_folder / "tapestry")
    monkeypatch.setenv("PATH", str(bin_folder))
    assert shell_command.command() == "tapestry"
    monkeypatch.setenv("PATH", os.defpath)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "demo"),
        (["OUT=a b"], 'demo --out "a b"'),
        (["RESUME=1"], "demo --resume"),
        (["RESUME=0"], "demo"),
        (
            ["OUT=x", "RESUME=1", "ARGS=--base tiny"],
            'demo --out "x" --resume --base tiny',
        ),
    ],
)
def test_make_names_a_folder_only_if_it_was_given_one(
    words: list[str], expected: str
) -> None:
    command = ["make", "-s", "-n", "-C", str(ROOT), "demo", "READY=", "PYTHON=false"]
    # A make that runs these tests hands its own variables down.
    ours = {"MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "ARGS", "OUT", "RESUME"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [*command, *words], env=kept, capture_output=True, text=True, check=True
    )
    (line,) = done.stdout.strip().splitlines()
    assert line.strip().endswith(f"/bin/tapestry {expected}")


@pytest.mark.parametrize("kind", ["pipe", "device", "huge", "deep", "folder"])
def test_what_is_no_plain_small_file_is_not_read(kind: str) -> None:
    path = begun("demo", "prepare") / FILE
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "huge":
            path.touch()
            os.truncate(path, 1 << 40)
        case "folder":
            path.mkdir()
        case _:
            path.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="damaged"):
        read_record(Path("demo"))
