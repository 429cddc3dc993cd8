"""What it costs to audit a long log, to serve a request under one, and to append.

    PYTHONPATH=. python benchmarks/audit.py [--json] [--only PART...] [--entries N]

``audit`` and ``accounts`` are CPU seconds of ``tapestry audit verify``, in a process of
their own, beside as many bare Ed25519 verifications by the same library in the same
process; ``offer`` and ``append`` are wall clock.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tapestry.encoding import digest
from tapestry.storage import durable_files
from tapestry.tlog import tiles
from tapestry_governance.audit.bundle import write_bundle
from tapestry_governance.audit.verify import AuditVerdict, verify
from tapestry_governance.log.writer import Log
from tests.support.log_world import NAMES, World
from tests.support.long_logs import LongLog, Parties

Figures = dict[str, float]
ENTRIES = 100_000
ACCOUNTS_BASE = 10_000  # entries that the accounts of one member are added to
TURNS = 20  # at which a witness gets another key
SIZES = {"1k": 1_000, "30k": 30_000}
REPEATS = 9
_MEMORY = Path("/dev/shm")  # noqa: S108 - a file system without a disk


def say(text: str) -> None:
    print(text, file=sys.stderr)


def plain_world() -> tuple[LongLog, World]:
    """Return an empty long log with the keys and the plan of the tests' federation."""
    world = World(rules={"max_accounts": ENTRIES}).adopt()
    parties = Parties(
        federation="tapestry",
        log=world.log_key,
        coordinator=world.coordinator_key,
        members={
            name: {
                purpose: world.keys[name, purpose]
                for purpose in ("root", "node", "community", "witness")
            }
            for name in NAMES
        },
    )
    template = world.manifest()
    privacy = template.privacy.model_copy(update={"noise_multiplier": "100"})
    template = template.model_copy(update={"privacy": privacy})
    log = LongLog(world.entries, parties, template=template)
    log.declare(1000)
    return log, world


def grow_with_turns(
    log: LongLog, world: World, entries: int, turns: int
) -> dict[int, bytes]:
    """Grow a log in which a witness gets another key at each turn.

    Returns:
        The cosigned checkpoint after each turn, by size.
    """
    notes = {}
    for number in range(turns):
        log.grow(entries * (number + 1) // (turns + 1), cohort=NAMES)
        name = NAMES[number % len(NAMES)]
        body = world.rotation(name, "witness", seed=str(number))
        log.rotate_witness(name, body, world.keys[name, "witness'"])
        log.add_round(NAMES)
        notes[len(log.entries)] = log.note()
    log.grow(entries, cohort=NAMES)
    return notes


def write(folder: Path, log: LongLog, world: World, turns: Mapping[int, bytes]) -> None:
    """Write a bundle of a log."""
    public = folder.with_name(f"{folder.name}-public")
    tiles.write(public, log.entries)
    durable_files.replace_file(public / "checkpoint", log.note())
    for size, note in turns.items():
        durable_files.replace_file(public / "turns" / str(size), note)
    write_bundle(
        folder,
        public=public,
        trust=world.trust.encode(),
        genesis=digest(log.entries[0]),
        artifacts={},
    )


def _build(folder: str, entries: int, accounts: int, turns: int) -> None:
    log, world = plain_world()
    notes = grow_with_turns(log, world, entries - accounts, turns)
    log.add_adapter_accounts(NAMES[0], accounts)
    write(Path(folder), log, world, notes)


def _measure(folder: str, result: "multiprocessing.Queue[Figures]") -> None:
    count = int(Path(folder, "checkpoint").read_text().splitlines()[1])
    bare = _bare(count // 2)
    start = time.process_time()
    trust = (Path(folder) / "trust-policy.txt").read_bytes()
    audit = verify(Path(folder), trust=trust)
    seconds = time.process_time() - start
    if audit.verdict is not AuditVerdict.HOLDS:
        raise RuntimeError(f"the audit ends: {audit.steps[-1]}")
    peak = _peak()
    bare += _bare(count - count // 2)
    result.put(
        {"entries": count, "audit_s": seconds, "ed25519_s": bare, "peak_mb": peak}
    )


def _bare(count: int) -> float:
    """Time verifications with one key over messages as long as an event."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    message = bytes(800)
    signature = private.sign(message)
    start = time.process_time()
    for _ in range(count):
        public.verify(signature, message)
    return time.process_time() - start


def _peak() -> float:
    """Read the peak of this process's resident memory (Linux), in megabytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no VmHWM")


def _apart(work: Callable[..., None], *arguments: Any) -> None:
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"{work.__name__} failed")


def build_bundle(
    place: Path, *, entries: int, accounts: int = 0, turns: int = 0
) -> Path:
    """Build a bundle in a process of its own."""
    folder = place / f"bundle-{entries}-{accounts}"
    _apart(_build, str(folder), entries, accounts, turns)
    return folder


def measure_bundle(folder: Path) -> Figures:
    """Audit a bundle in a process of its own."""
    queue: multiprocessing.Queue[Figures] = multiprocessing.get_context("spawn").Queue()
    _apart(_measure, str(folder), queue)
    return queue.get()


def audit(place: Path, entries: int) -> Figures:
    """Audit a log of so many entries and 20 turns, and verify as many signatures."""
    found = measure_bundle(build_bundle(place, entries=entries, turns=TURNS))
    label = f"{entries // 1000}k"
    return {
        f"audit_{label}_s": found["audit_s"],
        f"ed25519_{label}_s": found["ed25519_s"],
        "audit_over_ed25519": found["audit_s"] / found["ed25519_s"],
        f"audit_{label}_peak_mb": found["peak_mb"],
    }


def accounts(place: Path, _: int) -> Figures:
    """Add accounts of adapters of one member, each with its own noise and rate.

    The logs are audited in turn, ``REPEATS`` times. A processor that others share is
    at times half as fast, so each time is divided by that of the bare verifications in
    its own process, and of these ratios the smallest counts.
    """
    sizes = (0, 300, 600)
    folders = {
        count: build_bundle(place, entries=ACCOUNTS_BASE + count, accounts=count)
        for count in sizes
    }
    rounds = [
        {count: measure_bundle(folders[count]) for count in sizes}
        for _ in range(REPEATS)
    ]
    for each in rounds:
        say("  ".join(f"{count}: {each[count]['audit_s']:.3f} s" for count in sizes))
    cost = {
        count: min(each[count]["audit_s"] / each[count]["ed25519_s"] for each in rounds)
        * (ACCOUNTS_BASE + count)
        for count in sizes
    }
    plain = cost[0] / ACCOUNTS_BASE
    return {
        **{
            f"accounts_{count}_s": min(each[count]["audit_s"] for each in rounds)
            for count in sizes
        },
        "accounts_300_per_entry": cost[300] / (ACCOUNTS_BASE + 300) / plain,
        "accounts_600_over_300": (cost[600] - cost[0]) / (cost[300] - cost[0]),
    }


def append(place: Path, _: int) -> Figures:
    """Append entries to a log, one a commit: on the disk, and in memory.

    An append returns when its entry is on the disk, so it is no faster than the disk
    waits (``disk_syncs_per_s``). In memory (tmpfs) nothing waits; that is the program.
    """
    log, world = plain_world()
    log.grow(3000, cohort=NAMES)
    figures = {
        "append_per_s": _append(place / "log", log, world),
        "disk_syncs_per_s": _sync(place / "sync"),
    }
    if _MEMORY.is_dir():
        with tempfile.TemporaryDirectory(dir=_MEMORY) as memory:
            rate = _append(Path(memory) / "log", log, world)
            figures["append_in_memory_per_s"] = rate
    return figures


def _append(folder: Path, log: LongLog, world: World) -> float:
    with closing(Log.create(folder, key=world.log_key)) as writer:
        writer.append(log.entries[:1000])
        start = time.perf_counter()
        for entry in log.entries[1000:]:
            writer.append([entry])
        return (len(log.entries) - 1000) / (time.perf_counter() - start)


def _sync(path: Path) -> float:
    """Append a page to a file and wait for the disk, as a commit must."""
    count = 500
    start = time.perf_counter()
    for _ in range(count):
        durable_files.append_file(path, bytes(4096))
    return count / (time.perf_counter() - start)


def offer(place: Path, _: int) -> Figures:
    """Let a node cosign and answer an offer, below logs of several lengths."""
    # Torch is loaded here only: the memory of an audit is measured in this program.
    from tests.support.node_under_log import NodeUnderLog, tiny_base

    base = tiny_base()
    figures: Figures = {}
    seats = {
        label: NodeUnderLog(place / label, base, size=size)
        for label, size in SIZES.items()
    }
    times: dict[str, list[tuple[float, float]]] = {label: [] for label in seats}
    for _ in range(REPEATS):
        for label, seat in seats.items():
            cosign, offer = seat.serve()
            times[label].append((cosign * 1000, offer * 1000))
    for label, seat in seats.items():
        cosigns, offers = zip(*times[label], strict=True)
        figures[f"cosign_ms_{label}"] = statistics.median(cosigns)
        figures[f"offer_ms_{label}"] = statistics.median(offers)
        seat.close()
    figures["offer_30k_over_1k"] = figures["offer_ms_30k"] / figures["offer_ms_1k"]
    figures["cosign_30k_over_1k"] = figures["cosign_ms_30k"] / figures["cosign_ms_1k"]
    return figures


PARTS = {"audit": audit, "accounts": accounts, "offer": offer, "append": append}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="figures on stdout")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--entries", type=int, default=ENTRIES)
    arguments = parser.parse_args()
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="audit-") as place:
        for name in arguments.only:
            found = PARTS[name](Path(place), arguments.entries)
            for label, figure in found.items():
                say(f"{label:32} {figure:12.4f}")
            figures |= found
    if arguments.json:
        print(json.dumps({k: round(v, 6) for k, v in figures.items()}, indent=1))


if __name__ == "__main__":
    main()
