"""A federation that was founded by commands is led by one: runs, restarts, an end.

Each party is a process of its own, in a folder of its own, over TLS.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tapestry.settings import Settings
from tapestry_coordinator.settings import CoordinatorSettings, RunSettings
from tapestry_governance.founding import fingerprint
from tapestry_governance.founding_files import (
    MAX_CHARTER_BYTES,
    CharterFile,
    open_charter,
    read_document,
)
from tapestry_node.settings import NodeSettings
from tests.node.test_node_metrics import values
from tests.support.commands import tapestry
from tests.support.ports import free_port
from tests.support.process_families import lives
from tests.support.settings_files import change_settings
from tests.tapestry.test_metrics_page import get

NAMES = ("nordland", "ostrava", "sueden")
ROWS = 60
SECONDS = 300.0
OFFLINE_SECONDS = 45.0  # more than two heartbeats of 20 seconds
PLAN = ("--batch-size", "8", "--target", "q_proj", "--rounds", "2")

pytestmark = pytest.mark.slow


@dataclass(slots=True)
class Site:
    """The folders of all parties, and the processes that were started for them."""

    place: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def coordinator(self) -> Path:
        return self.place / "rivers"

    def start(self, name: str, *words: str) -> None:
        """Start a party, as its operator would."""
        log = (self.place / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", "tapestry", *words, str(self.place / name)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        log.close()

    def lead(self) -> None:
        self.start("rivers", "coordinator", "run")

    def stop(self, name: str) -> int:
        """Ask a party to end, and return its status."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(SECONDS)

    def kill_and_start(self, name: str, stage: str, *, away: float = 0) -> None:
        """Kill a member when the state after a stage is all that it has left."""
        process, folder = self.processes[name], self.place / name / "session"
        end = time.monotonic() + SECONDS
        while {p.name for p in folder.glob("*")} - {"upload"} != {stage}:
            assert process.poll() is None
            assert time.monotonic() < end, (self.place / "rivers.log").read_text()
            time.sleep(0.005)
        process.kill()
        process.wait()
        time.sleep(away)
        self.start(name, "node", "run")

    def status(self) -> dict[str, Any]:
        said = tapestry("coordinator", "status", self.coordinator, "--json")
        assert said.exit_code == 0, said.stderr
        found: dict[str, Any] = json.loads(said.stdout)
        return found

    def closed(self, run_id: str) -> int:
        """Count the closed rounds of a run."""
        for run in self.status()["runs"]:
            if run["run"] == run_id:
                return sum(each["status"] == "closed" for each in run["rounds"])
        return 0

    def ended(self, run_id: str) -> bool:
        return any(r["run"] == run_id and r["end"] for r in self.status()["runs"])

    def is_cosigned(self) -> bool:
        """Whether every member that runs has cosigned all that the log has."""
        found = self.status()
        by_all = len(found["cosigners"]) >= len(self.processes.keys() - {"rivers"})
        return by_all and found["cosigned"] == found["entries"]

    def wait(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not is_so():
            for name, process in self.processes.items():
                log = self.place / f"{name}.log"
                assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, (self.place / "rivers.log").read_text()
            time.sleep(0.3)

    def approve(self, release: str) -> None:
        """Let members vote, each by its own key, while the service runs."""
        bundle, votes = self.place / "bundle", [self.place / f"{n}.vote" for n in NAMES]
        run("coordinator", "bundle", self.coordinator, "-o", bundle)
        phrase = self.place / "secrets" / "passphrase"
        for name, vote in zip(NAMES, votes, strict=True):
            key = self.place / name / "keys" / "root.key"
            run(
                *("governance", "vote", release, "yes", "--bundle", bundle),
                *("--key", key, "--passphrase-file", phrase, "-o", vote),
            )
        run("coordinator", "submit", self.coordinator, *votes)
        # What was decided holds once a checkpoint shows it.
        self.wait(lambda: not self.status()["votes"] and self.is_cosigned())

    def plan(self, run_id: str, *more: str) -> None:
        words = ("--held-out", str(self.place / "public"), "--epsilon", "1")
        options = ("--option", "sequence_length=32")
        done = tapestry(
            *("coordinator", "plan", self.coordinator, run_id),
            *(*PLAN, *words, *options, *more),
        )
        assert done.exit_code == 0, done.stderr


def run(*words: object) -> None:
    done = tapestry(*words)
    assert done.exit_code == 0, done.stderr


def found_by_commands(place: Path, names: Sequence[str] = NAMES) -> Site:
    """Found a federation of institutions on this machine."""
    secrets = place / "secrets"
    secrets.mkdir()
    phrase = secrets / "passphrase"
    phrase.write_text("correct horse battery staple\n")
    phrase.chmod(0o600)
    by_phrase = ("--passphrase-file", phrase)
    site = Site(place)
    public = place / "public"
    public.mkdir()
    text = [f'{{"text": "public line {n} on bridges and boats"}}' for n in range(6)]
    (public / "de.jsonl").write_text("\n".join(text) + "\n")
    address = f"localhost:{free_port()}"
    run(
        *("coordinator", "init", site.coordinator, "--federation", "rivers"),
        *("--address", address, "--base", "tiny", *by_phrase),
    )
    for name in names:
        data = place / f"records of {name}"
        data.mkdir()
        rows = [f'{{"text": "record {n} of {name} on water"}}' for n in range(ROWS)]
        (data / "a.jsonl").write_text("\n".join(rows) + "\n")
        run(
            *("node", "init", place / name, "--data", data, "--language", "de"),
            *("--invite", site.coordinator / "rivers.invite"),
            *("--licence", "CC0-1.0", *by_phrase),
        )
    requests = [place / name / f"{name}.request" for name in names]
    run("coordinator", "charter", site.coordinator, *requests)
    charter = site.coordinator / "rivers.charter"
    document = read_document(charter, CharterFile, limit=MAX_CHARTER_BYTES)
    heard = fingerprint(open_charter(document).genesis)
    for name in names:
        others = [word for o in names if o != name for word in ("--heard", o)]
        run(
            *("governance", "accept", charter, "--node", place / name),
            *("--fingerprint", heard, *others, *by_phrase),
        )
    acceptances = [place / name / f"{name}.acceptance" for name in names]
    run("coordinator", "open", site.coordinator, *acceptances)
    return site


def served(path: Path, model: type[Settings], table: str) -> str:
    """Let a party serve metrics; return the address."""
    address = f"127.0.0.1:{free_port()}"
    change_settings(path, model, {table: {"metrics": address}})
    return address


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = found_by_commands(tmp_path_factory.mktemp("site"))
    try:
        yield site
    finally:
        for name in list(site.processes):
            site.stop(name)


def superlinks(site: Site) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(site.processes["rivers"].pid).children(
        recursive=True
    ):
        with suppress(psutil.Error):  # it has just ended
            if "flower-superlink" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_two_runs_follow_one_another_on_one_log(site: Site) -> None:
    site.plan("run-1", "--base", "tiny")
    site.lead()
    for name in NAMES:
        site.start(name, "node", "run")
    site.wait(lambda: site.ended("run-1"))
    first = site.processes["rivers"]
    site.start("rivers", "coordinator", "run")
    second, site.processes["rivers"] = site.processes["rivers"], first
    assert second.wait(SECONDS) == 64
    assert "[folder-in-use]\n" in (site.place / "rivers.log").read_text()
    site.approve("base-1")
    site.plan("run-2")
    site.wait(lambda: site.ended("run-2"))
    assert [site.closed(run_id) for run_id in ("run-1", "run-2")] == [2, 2]
    plan = RunSettings.read(site.coordinator / "runs" / "run-2" / "run.toml")
    assert plan.base == str(site.coordinator / "releases" / "base-1")
    assert site.status()["waiting"] == []
    said = (site.place / "rivers.log").read_text()  # what the service printed
    for name in NAMES:  # by the process that Flower starts with no output of its own
        assert f"is node {name}" in said


def test_a_run_survives_the_death_of_the_superlink(site: Site) -> None:
    site.plan("run-3", "--rounds", "4")
    site.wait(lambda: site.closed("run-3") >= 1)
    (superlink,) = superlinks(site)
    superlink.kill()
    site.wait(lambda: site.ended("run-3"))
    assert site.closed("run-3") == 4


def test_a_service_that_is_stopped_goes_on_at_its_next_start(site: Site) -> None:
    site.plan("run-4", "--rounds", "4")
    site.wait(lambda: site.closed("run-4") >= 1)
    children = psutil.Process(site.processes["rivers"].pid).children(recursive=True)
    assert children
    assert site.stop("rivers") == 0
    assert not any(lives(process.pid) for process in children)
    site.lead()
    site.wait(lambda: site.ended("run-4"))
    assert site.closed("run-4") == 4


def test_a_member_that_is_stopped_and_started_takes_part_again(site: Site) -> None:
    assert site.stop("sueden") == 0
    site.start("sueden", "node", "run")
    site.plan("run-5")
    site.wait(lambda: site.ended("run-5"))
    rounds = site.status()["runs"][-1]["rounds"]
    assert rounds[-1]["included"] == sorted(NAMES)


def test_members_killed_within_a_round_are_in_its_sum(site: Site) -> None:
    """One while it trains, until the SuperLink takes it for offline; one after its
    upload, and that one is started again at once.
    """
    assert site.stop("rivers") == 0
    site.plan("run-6", "--rounds", "1")
    plan = site.coordinator / "queue" / "run-6" / "run.toml"
    plan.write_text(plan.read_text().replace("= 60\n", "= 600\n"))  # its deadlines
    site.lead()
    site.kill_and_start("sueden", "share_keys", away=OFFLINE_SECONDS)
    site.kill_and_start("ostrava", "collect_masked_inputs")
    site.wait(lambda: site.ended("run-6"))
    (round_,) = site.status()["runs"][-1]["rounds"]
    assert round_["included"] == sorted(NAMES)
    for name in NAMES:
        log = (site.place / f"{name}.log").read_text()
        assert "is left out" not in log


def test_an_auditor_verifies_all_runs_from_the_coordinators_bundle(
    site: Site, tmp_path: Path
) -> None:
    run("coordinator", "bundle", site.coordinator, "-o", tmp_path / "bundle")
    run("audit", "verify", tmp_path / "bundle")


def test_a_run_that_a_member_could_not_afford_is_not_queued(site: Site) -> None:
    done = tapestry(
        *("coordinator", "plan", site.coordinator, "run-9", *PLAN),
        *("--held-out", site.place / "public", "--epsilon", "7.9"),
        *("--option", "sequence_length=32"),
    )
    assert done.exit_code == 2
    assert "nordland, ostrava, sueden would have spent more" in done.stderr
    assert site.status()["waiting"] == []


def test_a_node_and_a_coordinator_serve_metrics_while_they_work(site: Site) -> None:
    for name in ("rivers", "sueden"):
        assert site.stop(name) == 0
    leads = served(site.coordinator / "coordinator.toml", CoordinatorSettings, "listen")
    serves = served(site.place / "sueden" / "node.toml", NodeSettings, "monitor")
    site.lead()
    site.start("sueden", "node", "run")
    site.plan("run-6-watched")
    site.wait(lambda: site.ended("run-6-watched"))
    site.wait(site.is_cosigned)
    led, own = (values(get(address)[2]) for address in (leads, serves))
    applied = led['tapestry_coordinator_rounds_total{outcome="applied"}']
    assert applied == sum(site.closed(each["run"]) for each in site.status()["runs"])
    assert led["tapestry_coordinator_cosignatures"] == len(NAMES)
    assert own["tapestry_node_budget_spent"] > 0
    assert own['tapestry_node_bytes_sent_total{kind="masked_input"}'] > 0


def put_back(site: Site, backup: Path) -> None:
    """Restore the coordinator; keys come from elsewhere."""
    lost = site.place / "lost"
    if not lost.exists():
        site.coordinator.rename(lost)
    shutil.rmtree(site.coordinator, ignore_errors=True)
    run("coordinator", "restore", backup, site.coordinator)
    shutil.copytree(lost / "keys", site.coordinator / "keys")
    shutil.copy(lost / "tls" / "superlink.key", site.coordinator / "tls")


def test_a_coordinator_goes_on_from_its_newest_backup_and_from_no_older(
    site: Site, tmp_path: Path
) -> None:
    """Both were taken while it worked, the older one in the midst of a run."""
    site.plan("run-7", "--rounds", "4")
    site.wait(lambda: site.closed("run-7") >= 1)
    older, newest = tmp_path / "older", tmp_path / "newest"
    run("coordinator", "backup", site.coordinator, "-o", older)
    run("node", "backup", site.place / "sueden", "-o", tmp_path / "sueden")
    site.wait(lambda: site.ended("run-7"))
    site.wait(site.is_cosigned)
    run("coordinator", "backup", site.coordinator, "-o", newest)
    assert site.stop("rivers") == 0
    put_back(site, older)
    site.lead()
    assert site.processes.pop("rivers").wait(SECONDS) != 0
    assert "[log-restored]" in (site.place / "rivers.log").read_text()
    put_back(site, newest)
    site.lead()
    site.plan("run-8")
    site.wait(lambda: site.ended("run-8"))
    assert site.closed("run-8") == 2
    run("node", "bundle", site.place / "sueden", "-o", tmp_path / "bundle")
    run("audit", "verify", tmp_path / "bundle")
