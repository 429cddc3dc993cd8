"""An error is one line that says what is wrong, and nothing of a record."""

import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tapestry.cli.failures import describe
from tapestry.errors import RuleError
from tests.support.blocked_packages import MACHINE_LEARNING, without
from tests.support.failing_command import ending, raising


def test_an_unexpected_error_does_not_show_its_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TAPESTRY_TRACEBACK", raising=False)
    secret = raising(KeyError("Jane Doe has the flu"))
    result = ending(monkeypatch, secret)
    assert result.exit_code == 70
    assert "Jane" not in result.stdout + result.stderr
    assert "internal error: KeyError in tapestry.cli" in result.stderr
    assert "please report it" in result.stderr


_BLOCKED = without(*MACHINE_LEARNING) + "main(sys.argv[1:])"


def _auditors(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run as on a machine with an auditor's install."""
    return subprocess.run(
        [sys.executable, "-c", _BLOCKED, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_auditors_install_audits(tmp_path: Path) -> None:
    done = _auditors("audit", "verify", str(tmp_path))
    assert done.returncode == 3, done.stderr
    assert _auditors("--help").returncode == 0


def test_an_auditors_install_says_what_it_lacks(tmp_path: Path) -> None:
    done = _auditors("node", "run", str(tmp_path))
    assert done.returncode == 3
    assert "flwr is not installed; tapestry node needs the extra 'node'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_error_of_tapestry_is_described_by_its_message() -> None:
    assert describe(RuleError("round 3 is closed"), "audit") == "round 3 is closed"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (EOFError("x"), "the input ended before an answer was given"),
        (MemoryError("secret"), "out of memory; close other programs"),
        (RecursionError("secret"), "nested too deeply"),
        (UnicodeDecodeError("utf-8", b"secret", 0, 1, "bad"), "not valid UTF-8"),
    ],
    ids=repr,
)
def test_an_error_of_python_is_described_without_its_text(
    error: BaseException, said: str
) -> None:
    told = describe(error, "demo")
    assert said in told
    assert "secret" not in told


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left", "a/b"), "a/b: No space left"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError("port\n9092  in use"), "port 9092 in use"),
        (OSError(), "OSError"),
        (sqlite3.OperationalError("disk is\nfull"), "database: disk is full"),
    ],
    ids=repr,
)
def test_what_the_machine_refuses_is_one_line_with_the_place(
    error: BaseException, said: str
) -> None:
    assert describe(error, "node") == said


@pytest.mark.parametrize("role", ["demo", "node", "coordinator", "chat", "serve"])
def test_a_missing_package_is_told_with_the_extra_of_the_role(role: str) -> None:
    error = ModuleNotFoundError("x", name="torch.nn.functional")
    said = describe(error, role)
    assert said.startswith(f"torch is not installed; tapestry {role} needs the extra")
    assert f"'tapestry-federated[{role}]'" in said


def test_a_role_without_an_extra_is_told_to_install_again() -> None:
    error = ModuleNotFoundError("x", name="numpy")
    assert describe(error, "audit").startswith("numpy is not installed; install again")
    assert "extra" not in describe(error, "audit")


def test_a_package_of_another_version_is_not_called_missing() -> None:
    error = ImportError("cannot import name", name="transformers.models")
    assert "transformers is of another version than is needed" in describe(
        error, "node"
    )


def test_a_bug_is_told_by_type_and_how_to_see_more() -> None:
    said = describe(ValueError("Jane Doe"), "node")
    assert said == (
        "internal error: ValueError in tapestry; please report it;"
        " TAPESTRY_TRACEBACK=1 shows the traceback"
    )
