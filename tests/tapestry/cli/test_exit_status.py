"""Exit statuses: one table, and no error that is taken for another one."""

import errno
import json
import sqlite3

import click
import pytest

from tapestry import errors
from tapestry.cli.exit_status import MEANINGS, ExitStatus, status_of, worst
from tapestry_demo import cli
from tests.support.failing_command import ending, raising

OURS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.TapestryError)
]
TABLE = {
    errors.TapestryError: 1,
    errors.VerificationError: 1,
    errors.InconsistentLog: 1,
    errors.ProtocolError: 1,
    errors.QuorumError: 1,
    errors.RuleError: 2,
    errors.PolicyError: 2,
    errors.BudgetExhausted: 2,
    errors.IncompleteError: 3,
    errors.ResourceError: 3,
    errors.ForeignFileError: 4,
    errors.WithdrawnError: 5,
    errors.ConfigError: 64,
}
OTHERS = [
    (OSError(errno.ENOSPC, "no space"), 3),
    (PermissionError(errno.EACCES, "denied"), 3),
    (sqlite3.OperationalError("locked"), 3),
    (ModuleNotFoundError("no torch", name="torch"), 3),
    (ImportError("no such name", name="transformers.models"), 3),
    (MemoryError(), 3),
    (RecursionError(), 3),
    (EOFError(), 3),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), 64),
    (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "bad"), 64),
    (KeyboardInterrupt(), 130),
    (ModuleNotFoundError("no ours", name="tapestry.nothing"), 70),
    (ImportError("of nobody"), 70),
    (ValueError("a bug"), 70),
    (AssertionError(), 70),
    (SystemExit(1), 70),
    (click.Abort(), 70),
]


def test_the_table_names_every_error_that_there_is() -> None:
    assert set(TABLE) == set(OURS)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_each_error_of_tapestry_has_its_status(
    monkeypatch: pytest.MonkeyPatch, kind: type[errors.TapestryError]
) -> None:
    result = ending(monkeypatch, raising(kind("what is wrong", code="some-rule")))
    assert result.exit_code == TABLE[kind] == status_of(kind("what is wrong"))
    assert result.stderr == "tapestry: what is wrong [some-rule]\n"
    assert result.stdout == ""


def test_an_error_under_json_is_an_object_with_the_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = errors.RuleError("round 3 is closed", code="round-not-open")
    result = ending(monkeypatch, raising(error), "--json")
    assert json.loads(result.stdout) == {
        "error": {"code": "round-not-open", "message": "round 3 is closed"}
    }
    assert result.stderr == "tapestry: round 3 is closed [round-not-open]\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyError("x"), "internal"), (KeyboardInterrupt(), "interrupted")],
)
def test_an_error_of_python_has_the_name_of_its_status_as_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: str
) -> None:
    result = ending(monkeypatch, raising(error), "--json")
    assert json.loads(result.stdout)["error"]["code"] == code


@pytest.mark.parametrize(("error", "status"), OTHERS, ids=repr)
def test_no_other_error_is_taken_for_a_verdict(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    result = ending(monkeypatch, raising(error))
    assert result.exit_code == status == status_of(error)
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("tapestry: ")


def test_the_command_line_shows_a_traceback_when_the_variable_is_set(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from tapestry.cli import main

    monkeypatch.setenv("TAPESTRY_TRACEBACK", "1")
    monkeypatch.setattr(
        cli, "app", click.Command("demo", callback=raising(KeyError("x")))
    )
    with pytest.raises(SystemExit):
        main(["demo"])
    assert "Traceback (most recent call last):" in capfd.readouterr().err


def test_a_line_feed_in_an_error_forges_no_second_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = errors.VerificationError("bad\nHOLDS: 11 steps, every one holds")
    result = ending(monkeypatch, raising(error))
    assert result.stderr == (
        "tapestry: bad\\nHOLDS: 11 steps, every one holds [verification]\n"
    )


def test_a_verdict_that_a_command_returns_is_its_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ending(monkeypatch, lambda: ExitStatus.FOREIGN_FILE).exit_code == 4
    assert ending(monkeypatch, lambda: None).exit_code == 0


def test_the_worst_of_several_verdicts_is_that_of_all() -> None:
    order = [1, 2, 4, 3, 0]
    for place, status in enumerate(order):
        assert worst(ExitStatus(each) for each in reversed(order[place:])) == status
    assert worst([]) is ExitStatus.HOLDS


def test_every_status_has_a_meaning() -> None:
    assert set(ExitStatus) == set(MEANINGS)
    assert [int(each) for each in ExitStatus] == [0, 1, 2, 3, 4, 5, 64, 70, 130]


def test_the_numbers_of_an_audit_are_those_of_the_table() -> None:
    from tapestry_governance.audit.verify import verdict_of

    others = {
        errors.ConfigError,
        errors.PolicyError,
        errors.BudgetExhausted,
        errors.WithdrawnError,
    }
    for kind in OURS:
        verdict = int(verdict_of(kind("x")))
        if kind not in others:
            assert verdict == TABLE[kind], kind
