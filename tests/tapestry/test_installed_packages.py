"""Packages are known by what they recorded, and by nothing that an installer adds."""

import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
from contextlib import nullcontext
from pathlib import Path

import pytest

from tapestry.errors import ResourceError
from tapestry.installed_packages import (
    InstalledPackage,
    require_standard_library,
    required_packages,
    unrecorded_files,
)
from tests.support.file_times import let_a_step_pass
from tests.support.installed_folders import CODE, install, recorded
from tests.support.refusals import refused


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages in which one package is required."""
    place = tmp_path / "packages"
    place.mkdir()
    install(place, "first", requires=["second-one; extra == 'node'"], extras=["node"])
    install(place, "second-one")
    monkeypatch.syspath_prepend(place)
    return place


def only(project: str = "first") -> InstalledPackage:
    (found,) = required_packages(project, "node")
    return found


def test_requirements_are_followed_through_extras_and_markers(folder: Path) -> None:
    install(
        folder,
        "first",
        requires=["Second.One[more]>=1", "other; extra == 'chat'", "first[inner]"],
        extras=["node", "chat", "inner"],
    )
    install(
        folder,
        "second-one",
        requires=[
            "third; extra == 'more'",
            "gone; extra == 'less'",
            "gone; python_version < '3'",
        ],
        extras=["more", "less"],
    )
    install(folder, "third", requires=["first"])
    assert [each.name for each in required_packages("first", "node")] == [
        "second-one",
        "third",
    ]


def test_what_a_node_requires_is_covered_to_the_last_package() -> None:
    found = {p.name: p for p in required_packages("tapestry-federated", "node")}
    assert {"torch", "numpy", "transformers", "flwr", "opacus", "sympy"} <= set(found)
    assert "tapestry-federated" not in found
    assert "pytest" not in found
    assert found["torch"].version == importlib.metadata.version("torch")
    assert len(found["torch"].files) > 10_000


def test_the_digest_of_a_record_is_the_same_for_every_installer(folder: Path) -> None:
    before = only()
    info = "second_one-1.0.dist-info"
    install(
        folder,
        "second-one",
        added=[
            ("second_one/__pycache__/__init__.cpython-311.pyc", "", ""),
            ("../../../bin/second", recorded(b"#!/here/python"), "14"),
            ("/usr/share/man/second.1", recorded(b"x"), "1"),
            (f"{info}/INSTALLER", recorded(b"uv"), "2"),
            (f"{info}/REQUESTED", recorded(b""), "0"),
            (f"{info}/direct_url.json", recorded(b"{}"), "2"),
            (f"{info}/uv_cache.json", recorded(b"{}"), "2"),
        ],
    )
    record = folder / info / "RECORD"
    record.write_text("\n".join(reversed(record.read_text().splitlines())))
    assert only() == before
    assert only().record_digest == before.record_digest


def test_the_digest_of_a_record_follows_every_path_and_digest(folder: Path) -> None:
    found = [only().record_digest]
    for files in (
        {"second_one/__init__.py": b"VALUE = 2\n"},
        {"second_one/__init__.py": CODE, "second_one/table.txt": b""},
        {"second_one/__init__.py": CODE, "second_one/tables.txt": b""},
        {"second_one/__init__.py": CODE, "second_one/data/INSTALLER": b""},
    ):
        install(folder, "second-one", files=files)
        found.append(only().record_digest)
    assert len(set(found)) == 5


def test_a_requirement_that_is_not_installed_is_named(folder: Path) -> None:
    install(folder, "first", requires=["no-such-package"])
    with refused(ResourceError, "package-missing", match="no-such-package"):
        required_packages("first", "node")


@pytest.mark.parametrize(
    "origin",
    [
        {"url": "file:///here", "dir_info": {"editable": True}},
        ["no object"],
        {"dir_info": 1},
    ],
)
def test_a_package_whose_code_lies_elsewhere_has_no_record(
    folder: Path, origin: object
) -> None:
    path = folder / "second_one-1.0.dist-info" / "direct_url.json"
    path.write_text(json.dumps({"url": "https://here", "archive_info": {}}))
    only()
    path.write_text(json.dumps(origin))
    with refused(ResourceError, "package-record-missing", match="second-one"):
        only()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_package_without_a_record_is_refused(folder: Path, is_there: bool) -> None:
    record = folder / "second_one-1.0.dist-info" / "RECORD"
    record.write_text("")
    if not is_there:
        record.unlink()
    with refused(ResourceError, "package-record-missing", match="second-one"):
        only()


@pytest.mark.parametrize(
    "row",
    [
        "second_one/more.py,,",
        "second_one/more.py,md5=" + "A" * 46 + ",1",
        "second_one/more.py,sha256=" + "A" * 42 + ",1",
        "second_one/more.py",
        '"second_one/mo\nre.py",sha256=' + "A" * 43 + ",1",
        "",
        "second_one/" + "x" * 200_000 + ",sha256=" + "A" * 43 + ",1",
    ],
)
def test_a_row_without_path_and_digest_is_refused(folder: Path, row: str) -> None:
    record = folder / "second_one-1.0.dist-info" / "RECORD"
    record.write_text(f"{row}\n{record.read_text()}")
    with refused(ResourceError, "package-record-invalid", match="second-one"):
        only()


def test_a_record_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "second_one-1.0.dist-info" / "RECORD").write_bytes(b"\xff,\xff,1\n")
    with refused(ResourceError, "package-record-invalid", match="second-one"):
        only()


@pytest.mark.usefixtures("folder")
def test_a_package_that_another_copy_hides_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.syspath_prepend(elsewhere)
    only()
    (elsewhere / "second_one.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(elsewhere)  # and forget what was found
    with refused(ResourceError, "package-hidden", match=str(elsewhere)):
        only()


FILES = {
    "other.py": CODE,
    "native.abi3.so": b"",
    "named/__init__.py": CODE,
    "named/inner.py": CODE,
    "space/inner/__init__.py": CODE,
    "space/leaf.py": CODE,
    "space/deep/more/leaf.py": CODE,
    "data/table.txt": b"",
    "libs.d/lib.so": b"",
}


@pytest.fixture
def elsewhere(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder before that of a package whose modules are not called as it is."""
    install(folder, "second-one", files=FILES)
    place = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.syspath_prepend(place)
    return place


@pytest.mark.parametrize(
    "name",
    [
        "other.py",
        "other/__init__.py",
        "native.py",
        "named.py",
        "named/__init__.py",
        "space.py",
        "space/__init__.py",
        "space/inner.py",
        "space/inner/__init__.py",
        "space/leaf/__init__.py",
        "space/deep/__init__.py",
        "space/deep/more/leaf.py",
    ],
)
def test_each_module_that_another_copy_hides_is_refused(
    elsewhere: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for harmless in ("space/own.py", "named/own.py", "data/__init__.py", "free.py"):
        (elsewhere / harmless).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / harmless).write_bytes(CODE)
    only()  # nothing of it is in the package, or hides what is
    (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
    (elsewhere / name).write_bytes(CODE)
    monkeypatch.syspath_prepend(elsewhere)  # and forget what was found
    with refused(ResourceError, "package-hidden", match=str(elsewhere)):
        only()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", ["other.abi3.so", "other/__init__.py", "native.so"])
def test_an_unrecorded_file_that_hides_a_module_beside_it_is_refused(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    only()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(CODE)
    monkeypatch.syspath_prepend(folder)
    hides = name != "native.so"  # which comes after native.abi3.so
    with refused(ResourceError, "package-hidden") if hides else nullcontext():
        only()


_HIDDEN = """
import importlib, sys
from pathlib import Path
from tapestry.errors import ResourceError
from tapestry.installed_packages import required_packages

for name in sys.argv[2:]:
    place = Path(sys.argv[1], name)
    path = place.joinpath(*name.split("."), "__init__.py")
    path.parent.mkdir(parents=True)
    path.write_text("raise SystemExit('imported')")
    sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    try:
        required_packages("tapestry-federated", "node")
    except ResourceError as error:
        assert error.code == "package-hidden" and str(path) in str(error), error
    else:
        print(name)
    sys.path.remove(str(place))
importlib.invalidate_caches()
required_packages("tapestry-federated", "node")
print("done")
"""


@pytest.mark.slow
def test_modules_that_are_not_called_as_their_package_are_no_gap(
    tmp_path: Path,
) -> None:
    """In a process that has imported none of them; nothing of a copy is run."""
    names = ["grpc", "grpc_health", "google", "google.protobuf", "Crypto", "dotenv"]
    names += ["markdown_it", "_cffi_backend", "torchgen"]
    command = [sys.executable, "-c", _HIDDEN, str(tmp_path), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize(
    "name", ["random.py", "statistics/__init__.py", "secrets.py", "_hashlib.abi3.so"]
)
def test_a_module_that_hides_one_of_the_standard_library_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, library = tmp_path / "bin", sysconfig.get_path("stdlib")
    path = program / name
    path.parent.mkdir(parents=True)
    path.write_bytes(CODE)
    monkeypatch.chdir(program)
    for before in ([str(program)], [""], ["/nowhere", str(program)]):
        with refused(ResourceError, "standard-library-hidden", match=path.stem):
            require_standard_library([*before, library, "/site-packages"])
    require_standard_library([library, str(program)])


def test_what_hides_nothing_may_be_before_the_standard_library(tmp_path: Path) -> None:
    """Such as a folder of data, a module of the interpreter's own, or the product."""
    for name in ("html/page.txt", "tapestry_x/random.py", "sys.py", "own.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(CODE)
    root = Path(__file__).parents[2]
    ours = [str(root / name) for name in ("", "node", "coordinator", "governance")]
    library = sysconfig.get_path("stdlib")
    require_standard_library([str(tmp_path), *ours, "", str(tmp_path / "no"), library])
    require_standard_library(sys.path)


def test_a_file_that_is_edited_gone_or_no_file_is_named(folder: Path) -> None:
    names = ["code.py", "data.css", "linked.py", "pipe.py", "room.py", "same.py"]
    paths = [f"second_one/{name}" for name in names]
    install(
        folder,
        "second-one",
        files=dict.fromkeys(["second_one/__init__.py", *paths], CODE),
    )
    package = only()
    assert list(package.differing_files()) == []
    code, data, linked, pipe, room, same = (folder / path for path in paths)
    code.write_bytes(CODE.replace(b"1", b"2"))
    for path in (data, linked, pipe, room, same):
        path.unlink()
    linked.symlink_to(code)
    os.mkfifo(pipe)
    room.mkdir()
    same.symlink_to(folder / "second_one" / "__init__.py")  # as uv may install it
    assert list(package.differing_files()) == paths[:-1]


def test_an_edit_shows_even_if_size_and_time_of_the_file_stay(folder: Path) -> None:
    package, path = only(), folder / "second_one" / "__init__.py"
    before, kept = package.stat_digest(), path.stat()
    assert package.stat_digest() == before
    let_a_step_pass()
    path.write_bytes(CODE.replace(b"1", b"2"))
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert path.stat().st_size == kept.st_size
    edited = package.stat_digest()
    assert edited != before
    path.unlink()
    assert package.stat_digest() not in (before, edited)


def test_files_that_no_package_recorded_are_found(folder: Path) -> None:
    install(folder, "second-one", files={"shared/one.py": CODE})
    install(folder, "neighbour", files={"shared/two.py": CODE, "alone/x.py": CODE})
    (folder / "alone" / "stray.py").touch()  # no package of ours
    (folder / "shared" / "__pycache__").mkdir()
    (folder / "shared" / "__pycache__" / "one.pyc").touch()
    packages = required_packages("first", "node")
    assert list(unrecorded_files(packages)) == []
    (folder / "shared" / "inner").mkdir()
    (folder / "shared" / "inner" / "plugin.py").touch()
    (folder / "shared" / "link.py").symlink_to("nowhere")
    assert list(unrecorded_files(packages)) == [
        "shared/inner/plugin.py",
        "shared/link.py",
    ]
