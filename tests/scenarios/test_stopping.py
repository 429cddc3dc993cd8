"""A demo that is stopped, at any moment: nothing outlives it, and it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tapestry_coordinator.superlink import process_tree
from tapestry_demo.shell_command import program
from tapestry_governance.audit.verify import AuditVerdict, verify

pytestmark = pytest.mark.slow

COUNTRIES = {"italy", "spain", "brazil", "netherlands"}
_SECONDS = 540.0
Stop = tuple[str, signal.Signals]  # after a line with these words


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in; its name has to be quoted."""
    place = tmp_path / "a place"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("TAPESTRY_CACHE", str(tmp_path / "cache"))
    return place


def _start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tapestry", "demo", "--threads", "1", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _until(demo: subprocess.Popen[str], words: str) -> str:
    """Read what a demo says until it says these words."""
    assert demo.stdout is not None
    said = ""
    for line in demo.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it never said {words!r}: {said}")


def _interrupt(demo: subprocess.Popen[str], words: str, number: signal.Signals) -> str:
    """Send a signal after some words; the demo ends, and so does all it started."""
    with demo:
        try:
            said = _until(demo, words)
            started = psutil.Process(demo.pid).children(recursive=True)
            assert bool(list(_survivors())) == ("flower" in str(demo.args))
            demo.send_signal(number)
            rest, _ = demo.communicate(timeout=300)
        finally:
            demo.kill()
    assert demo.returncode == 130, said + rest
    assert "Traceback" not in rest
    assert not [process for process in started if _runs(process)]
    assert list(_survivors()) == []
    return rest


def _runs(process: psutil.Process) -> bool:
    """Tell whether it has not ended; in a container nobody may collect its status."""
    try:
        ended = process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    return process.is_running() and not ended


def _survivors() -> Iterator[list[str]]:
    """Everything that a demo of this test has started and that still runs."""
    ours = os.environ["TAPESTRY_CACHE"]  # of this test alone; children inherit it
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            is_ours = environment.get("TAPESTRY_CACHE") == ours
            if is_ours and process_tree.VARIABLE in environment:
                yield process.cmdline()
        except psutil.Error:
            continue


def _tell(out: Path, stops: Sequence[Stop], *options: str) -> None:
    """Begin a demo, stop it again and again, each time go on, and let it end."""
    demo = _start("--base", "tiny", *options)
    for words, number in stops:
        rest = _interrupt(demo, words, number)
        assert f"go on with: {program()} demo --out {out} --resume" in rest
        demo = _start("--out", str(out), "--resume")
    said, _ = demo.communicate(timeout=_SECONDS)
    assert demo.returncode == 0, said
    assert list(_survivors()) == []
    audit = verify(out / "bundle")
    assert audit.verdict is AuditVerdict.HOLDS
    said = "; ".join(audit.unchecked)  # the weights of releases lie beside the bundle
    assert ("sum" in said, "not here" in said) == (False, True)
    report = json.loads((out / "report.json").read_text())
    assert set(report["epsilon"]) == COUNTRIES
    assert all(seconds > 0 for seconds in report["seconds"].values())
    applied = [row for row in report["rounds"] if row["outcome"] == "applied"]
    assert len(applied) == 2
    assert {path.name for path in (out / "adapters").iterdir()} == COUNTRIES
    for line in (li for li in said.splitlines() if "audit verify" in li):
        check = ["sh", "-c", line.removeprefix("check it")]
        assert subprocess.run(check, check=False, capture_output=True).returncode == 0


@pytest.mark.usefixtures("place")
def test_a_demo_in_one_process_goes_on_wherever_it_was_stopped() -> None:
    out = Path("demo")
    _tell(
        out,
        [
            ("text of ", signal.SIGINT),
            (": collect masked inputs", signal.SIGTERM),
            ("adapter: ", signal.SIGINT),
            ("evaluate: ", signal.SIGHUP),
        ],
    )
    again = _start("--resume", "--out", str(out))
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0
    assert "demo is finished; there is nothing left to do" in said
    view = json.loads((out / "report.json").read_text())["coordinator_view"]
    assert any("uploads seen from the coordinator's place" in r["detail"] for r in view)


@pytest.mark.usefixtures("place")
def test_a_demo_over_flower_goes_on_wherever_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through proxies that lead nowhere, too: nothing here leaves the machine."""
    for name in ("http_proxy", "HTTPS_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    _tell(
        Path("demo"),
        [(": collect masked inputs", signal.SIGINT)],
        *("--engine", "flower"),
    )


def test_an_engine_that_is_stopped_while_it_starts_leaves_no_process(
    place: Path,
) -> None:
    demo = _start("--base", "tiny", "--engine", "flower")
    out = place / "demo"
    try:
        end = time.monotonic() + _SECONDS
        while not (out / "coordinator" / "superlink" / "superlink.log").exists():
            assert time.monotonic() < end
            assert demo.poll() is None
            time.sleep(0.05)
        demo.send_signal(signal.SIGTERM)
        said, _ = demo.communicate(timeout=300)
    finally:
        demo.kill()
    assert demo.returncode == 130
    assert "stopping: ending " in said
    assert list(_survivors()) == []
    assert [path.name for path in place.iterdir()] == ["demo"]
