"""Runs that end early: each with one line that names the reason."""

import errno
import itertools
import math
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestry import cli
from tapestry.cli.exit_status import ExitStatus
from tapestry.errors import ConfigError, QuorumError, ResourceError
from tapestry.protocol.messages import Kind, Message
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.ratio_score import RatioScore
from tapestry_coordinator.settings import CoordinatorSettings, RunSettings
from tapestry_coordinator.spot_check_responder import EVIDENCE
from tapestry_coordinator.superlink.outcome import clear_outcome
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.round_events import RoundOpened
from tests.coordinator.conftest import Found
from tests.support.commands import tapestry
from tests.support.federation import NAMES, Deliver, lost
from tests.support.refusals import refused
from tests.support.settings_files import change_settings

FLOOR: dict[str, Any] = {
    "coordinator": {"secagg": {"min_cohort": 4}},
    "policy": {"min_cohort": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "here",
    [
        pytest.param(("fi", "id", "sw"), marks=pytest.mark.slow, id="three"),
        pytest.param(("fi",), id="one"),
    ],
)
def test_too_few_answers_open_no_round(found: Found, here: tuple[str, ...]) -> None:
    """A floor of four: with three the log is cosigned, but no round is planned."""
    federation = found(**FLOOR)
    federation.wire.on("fr", Kind.HELLO, lost)
    for name in set(NAMES) - set(here):
        federation.wire.on(name, Kind.HELLO, lost if name == "fr" else _heard)
        federation.wire.on(name, Kind.HELLO, lost)
    federation.run()
    (closed,) = federation.closed()
    assert (closed.round_number, closed.included) == (1, NAMES)
    assert federation.aborted() == []


def test_a_round_after_another_takes_nine_exchanges_of_a_node(found: Found) -> None:
    federation = found(coordinator={"rounds": 3})
    federation.run()
    kinds = [e.request.kind for e in federation.wire.log if e.node == "fr"]
    offers = [at for at, kind in enumerate(kinds) if kind is Kind.ADVERTISE_KEYS]
    assert kinds[offers[1] : offers[2]] == [
        *(Kind.ADVERTISE_KEYS, Kind.SHARE_KEYS, Kind.COLLECT_MASKED_INPUTS),
        *(Kind.CHECK_CONSISTENCY, Kind.UNMASK),
        *(Kind.COSIGN, Kind.APPLY_RESULT, Kind.CHECK_CHUNK),
        Kind.COSIGN,  # of the next opening
    ]


def _heard(_name: str, request: Message, deliver: Deliver) -> Message:
    return deliver(request)


def test_a_run_without_enough_answers_ends_with_the_count(found: Found) -> None:
    federation = found(**FLOOR)
    federation.wire.on("fr", Kind.HELLO, _heard)  # it proves its name, and is silent
    federation.wire.on("fr", Kind.HELLO, lost, times=100)
    with refused(QuorumError, "nodes-too-few", match="^3 members .* 4;"):
        federation.run()
    assert federation.said(RoundOpened) == []


def test_an_abort_is_logged_with_its_reason(found: Found) -> None:
    federation = found()
    for name in ("fr", "id"):
        federation.wire.on(name, Kind.ADVERTISE_KEYS, lost)
    federation.run()
    assert [a.reason for a in federation.aborted()] == ["quorum_missing"]


def test_a_model_that_breaks_is_rejected_and_not_retried(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    given = federation.base.replica.digest
    honest, seen = LanguageModel.evaluate, list[float]()

    def evaluate(self: Any, texts: Any, **rest: Any) -> RatioScore:
        """Break on every model but the first that is scored, for members as well."""
        seen.append(sum(float(p.detach().sum()) for p in self.module.parameters()))
        if seen[-1] != seen[0]:
            return RatioScore(amounts=(math.nan,), sizes=(1,))
        return honest(self, texts, **rest)

    monkeypatch.setattr(LanguageModel, "evaluate", evaluate)
    federation.run()
    (closed,) = federation.closed()
    assert (closed.outcome, closed.reason) == ("rejected", "held_out_worse")
    assert closed.base_after == given
    assert set(closed.metrics) == {"mean_norm"}
    assert federation.aborted() == []
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_the_settings_name_the_origin_of_the_log(found: Found) -> None:
    federation = found()
    path = federation.coordinator / "coordinator.toml"
    change_settings(path, CoordinatorSettings, {"origin": "other.example/log"})
    said = "'other.example/log' .* 'simulated.example/log'"
    with refused(ConfigError, "log-origin-differs", match=said):
        federation.run()
    assert federation.wire.log == []


def test_a_folder_belongs_to_one_run(found: Found) -> None:
    federation = found()
    federation.run()
    path = federation.run_folder / "run.toml"
    change_settings(path, RunSettings, {"run_id": "second"})
    before, asked = federation.entries(), len(federation.wire.log)
    with refused(ConfigError, "run-differs", match=r"runs/run.*'second'") as caught:
        federation.run()
    assert "\n" not in str(caught.value)
    assert federation.entries() == before
    assert len(federation.wire.log) == asked


@pytest.mark.slow
def test_a_second_run_goes_on_with_the_log_in_a_folder_of_its_own(
    found: Found,
) -> None:
    federation = found()
    federation.run()
    federation.begin_another_run("second", rounds=2)
    for name in NAMES:
        federation.restart(name)  # with the base that was given
    unmasked = itertools.count(1)
    federation.run_until_killed(
        lambda _, m: m.kind is Kind.UNMASK and next(unmasked) > len(NAMES)
    )
    federation.run()
    rounds = [(c.run_id, c.round_number, c.outcome) for c in federation.closed()]
    second = [("second", number, "applied") for number in (1, 3)]
    assert rounds == [("run", 1, "applied"), *second]
    (aborted,) = federation.aborted()
    assert (aborted.run_id, aborted.round_number) == ("second", 2)
    said = tapestry("coordinator", "status", federation.coordinator)
    assert "second: 2 of 2 rounds closed" in said.stdout
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_a_second_run_waits_for_the_end_of_the_first_ones_round(found: Found) -> None:
    """Its own journal does not know whose sum may be known."""
    federation = found()
    federation.run_until_killed(lambda _, message: message.kind is Kind.UNMASK)
    first = federation.begin_another_run("second")
    before = federation.entries()
    with refused(ConfigError, "run-unfinished", match="round 1 of run 'run'"):
        federation.run()
    assert federation.entries() == before
    clear_outcome(first)
    federation.run()
    (aborted,) = federation.aborted()
    assert (aborted.run_id, aborted.survivors) == ("run", NAMES)


FULL: dict[str, Callable[[Path], object]] = {
    "evidence": lambda folder: (folder / EVIDENCE).write_text(""),
    "sums": lambda folder: (folder / "sums" / "round-00001.u32.new").mkdir(
        parents=True
    ),
    "uploads": lambda folder: (folder / "uploads").write_text(""),
}


@pytest.mark.parametrize("place", list(FULL))
def test_a_place_that_cannot_be_written_is_named(found: Found, place: str) -> None:
    federation = found()
    root = federation.coordinator if place == "evidence" else federation.run_folder
    FULL[place](root)
    with refused(ResourceError, "file-unwritable", match=rf"^[^\n]*{place}[^\n]*$"):
        federation.run()
    shutil.rmtree(root / place, ignore_errors=True)


MACHINES = {
    OSError(errno.ENOSPC, "No space left on device", "/data/x"): "/data/x: No space",
    OSError(errno.EIO, "Input/output error"): "Input/output error",
    sqlite3.OperationalError(
        "database or\ndisk is full"
    ): "database: database or disk is full",
}


@pytest.mark.parametrize("error", list(MACHINES), ids=repr)
def test_what_the_machine_refuses_is_one_line_and_incomplete(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(cli.app, "make_context", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["coordinator", "status", "x"])
    assert ended.value.code == ExitStatus.INCOMPLETE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tapestry: {MACHINES[error]}")


@pytest.mark.parametrize("threads", ["-1", "100000000000"])
def test_a_demo_on_no_number_of_threads_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], threads: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--threads", threads, "--out", str(tmp_path / "demo")])
    assert ended.value.code == ExitStatus.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tapestry: --threads {threads} is not a number from 0 to")
    assert not (tmp_path / "demo").exists()
