"""The command line: help for everything, one line for every mistake, no traceback."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import tomli_w

from tapestry import __version__
from tapestry.cli import app
from tapestry.cli.commands import Argument
from tapestry.cli.exit_status import MEANINGS
from tapestry.inputs.setting_values import to_toml
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_node.settings import NodeSettings
from tests.support.command_table import README, written
from tests.support.commands import exit_status
from tests.support.settings_files import (
    coordinator_settings,
    node_settings,
    write_settings,
)

DIGEST = "sha256:" + "0" * 64


def _commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Every command that there is, found by walking down."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))


def _root() -> click.Group:
    return app


ALL = list(_commands(_root()))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; status, output, errors."""
    status = exit_status(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return status, out, err


def test_each_role_has_a_command() -> None:
    assert {
        *(("demo",), ("chat",), ("audit", "verify"), ("audit", "account")),
        *(("adapter", "verify"), ("adapter", "list"), ("node", "run")),
        *(("node", "check"), ("node", "budget"), ("node", "egress")),
        *(("coordinator", "status"),),
    } <= set(ALL)


@pytest.mark.parametrize("path", [(), *ALL], ids=str)
def test_every_command_explains_itself(
    capsys: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    status, out, err = run(capsys, *path, "--help")
    assert status == 0
    assert err == ""
    assert "Usage:" in out
    assert "--help" in out
    for number, meaning in MEANINGS.items():
        assert re.search(rf"^  {int(number)} +{re.escape(meaning)}", out, re.MULTILINE)


@pytest.mark.parametrize("path", [(), *ALL], ids=str)
def test_every_argument_and_option_is_described(path: tuple[str, ...]) -> None:
    command = _find(path)
    assert (command.help or "").strip().endswith(".")
    for parameter in command.params:
        text = _described(parameter)
        assert text[:1].isupper(), (path, parameter.name)
        assert text.endswith("."), (path, parameter.name)
        if isinstance(parameter, click.Option) and parameter.is_flag:
            continue
        chosen = isinstance(parameter.type, click.Choice)
        assert chosen or parameter.metavar, (path, parameter.name)


def _find(path: tuple[str, ...]) -> click.Command:
    command: click.Command | None = app
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    return command


def _described(parameter: click.Parameter) -> str:
    if isinstance(parameter, Argument):
        return parameter.description
    assert isinstance(parameter, click.Option)
    return parameter.help or ""


def test_the_readme_lists_the_commands_as_they_are() -> None:
    text = README.read_text("utf-8")
    assert text == written(text), "run python -m tests.support.command_table"


@pytest.mark.parametrize("words", [["--help"], ["audit", "--help"], ["node", "--help"]])
def test_help_loads_nothing_that_it_does_not_need(words: list[str]) -> None:
    code = (
        "import sys\nfrom tapestry.cli import main\ntry:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'pydantic'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_printed_without_a_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(capsys, "--version") == (0, f"tapestry {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["nonsense"], 64),
        (["--nonsense"], 64),
        (["node", "nonsense"], 64),
        (["node", "budget", "one", "two"], 64),
        (["demo", "--engine", "horse"], 64),
        (["chat"], 64),
        (["audit", "nonsense"], 64),
        (["audit", "verify"], 64),
        (["audit", "--nonsense"], 64),
        (["adapter", "nonsense"], 64),
        (["adapter", "--nonsense"], 64),
        (["adapter", "verify"], 64),
    ],
    ids=str,
)
def test_wrong_usage_has_its_own_status(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int
) -> None:
    found, out, err = run(capsys, *arguments)
    assert found == status
    assert out == ""
    assert err


@pytest.mark.parametrize("role", ["audit", "adapter", "node", "coordinator", "release"])
def test_a_role_without_a_verb_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], role: str
) -> None:
    found, out, err = run(capsys, role)
    assert found == 64
    assert out == ""
    assert "Usage:" in err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folders with something wrong in each."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    settings = {**node_settings(DIGEST), "name": "fr", "genesis": DIGEST}
    idle = to_toml(settings, NodeSettings)
    for name, text in {
        "not-toml": "= 1",
        "wrong-key": tomli_w.dumps({"nam": "fr"}),
        "idle": tomli_w.dumps(idle),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "node.toml").write_text(text)
    (tmp_path / "led").mkdir()
    path = tmp_path / "led" / "coordinator.toml"
    leads = coordinator_settings().model_dump()
    write_settings(path, leads, CoordinatorSettings)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (["node", "budget", "missing"], 64, "node.toml"),
        (["node", "check", "not-toml"], 64, "is not TOML"),
        (["node", "check", "wrong-key"], 64, "nam"),
        (["node", "budget", "idle"], 3, "the node never ran"),
        (["node", "egress", "idle"], 3, "the node never ran"),
        (["node", "run", "idle"], 64, "no [transport]"),
        (["coordinator", "status", "missing"], 64, "coordinator.toml"),
        (["coordinator", "status", "led"], 3, "coordinator open"),
        (["adapter", "verify", "missing"], 64, "no folder"),
        (["adapter", "list", "missing"], 64, "is not the folder of a bundle"),
        (["chat", "--base", "gone", "--prompt", "x"], 64, "no base 'gone'"),
        (["chat", "--base", "empty", "--prompt", "x"], 64, "empty"),
        (["demo", "--out", "full"], 64, "is not empty"),
        (["demo", "--out", "full/file"], 64, "full/file is a file"),
        (["demo", "--out", "new", "--base", "gone"], 64, "no base 'gone'"),
        (["audit", "verify", "missing"], 64, "is not the folder of a bundle"),
        (["audit", "account", "missing"], 64, "is not the folder of a bundle"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_that_names_it(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    arguments: list[str],
    status: int,
    named: str,
) -> None:
    monkeypatch.chdir(folder)
    found, _, err = run(capsys, *arguments)
    assert (found, named in err) == (status, True), err
    assert len([line for line in err.splitlines() if line.startswith("tapestry")]) == 1


def test_an_empty_folder_is_no_verdict(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    status, out, _ = run(capsys, "audit", "verify", str(folder / "empty"))
    assert status == 3
    assert "INCOMPLETE" in out


def test_an_interruption_is_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    from tapestry_node import node_state

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(node_state, "NodeState", interrupt)
    (folder / "idle" / "node.db").write_bytes(b"SQLite")
    status, out, err = run(capsys, "node", "egress", str(folder / "idle"))
    assert status == 130
    assert "Traceback" not in out + err


def test_an_argument_as_long_as_a_book_is_shown_by_its_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_status(["demo", "--threads", "x" * 100_000]) == 64
    said = capsys.readouterr().err
    assert said.startswith("tapestry: --threads: 'xxx")
    assert len(said) < 2100
