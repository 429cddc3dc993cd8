"""What a snapshot of the base costs a node after each round, and what it saves.

    python benchmarks/restart_cost.py [--json] [--base smollm2] [--folder DIR]

For low-rank updates of q and v and for updates of all parameters, with a momentum: the
least seconds of five to write and to read it, the most memory that each takes beyond
the base, and the megabytes of the file. The folder lies on the disk that is measured.
"""

import argparse
import json
import shutil
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tapestry.model.outer_optimizer import OuterState
from tapestry.model.replica import Replica
from tapestry.tensor_types import widen
from tapestry.workloads.language.base_models import open_base
from tapestry_node.round.base_snapshots import BaseSnapshots

KINDS = {"low rank": ("q_proj", "v_proj"), "all": ("",)}


def moved(given: Replica, words: tuple[str, ...]) -> Replica:
    """Take a step with momentum on the tensors whose names hold one of the words."""
    tensors = {
        name: widen(tensor) + np.float32(2**-10)
        for name, tensor in given.parameters.items()
        if any(word in name for word in words)
    }
    momentum = {name: tensor * np.float32(0.5) for name, tensor in tensors.items()}
    return given.moved(
        {**given.parameters, **tensors},
        known={},
        optimizer=OuterState(step=1, first=momentum),
    )


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a call and the megabytes that it took at its peak."""
    tracemalloc.start()
    started = time.perf_counter()
    act()
    seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds, peak / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/work/bases"))
    arguments = parser.parse_args()
    given = Replica.start(open_base(arguments.base).given)
    snapshots = BaseSnapshots(directory=arguments.folder, given=given)
    figures: dict[str, float] = {}
    for kind, words in KINDS.items():
        after = moved(given, words)
        closed: Any = SimpleNamespace(
            round_number=1,
            base_after=after.digest,
            release_digest=after.release_digest,
            outer_digest=after.optimizer.digest,
        )
        writes = [timed(partial(snapshots.keep, i, after)) for i in range(1, 6)]
        reads = [timed(partial(snapshots.read, 5, closed)) for _ in range(5)]
        for verb, times in (("write", writes), ("read", reads)):
            figures[f"{kind}: {verb}_s"] = min(seconds for seconds, _ in times)
            figures[f"{kind}: {verb}_peak_mb"] = max(peak for _, peak in times)
        figures[f"{kind}: file_mb"] = snapshots.path(5).stat().st_size / 1e6
        shutil.rmtree(arguments.folder)
    for name, value in figures.items():
        print(f"{name}: {value:.4g}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(figures, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
