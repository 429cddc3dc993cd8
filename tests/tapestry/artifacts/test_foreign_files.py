"""Files that people's tools leave in a folder: refused by name, and no tampering."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tapestry.artifacts.foreign_files import refuse
from tapestry.errors import ForeignFileError
from tapestry_governance.audit.bundle import write_manifest
from tests.support.adapter_folders import make_demo
from tests.support.audit_bundles import bundle_of, released
from tests.support.commands import Result, tapestry

LEFT = [
    ".gitattributes",
    ".gitignore",
    ".git/HEAD",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    ".cache/huggingface/download/config.json.metadata",
    ".ipynb_checkpoints/README-checkpoint.md",
    "__pycache__/x.cpython-311.pyc",
    "._README.md",
    "~$notes.docx",
    "Icon\r",
]
KINDS = {
    "release": "releases/base-2",
    "adapter": "adapters/fr-culture",
    "audit": "bundle",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture
def demo(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "demo")


def leave(folder: Path, name: str) -> str:
    """Leave a file; returns the name that a verdict should have for it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return f"{name.split('/')[0]}/" if "/" in name else name


def verify(role: str, demo: Path, *options: object) -> Result:
    return tapestry(role, "verify", demo / KINDS[role], *options)


@pytest.mark.parametrize("role", KINDS)
def test_all_that_tools_leave_is_named_at_once(demo: Path, role: str) -> None:
    assert verify(role, demo).exit_code == 0
    names = {leave(demo / KINDS[role], name) for name in LEFT}
    result = verify(role, demo)
    assert result.exit_code == 4
    assert "not part of it: .DS_Store, ._README.md, .cache/, .git/, " in result.stdout
    assert "and 2 more; remove them or copy the folder without them" in result.stdout
    assert "FOREIGN FILE" in result.stdout
    assert "FAILS" not in result.stdout
    report = json.loads(verify(role, demo, "--json").stdout)
    assert (set(report["foreign_files"]), report["exit"]) == (names, 4)


@pytest.mark.parametrize("role", KINDS)
@pytest.mark.parametrize("name", LEFT)
def test_each_is_refused_alone_as_well(demo: Path, role: str, name: str) -> None:
    left = leave(demo / KINDS[role], name)
    report = json.loads(verify(role, demo, "--json").stdout)
    assert (report["foreign_files"], report["exit"]) == ([left], 4)


def link_into_blobs(folder: Path) -> None:
    """Make every file a link, as in the cache of a hub."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if path.is_file():
            path.rename(blobs / str(number))
            path.symlink_to(os.path.relpath(blobs / str(number), path.parent))


@pytest.mark.parametrize("role", KINDS)
def test_a_folder_of_links_says_how_to_copy_it(demo: Path, role: str) -> None:
    folder = demo / KINDS[role]
    link_into_blobs(folder)
    result = verify(role, demo)
    assert result.exit_code == 4
    assert "copy the folder with its links followed (cp -rL)" in result.stdout
    shutil.copytree(folder, demo / "copied")  # follows links
    shutil.rmtree(folder)
    shutil.move(demo / "copied", folder)
    assert verify(role, demo).exit_code == 0


@pytest.mark.parametrize("role", KINDS)
def test_a_link_to_nowhere_or_to_a_folder_is_a_link(demo: Path, role: str) -> None:
    (demo / KINDS[role] / "gone").symlink_to("nowhere")
    (demo / KINDS[role] / "other").symlink_to(demo)
    report = json.loads(verify(role, demo, "--json").stdout)
    assert (report["foreign_files"], report["exit"]) == (["gone", "other"], 4)


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("role", "name", "spoil", "status"),
    [
        ("release", "model.safetensors", change, 1),
        ("release", "model.safetensors", Path.unlink, 1),
        ("adapter", "README.md", change, 1),
        ("adapter", "README.md", Path.unlink, 1),
        ("audit", "checkpoint", change, 1),
        ("audit", "checkpoint", Path.unlink, 4),  # what is missing weighs least
    ],
)
def test_tampering_weighs_more_than_a_foreign_file(
    demo: Path, role: str, name: str, spoil: Callable[[Path], None], status: int
) -> None:
    folder = demo / KINDS[role]
    leave(folder, ".DS_Store")
    spoil(folder / name)
    assert verify(role, demo).exit_code == status


def test_the_worst_of_folder_and_base_decides(demo: Path) -> None:
    leave(demo / KINDS["release"], ".gitattributes")
    result = verify("adapter", demo)
    assert result.exit_code == 4
    assert "base-2: not part of it: .gitattributes" in result.stdout
    change(demo / "bundle" / "checkpoint")
    assert verify("adapter", demo).exit_code == 1


@pytest.mark.parametrize("place", ["", "tile", "tile/0", "blobs", "blobs/sha256"])
def test_a_bundle_that_lists_what_is_no_part_of_it_says_so(
    demo: Path, place: str
) -> None:
    """Its maker looked at it with a tool that leaves files, and listed them again."""
    leave(demo / "bundle" / place, ".DS_Store")
    write_manifest(demo / "bundle")
    result = verify("audit", demo)
    assert ".DS_Store" in result.stdout
    assert result.exit_code == 4


@pytest.mark.parametrize("slim", [False, True], ids=["whole", "manifest alone"])
def test_an_artifact_in_a_bundle_is_no_exception(tmp_path: Path, slim: bool) -> None:
    world, base = released(tmp_path / "made")
    if slim:
        for path in base.iterdir():
            if path.name != "tapestry":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    leave(base, ".DS_Store")
    bundle = bundle_of(world, tmp_path, artifacts={"base-2": base}).folder
    result = tapestry("audit", "verify", bundle)
    assert result.exit_code == 4
    assert "base-2: not part of it: .DS_Store; remove it" in result.stdout


def test_chat_refuses_a_release_with_foreign_files_before_it_loads_it(
    demo: Path,
) -> None:
    leave(demo / "adapters" / "fr-culture", "__pycache__/x.pyc")
    options = ["--adapter", demo / "adapters" / "fr-culture", "--prompt", "ciao"]
    result = tapestry("chat", "--base", demo / "releases" / "base-2", *options)
    assert result.exit_code == 4
    assert result.stderr == (
        "tapestry: fr-culture: not part of it: __pycache__/; remove it or copy the"
        " folder without it [foreign-file]\n"
    )


def test_a_hundred_files_are_ten_names_and_a_count() -> None:
    with pytest.raises(ForeignFileError) as caught:
        refuse("base-1", foreign=[f"{number:03}" for number in range(100)])
    assert str(caught.value).count(",") == 9
    assert "009 and 90 more; remove them" in str(caught.value)
    assert len(caught.value.files) == 100
