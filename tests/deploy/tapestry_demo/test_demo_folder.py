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
from tests.support.refusals import refused

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


def test_the_last_unfinished_folder_is_resumed() -> None:
    begun("demo", "prepare")
    begun("demo-2", "prepare")
    begun("demo-3", "prepare", "rounds", "collect", FINISHED)
    begun("demo-5").joinpath(FILE).write_text("{")
    assert unfinished_folder() == Path("demo-2")
    shutil.rmtree("demo-2")
    shutil.rmtree("demo")
    with refused(ConfigError, "demo-missing", match="OUT=DIR"):
        unfinished_folder()


def test_a_record_is_read_as_it_was_written() -> None:
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
    with refused(ConfigError, "demo-record-invalid", match=r"demo\.json .* demo --out"):
        read_record(folder)


@pytest.mark.parametrize(
    "change", [{"done": "all"}, {"more": 1}, {"seconds": {"a": "b"}}, {"tap": 3}]
)
def test_a_record_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    folder = begun("demo")
    value = json.loads((folder / FILE).read_text()) | change
    (folder / FILE).write_text(json.dumps(value))
    with refused(ConfigError, "demo-record-invalid", match=r"demo\.json"):
        read_record(folder)


def test_a_demo_of_other_code_is_refused() -> None:
    folder = begun("demo", software="sha256:" + "0" * 64)
    with (
        refused(
            ConfigError, "demo-software-differs", match=r"\(sha256:0000.*demo --out"
        ),
        claim_begun(folder),
    ):
        pass


@pytest.mark.parametrize("claim", [claim_new, claim_begun])
def test_a_folder_that_a_demo_works_in_is_refused(claim: Callable[[Path], Any]) -> None:
    folder = begun("demo")
    with (
        claim_begun(folder),
        refused(ConfigError, "folder-in-use", match="in demo: stop it, or"),
        claim(folder),
    ):
        pass
    with claim_begun(folder):
        pass


def test_a_withdrawn_claim_leaves_no_new_file() -> None:
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


def test_a_disk_that_is_too_small_is_refused_before_a_folder_is_made() -> None:
    check_space(Path("new/folder"), needed=1)
    with refused(ResourceError, "disk-full", match=r"^\d+ MiB free at .*, \d+ are"):
        check_space(Path("new/folder"), needed=1 << 60)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("kind", ["pipe", "device", "huge", "deep", "folder"])
def test_a_record_that_is_no_small_plain_file_is_refused(kind: str) -> None:
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
    with refused(ConfigError, "demo-record-invalid"):
        read_record(Path("demo"))


@pytest.mark.parametrize(
    ("out", "kind", "code"),
    [
        ("file", ConfigError, "not-a-folder"),
        ("full", ConfigError, "folder-not-empty"),
        ("file/below", ResourceError, "file-unwritable"),
    ],
)
def test_a_place_that_is_not_free_is_refused_by_its_rule(
    out: str, kind: type[ConfigError | ResourceError], code: str
) -> None:
    Path("file").touch()
    Path("full").mkdir()
    Path("full/x").touch()
    with refused(kind, code, match=out), claim_new(Path(out)):
        pass


def test_a_folder_without_a_record_holds_no_demo() -> None:
    with refused(ConfigError, "demo-missing", match="demo --out gone"):
        read_record(Path("gone"))
