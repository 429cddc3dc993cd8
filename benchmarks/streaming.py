"""What private data that are larger than memory cost: memory, time, the first line.

    python benchmarks/streaming.py [--gigabytes 3] [--json]

A folder of JSON lines is written: rows of about a kilobyte of Italian words, three rows
an id. A process of its own reads it as a node does and takes a few private steps of the
tiny base (DP-SGD, rank 2 on ``q_proj``). The same is done with a folder of 10 MB.

``stream_extra_gb_3gb`` is the difference of the largest resident sizes of the two
processes, in GB. The page cache is no part of it. ``read_mb_per_s`` is per second of
reading, ``check_first_line_s`` from the start of ``tapestry node data check`` to its
first line on either stream, ``check_s`` until it ends.
"""

import argparse
import json
import resource
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tapestry_node.settings import NodeSettings
from tests.support import plans, settings_files

WORK = Path(__file__).parent / "work" / "streaming"
WORDS = ("perché", "domani", "il", "dottore", "vide", "la", "città", "e", "febbre")
ROW_WORDS = 180
SMALL = 0.01  # GB
STEPS, BATCH = 3, 8
MANIFEST = 'language = "it"\nlicence = "CC0-1.0"\nunit = "record"\n'
DELTA = "0.0000001"


def measure(gigabytes: float = 3.0) -> dict[str, Any]:
    """Write the folders, run a process on each, and remove them again."""
    shutil.rmtree(WORK, ignore_errors=True)
    try:
        small = _train(_folder("small", SMALL))
        large = _train(folder := _folder("large", gigabytes))
        first, whole = _check(folder)
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    return {
        "gigabytes": gigabytes,
        "records": large["records"],
        "stream_extra_gb_3gb": (large["peak"] - small["peak"]) / 1e9,
        "small_peak_gb": small["peak"] / 1e9,
        "read_s": large["read_s"],
        "read_cpu_s": large["read_cpu_s"],
        "read_mb_per_s": 1e3 * gigabytes / large["read_s"],
        "steps_s": large["steps_s"],
        "check_first_line_s": first,
        "check_s": whole,
    }


def _folder(name: str, gigabytes: float) -> Path:
    """Write rows of about a kilobyte until there are so many bytes."""
    data = WORK / name / "data"
    data.mkdir(parents=True)
    (data / "corpus.toml").write_text(MANIFEST)
    draw, number, written = np.random.default_rng(0), 0, 0
    with (data / "rows.jsonl").open("wb") as file:
        while written < gigabytes * 1e9:
            for place in draw.integers(len(WORDS), size=(1000, ROW_WORDS)):
                text = " ".join(WORDS[each] for each in place)
                row = {"id": f"person-{number // 3}", "text": f"{number} {text}"}
                line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
                written += file.write(line)
                number += 1
    known = {**settings_files.node_settings(plans.DIGEST), "name": "node"}
    known |= {"genesis": plans.DIGEST}
    known["policy"]["target_delta"] = DELTA
    settings_files.write_settings(data.parent / "node.toml", known, NodeSettings)
    return data.parent


def _train(folder: Path) -> dict[str, Any]:
    """Read and train in a process of its own; return what it says."""
    done = subprocess.run(
        [sys.executable, __file__, "--inside", str(folder)],
        check=True,
        stdout=subprocess.PIPE,
    )
    return dict(json.loads(done.stdout))


def _inside(folder: Path) -> dict[str, Any]:
    from tapestry.workloads.language.base_models import build_tiny
    from tapestry_node.data import records
    from tapestry_node.training import dp_sgd

    workload = build_tiny()
    began, cpu = time.perf_counter(), time.process_time()
    found = records.read(folder / "data", workload.reader, scratch=folder)
    read_s, cpu = time.perf_counter() - began, time.process_time() - cpu
    training = plans.training_plan(
        **plans.LOW_RANK, steps=STEPS, batch_size=BATCH, options={"sequence_length": 64}
    )
    began = time.perf_counter()
    dp_sgd.update(
        workload,
        workload.examples(found.records, training.options),
        training=training,
        privacy=plans.privacy_plan(target_delta=DELTA),
        records=len(found.records),
        runtime=dp_sgd.Runtime(),
    )
    return {
        "records": len(found.records),
        "read_s": read_s,
        "read_cpu_s": cpu,
        "steps_s": time.perf_counter() - began,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    }


def _check(folder: Path) -> tuple[float, float]:
    """Time the operator's command: its first line, and its end."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "tapestry", "node", "data", "check", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        if process.stdout is None:
            raise RuntimeError("no stream")
        select.select([process.stdout], [], [])
        first = time.perf_counter() - began
        said = process.stdout.read().decode()
    if process.returncode:
        raise RuntimeError(said)
    return first, time.perf_counter() - began


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside is not None:
        sys.stdout.write(json.dumps(_inside(asked.inside)))
        return
    found = measure(asked.gigabytes)
    if asked.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for name, value in found.items():
        sys.stdout.write(f"{name:<22}{value:.3f}\n")


if __name__ == "__main__":
    main()
