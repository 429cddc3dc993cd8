"""How far apart two neighbours come out: the largest that a search finds.

    python benchmarks/sensitivity.py [--json] [--neighbours 10000] [--only shared,local]

shared  the vector that a node masks, over the bound that the accountant pays for: sums
        around a node's bounds, and tables of numbers through the step; at most 1.
local   what a unit moves the parts of its batch mates by, over the clip norm: the drift
        of float32, of which ``tapestry.privacy.clipping`` has the measured figure.

Seeds come from the commit. Ten thousand neighbours take about half an hour on a core.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support import worst_neighbours
from tests.support.linear_regression import LinearRegression
from tests.support.worst_neighbours import JOINING, SEED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--neighbours", type=int, default=10_000)
    parser.add_argument("--only", default="shared,local")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # records that overflow
    count, wanted = arguments.neighbours, arguments.only.split(",")
    figures: dict[str, float] = {}
    if "shared" in wanted:
        model = LinearRegression()
        sums = worst_neighbours.worst_sums(
            worst_neighbours.shared_manifest(model, 6), trials=count, seed=SEED
        )
        tables = worst_neighbours.worst_tables(model, trials=count, seed=SEED)
        figures |= {"sums_over_bound": sums.ratio, "tables_over_bound": tables.ratio}
    if "local" in wanted:
        started = time.monotonic()
        found = worst_neighbours.worst_batches(trials=count // JOINING, seed=SEED)
        figures |= {"drift": found.ratio, "drift_s": time.monotonic() - started}
    for name, value in figures.items():
        print(f"{name}: {value:.6g}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(figures, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
