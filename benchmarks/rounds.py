"""What a federation costs beside the training: its start, and rounds without work.

    python benchmarks/rounds.py [--nodes 8] [--rounds 11] [--poll 0.5] [--restarts]
        [--json]

Each party is a process of its own in a folder of its own, over TLS on this machine: the
nodes, and ``tapestry coordinator run`` with its SuperLink. They are founded by the
functions of the commands, on the tiny base (400 thousand parameters). A round is empty
when its plan is the least there is: one step of DP-SGD on one expected record of eight
tokens, rank 1 on ``q_proj``. All else is whole: log, cosignatures, TSA-1 among all
nodes, gate, spot checks, receipts.

``start_s`` is from the start of ``coordinator run`` to the first opening, with all
nodes running before; ``cold_cpu_s`` the CPU seconds of all processes from their starts
to the first closed round, and ``import_cpu_s``, for comparison, what one process takes
to import torch, transformers and peft, in the median of three. From one opening to the
next, in the median: ``empty_round_s``, ``empty_round_cpu_s`` of all processes; in the
mean ``exchanges``, the receipts of a node.
``hello_s`` is from the start of one node, with the others idle, to its answer.

With ``--restarts`` nothing of that, but what a death costs, in the middle of a round,
in the median of three: from SIGKILL to the first cosignature that a node gives next,
which it is asked for when its hello was accepted. ``restart_s`` is of the service's
process; what it leaves behind is killed, and after the seconds of the unit in
``deploy/systemd`` it is started again, as systemd would. ``superlink_restart_s`` is of
the SuperLink alone, which the service starts again.
"""

import argparse
import ctypes
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from tapestry.software_digest import software_digest
from tapestry.workloads.language.base_models import open_base
from tapestry_coordinator.run_folders import PROGRESS, QUEUE, run_folder
from tapestry_coordinator.settings import Listen
from tapestry_coordinator.superlink.outcome import read_outcome
from tapestry_demo import local_federation, scenario
from tapestry_governance.events.federation_events import GivenBase

UNIT = Path(__file__).parent.parent / "deploy/systemd/tapestry-coordinator.service"
DEATHS = 3
WORK = Path(__file__).parent / "work" / "rounds"
RECORDS = 60
SECONDS = 600.0  # that anything may take
IDLE_SECONDS = 20.0
_SUBREAPER = 36  # prctl: processes whose parents end become children of this one
SCALE = replace(
    scenario.SCALES["tiny"],
    targets=("q_proj",),
    rank=1,
    steps=1,
    batch_size=1,
    sequence_length=8,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The moment at which a round was opened."""

    time: float
    cpu: float  # seconds of all processes until then
    receipts: Mapping[str, Counter[str]]  # of each node, by kind


@dataclass(slots=True)
class Parties:
    """The folders of all parties, and their processes."""

    place: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.place / "coordinator"

    @property
    def nodes(self) -> list[Path]:
        """The folders of the nodes."""
        return sorted((self.place / "nodes").iterdir())

    def start(self, folder: Path, role: str) -> None:
        """Start a party, as its operator would."""
        with self.log(folder.name).open("ab") as log:
            self.processes[folder.name] = subprocess.Popen(
                [sys.executable, "-m", "tapestry", role, "run", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, name: str) -> None:
        """Ask a party to end, and wait until it has."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(60)

    def log(self, name: str) -> Path:
        """Return where a party says what it does."""
        return self.place / f"{name}.log"

    def is_waiting(self, folder: Path) -> bool:
        """Return whether a node has said that it waits for the coordinator."""
        return "waiting for" in self.log(folder.name).read_text("utf-8")

    def wait(self, what: str, is_so: Callable[[], bool], *, step: float = 0.02) -> None:
        """Wait until something is so.

        Raises:
            SystemExit: A process ended, or it takes too long.
        """
        end = time.monotonic() + SECONDS
        while not is_so():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    sys.exit(f"{name} ended; see {self.log(name)}")
            if time.monotonic() > end:
                sys.exit(f"waited {SECONDS:.0f} s for {what}; see {self.place}")
            time.sleep(step)

    def events(self) -> list[dict[str, Any]]:
        """Read what the run said of its rounds."""
        path = run_folder(self.coordinator, scenario.RUN) / PROGRESS
        text = path.read_text("utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def count(self, stage: str) -> int:
        """Count the rounds that reached a stage."""
        said = (e for e in self.events() if "node" not in e)
        return sum(e.get("round_stage") == stage for e in said)

    @property
    def has_ended(self) -> bool:
        """Whether the run is over."""
        folder = run_folder(self.coordinator, scenario.RUN)
        return read_outcome(folder) is not None

    def receipts(self) -> dict[str, Counter[str]]:
        """Count what has left each node, by kind."""
        return {folder.name: receipts_of(folder) for folder in self.nodes}

    def opening(self) -> Opening:
        """Note the present as that of an opening."""
        return Opening(
            time=time.monotonic(), cpu=cpu_seconds(), receipts=self.receipts()
        )


def receipts_of(folder: Path) -> Counter[str]:
    """Count what has left a node, by kind, while it runs."""
    path = folder / "node.db"
    if not path.exists():
        return Counter()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        sql = "SELECT kind, count(*) FROM egress GROUP BY kind"
        try:
            return Counter(dict(database.execute(sql).fetchall()))
        except sqlite3.OperationalError:  # it has no tables yet
            return Counter()


def cpu_seconds() -> float:
    """Sum up the CPU seconds of all descendants, those that ended included."""
    me = psutil.Process()
    own = me.cpu_times()
    total = own.children_user + own.children_system
    for each in me.children(recursive=True):
        try:
            used = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return float(total)


def found(place: Path, *, nodes: int, rounds: int, poll: str) -> Parties:
    """Found a federation with a run that waits in the coordinator's queue."""
    shutil.rmtree(place, ignore_errors=True)
    public = place / "public"
    public.mkdir(parents=True)
    rows = [json.dumps({"text": f"line {n} on boats"}) for n in range(3)]
    (public / "de.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    members = [_member(place, f"node-{n:02d}") for n in range(1, nodes + 1)]
    manifest = open_base("tiny").given.manifest
    base = GivenBase(model=manifest.digest, parameters=manifest.parameters)
    plan = scenario.founding(replace(SCALE, rounds=rounds), members, base=base)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    transport = {
        "superlink": address,
        "root_certificates": "authority.pem",
        "auth_key": "keys/transport",
        "poll_seconds": poll,
    }
    listen = {"address": address, "listen": Listen(superlink=address)}
    run = {"rounds": rounds, "release_every": rounds, "adapters": False}
    local_federation.found(
        place,
        replace(
            plan,
            coordinator=plan.coordinator.model_copy(update=listen),
            run=plan.run.model_copy(update=run),
            policy=plan.policy.model_copy(update={"max_accounts": rounds + 4}),
            institutions=[
                replace(each, settings={**each.settings, "transport": transport})
                for each in plan.institutions
            ],
        ),
    )
    site = Parties(place)
    begun = run_folder(site.coordinator, scenario.RUN)
    shutil.copytree(public, begun / "held-out")
    queue = site.coordinator / QUEUE
    queue.mkdir()
    begun.rename(queue / scenario.RUN)
    return site


def _member(place: Path, name: str) -> scenario.DemoMember:
    data = place / "data" / name
    data.mkdir(parents=True)
    rows = [json.dumps({"text": f"record {n} of {name}"}) for n in range(RECORDS)]
    (data / "a.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    manifest = 'language = "de"\nlicence = "CC0-1.0"\nunit = "record"\n'
    (data / "corpus.toml").write_text(manifest, "utf-8")
    return scenario.DemoMember(name=name, country=name, data=data, records=RECORDS)


@contextmanager
def running(site: Parties) -> Iterator[Parties]:
    """Stop all that was started when the block ends."""
    try:
        yield site
    finally:
        for name in list(site.processes):
            site.stop(name)


def measure(site: Parties, *, rounds: int) -> dict[str, Any]:
    """Measure a start, the rounds of the run, idle time, and a node's own start."""
    before = cpu_seconds()
    for folder in site.nodes:
        site.start(folder, "node")
    site.wait("the nodes", lambda: all(map(site.is_waiting, site.nodes)))
    nodes_cpu, started = cpu_seconds() - before, time.monotonic()
    site.start(site.coordinator, "coordinator")
    openings: list[Opening] = []
    closed_cpu, seen = 0.0, 0

    def look() -> bool:
        nonlocal closed_cpu, seen
        if (size := _size(site)) == seen:
            return False
        seen = size
        if site.count("open") > len(openings):
            openings.append(site.opening())
        if not closed_cpu and site.count("close"):
            closed_cpu = cpu_seconds() - before
        return site.has_ended

    site.wait("the rounds", lambda: look() or site.has_ended)
    figures = {
        "import_cpu_s": _import_seconds(),
        "start_s": openings[0].time - started,
        "nodes_start_cpu_s": nodes_cpu,
        "cold_cpu_s": closed_cpu,
        **_between(openings),
        **_idle(),
        **_hello(site),
    }
    if len(openings) != rounds:
        sys.exit(f"{len(openings)} rounds were opened, {rounds} planned")
    return figures


def _import_seconds() -> float:
    """Measure the CPU seconds of a process that imports what each node imports."""
    found = []
    for _ in range(3):
        before = cpu_seconds()
        code = "import torch, transformers, peft"
        subprocess.run([sys.executable, "-c", code], check=True)
        found.append(cpu_seconds() - before)
    return statistics.median(found)


def _size(site: Parties) -> int:
    path = run_folder(site.coordinator, scenario.RUN) / PROGRESS
    return path.stat().st_size if path.exists() else 0


def _between(openings: list[Opening]) -> dict[str, Any]:
    """Reduce openings to the medians of what lies between two of them."""
    pairs = list(itertools.pairwise(openings))
    kinds: Counter[str] = Counter()
    for name, last in openings[-1].receipts.items():
        kinds += last - openings[0].receipts[name]
    cycles = len(pairs) * len(openings[0].receipts)
    seconds = sorted(b.time - a.time for a, b in pairs)
    return {
        "empty_round_s": statistics.median(seconds),
        "empty_round_s_range": [seconds[0], seconds[-1]],
        "empty_round_cpu_s": statistics.median(b.cpu - a.cpu for a, b in pairs),
        "exchanges": kinds.total() / cycles,
        "exchanges_by_kind": {k: n / cycles for k, n in sorted(kinds.items())},
    }


def _idle() -> dict[str, float]:
    """Measure the CPU share of all processes while nothing is to do."""
    time.sleep(IDLE_SECONDS / 4)
    before = cpu_seconds()
    time.sleep(IDLE_SECONDS)
    return {"idle_cpu_share": (cpu_seconds() - before) / IDLE_SECONDS}


def _hello(site: Parties) -> dict[str, Any]:
    """Start one node while the others are idle; wait until it has answered."""
    folder = site.nodes[0]
    site.stop(folder.name)
    said = receipts_of(folder)["identity"]
    started = time.monotonic()
    site.start(folder, "node")
    site.wait("a hello", lambda: receipts_of(folder)["identity"] > said)
    seconds = time.monotonic() - started
    maps = Path(f"/proc/{site.processes[folder.name].pid}/maps").read_text("utf-8")
    return {"hello_s": seconds, "hello_without_torch": "libtorch" not in maps}


def measure_restarts(site: Parties) -> dict[str, Any]:
    """Kill the service and its SuperLink by turns, each in the middle of a round."""
    pause = re.search(r"^RestartSec=(\d+)$", UNIT.read_text("utf-8"), re.MULTILINE)
    if pause is None:
        sys.exit(f"{UNIT} has no RestartSec")
    for folder in [*site.nodes, site.coordinator]:
        role = "coordinator" if folder == site.coordinator else "node"
        site.start(folder, role)
    seconds: dict[str, list[float]] = {"restart_s": [], "superlink_restart_s": []}
    for _ in range(DEATHS):
        began = _in_mid_round(site)
        _kill_service(site)
        time.sleep(int(pause[1]))
        site.start(site.coordinator, "coordinator")
        seconds["restart_s"].append(_until_served(site, began))
        began = _in_mid_round(site)
        _superlink(site).kill()
        seconds["superlink_restart_s"].append(_until_served(site, began))
    found: dict[str, Any] = {k: statistics.median(v) for k, v in seconds.items()}
    ranges = {f"{k}_range": [min(v), max(v)] for k, v in seconds.items()}
    return found | ranges | {"restart_pause_s": int(pause[1])}


def _in_mid_round(site: Parties) -> float:
    """Wait for the next round's uploads, after one that was closed; return the time."""
    closed = site.count("close")
    site.wait("a round", lambda: site.count("close") > closed)
    site.wait("uploads", lambda: _stage(site) == "collect_masked_inputs", step=0.005)
    return time.monotonic()


def _stage(site: Parties) -> str:
    said = [e["round_stage"] for e in site.events() if "round_stage" in e]
    return str(said[-1]) if said else ""


def _kill_service(site: Parties) -> None:
    """Kill the service's process, and what it leaves behind, as systemd does."""
    process = site.processes.pop(site.coordinator.name)
    left = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(left, timeout=60)


def _superlink(site: Parties) -> psutil.Process:
    leader = psutil.Process(site.processes[site.coordinator.name].pid)
    (found,) = (
        each
        for each in leader.children(recursive=True)
        if "flower-superlink" in " ".join(each.cmdline())
    )
    return found


def _until_served(site: Parties, began: float) -> float:
    """Wait for a cosignature beyond those so far; return the seconds since a death."""
    before = {n: c["cosignature"] for n, c in site.receipts().items()}

    def is_served() -> bool:
        now = site.receipts()
        return any(now[name]["cosignature"] > n for name, n in before.items())

    site.wait("a cosignature", is_served)
    return time.monotonic() - began


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--poll", default="0.5", help="poll_seconds of the nodes")
    parser.add_argument("--restarts", action="store_true", help="measure deaths alone")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    software_digest()
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    site = found(
        WORK.absolute(),
        nodes=arguments.nodes,
        rounds=10 * DEATHS if arguments.restarts else arguments.rounds,
        poll=arguments.poll,
    )
    with running(site):
        load = os.getloadavg()[0]
        if arguments.restarts:
            figures = measure_restarts(site)
        else:
            figures = measure(site, rounds=arguments.rounds)
    figures |= {"nodes": arguments.nodes, "load_before": load}
    for name, value in figures.items():
        print(f"{name}: {value}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(figures, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
