"""The folder of a demo: free ones are found, begun ones taken up, nothing is lost."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry_demo.demo_folder import (
    FILE,
    FINISHED,
    check_space,
    claim_begun,
    claim_new,
    free_folder,
    read_record,
    unfinished_folder,
)
from tests.support.demo_folders import begun

pytestmark = pytest.mark.usefixtures("here")


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
