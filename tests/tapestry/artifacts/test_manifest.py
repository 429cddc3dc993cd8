import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.artifacts import manifest
from tapestry.artifacts.manifest import File, Manifest
from tapestry.errors import (
    ConfigError,
    ForeignFileError,
    IncompleteError,
    ProtocolError,
    VerificationError,
)
from tapestry.schema import check_file_name
from tests.support.refusals import refused

DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "base-1"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "sub" / "weights.safetensors").write_bytes(b"0123")
    (folder / "empty").write_bytes(b"")
    return folder


def test_a_folder_is_as_its_manifest_says(folder: Path) -> None:
    listed = manifest.write(folder)
    assert [file.name for file in listed.files] == [
        "config.json",
        "empty",
        "sub/weights.safetensors",
    ]
    assert manifest.read(folder) == listed
    manifest.verify(folder, listed)
    (folder / "tapestry" / "proof").write_bytes(b"is not part of it")
    manifest.verify(folder, listed)
    assert manifest.describe(folder).digest == listed.digest


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda f: (f / "config.json").write_bytes(b"[]"), "manifest-file-changed"),
        (lambda f: (f / "config.json").write_bytes(b"{} "), "manifest-file-changed"),
        (lambda f: (f / "config.json").unlink(), "manifest-file-missing"),
        (lambda f: (f / "config.json").rename(f / "c2.json"), "manifest-file-missing"),
        (lambda f: (f / "sub").rename(f / "Sub"), "manifest-file-missing"),
        (lambda f: put_a_pipe(f / "empty"), "file-not-plain"),
        (
            lambda f: (f / "empty").rename(f.parent / "a") and (f / "empty").mkdir(),
            "manifest-file-missing",
        ),
    ],
    ids=["changed", "longer", "missing", "renamed", "case", "pipe", "folder"],
)  # fmt: skip
def test_any_change_to_a_folder_is_noticed(
    folder: Path, damage: Callable[[Path], object], code: str
) -> None:
    listed = manifest.write(folder)
    damage(folder)
    with refused(VerificationError, code):
        manifest.verify(folder, listed)


@pytest.mark.parametrize(
    ("add", "name"),
    [
        (lambda f: (f / "extra").write_bytes(b""), "extra"),
        (lambda f: (f / ".hidden").write_bytes(b""), ".hidden"),
        (lambda f: (f / "sub" / "tapestry").write_bytes(b""), "sub/tapestry"),
        (lambda f: (f / "link").symlink_to("config.json"), "link"),
        (lambda f: (f / "gone").symlink_to("nowhere"), "gone"),
        (lambda f: os.mkfifo(f / "pipe"), "pipe"),
        (lambda f: (f / "back\\slash").write_bytes(b""), "back\\slash"),
        (lambda f: (f / "é\n").write_bytes(b""), "é\n"),
        (lambda f: deep(f / ".git" / "hooks", "x"), ".git/"),
        (lambda f: deep(f / "sub" / "more" / "deep", "x"), "sub/more/"),
        (lambda f: f.joinpath("tapestry").rename(f.parent / "away")
            and (f / "tapestry").symlink_to(f.parent / "away"), "tapestry"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_file_that_the_manifest_does_not_list_is_refused_by_name(
    folder: Path, add: Callable[[Path], object], name: str
) -> None:
    listed = manifest.write(folder)
    add(folder)
    with refused(ForeignFileError, "foreign-file") as caught:
        manifest.verify(folder, listed)
    assert caught.value.files == (name,)
    assert (name if name.isprintable() else ascii(name)) in str(caught.value)


def put_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def deep(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"")


def test_an_empty_folder_is_foreign(folder: Path) -> None:
    listed = manifest.write(folder)
    (folder / "nothing").mkdir()
    with refused(ForeignFileError, "foreign-file", match="nothing/"):
        manifest.verify(folder, listed)


@given(at=st.integers(0, 3), flip=st.integers(1, 255))
def test_one_flipped_byte_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, at: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("m")
    (folder / "weights").write_bytes(b"0123")
    listed = manifest.describe(folder)
    data = bytearray(b"0123")
    data[at] ^= flip
    (folder / "weights").write_bytes(data)
    with refused(VerificationError, "manifest-file-changed"):
        manifest.verify(folder, listed)


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "a/../b", "/etc/passwd", "a//b", "a/", "./a", "a\\b", "a\nb",
        "a\0", "ü", "a:b", "x" * 121, "a/b/c/d/e/f/g/h/i", "a.", "a ", " a",
    ],
)  # fmt: skip
def test_names_that_are_not_portable_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="portable"):
        check_file_name(name)


def test_a_manifest_has_one_spelling(folder: Path) -> None:
    listed = manifest.write(folder)
    assert Manifest.decode(listed.encode()) == listed
    first, *rest = listed.files
    for files in (
        (*rest, first),
        (first, first, *rest),
        (first, File(name="Config.json", size=0, content=DIGEST)),
        (File(name="Tapestry/x", size=0, content=DIGEST),),
        (),
    ):
        with pytest.raises(ValueError, match=r"order|case|belong|at least 1"):
            Manifest(
                format="tapestry-manifest/1",
                files=tuple(sorted(files, key=lambda f: f.name))
                if len(files) == 2
                else files,
            )
    path = folder / "tapestry" / "manifest.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with refused(ProtocolError, "json-not-canonical"):
        manifest.read(folder)


def test_a_missing_folder_or_manifest_gives_no_verdict(
    tmp_path: Path, folder: Path
) -> None:
    with refused(IncompleteError, "manifest-missing"):
        manifest.read(folder)
    listed = manifest.describe(folder)
    with refused(IncompleteError, "folder-missing"):
        manifest.verify(tmp_path / "nothing", listed)
    with refused(ConfigError, "folder-missing"):
        manifest.describe(tmp_path / "nothing")
    (tmp_path / "bare").mkdir()
    with refused(ConfigError, "folder-empty"):
        manifest.write(tmp_path / "bare")


def test_a_manifest_that_is_no_plain_file_is_not_opened(folder: Path) -> None:
    manifest.write(folder)
    path = folder / "tapestry" / "manifest.json"
    path.unlink()
    os.mkfifo(path)  # opening it would wait for ever
    with refused(VerificationError, "file-not-plain"):
        manifest.read(folder)
