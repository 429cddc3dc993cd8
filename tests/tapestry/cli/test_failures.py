"""An error is one line that says what is wrong, and nothing of a record."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.failing_command import ending, raising


def test_an_error_of_nobody_does_not_show_what_it_worked_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TAPESTRY_TRACEBACK", raising=False)
    secret = raising(KeyError("Jane Doe has the flu"))
    result = ending(monkeypatch, secret)
    assert result.exit_code == 70
    assert "Jane" not in result.stdout + result.stderr
    assert "internal error: KeyError in tapestry.cli" in result.stderr
    assert "please report it" in result.stderr


_BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "flwr", "transformers", "peft", "opacus"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from tapestry.cli import main
main(sys.argv[1:])
"""


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
    done = _auditors("node", "check", str(tmp_path))
    assert done.returncode == 3
    assert "torch is not installed; tapestry node needs the extra 'node'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
