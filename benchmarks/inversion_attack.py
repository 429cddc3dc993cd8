"""The share of tokens that an attacker reads off an update, by what leaves a node.

    python benchmarks/inversion_attack.py [--json] [--repeats 12] [--multipliers 0.02
    0.3 1]

The attacker is a coordinator that follows the protocol and is curious. It knows
the base, the plan and the public factor, chose the plan that is worst for a node (one
step, one record in every batch, the first layer alone), is told how many distinct
tokens there are, and sees one vector. It ranks all 256 bytes by the first step of DAGER
(arXiv 2405.15586; ``tests/support/inversion.py``) in two ways, and the better one
counts. Records are codes of twelve characters, which no language model guesses.

raw     one update, or the sum of several: no secure aggregation, no noise
masked  one upload, to an observer without the masks
local   the opened sum, each node's noise at full scale (DP-SGD)
shared  the opened sum, noise in shares that add up; the claim counts t - n_C of them

Not measured: an attacker that has a record and asks whether it was used (the audit of
``benchmarks/privacy.py`` does), and one that watches many rounds. A result at chance
level is no proof.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tapestry.schema import Noise
from tapestry.vectors import FloatVector
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.model import LanguageModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.inversion import Federation, codes, recovered

COHORTS = (4, 10)
KINDS: tuple[Noise, ...] = ("local", "shared")

Figures = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackedVector:
    """One vector that the attacker gets, and the records that are in it."""

    name: str
    vector: FloatVector
    texts: Sequence[str]
    epsilon: float | None = None


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(1)
    figures = study(
        build_tiny(), repeats=arguments.repeats, multipliers=arguments.multipliers
    )
    if arguments.json:
        print(json.dumps(figures, indent=2))


def study(model: LanguageModel, *, repeats: int, multipliers: Sequence[str]) -> Figures:
    """Attack each kind of vector several times, with other records and noise."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    chances: dict[str, list[float]] = defaultdict(list)
    epsilons: dict[str, float | None] = {}
    for repeat in range(repeats):
        for seen in _vectors(model, multipliers, seed=repeat):
            shares, chance = recovered(model, seen.vector, seen.texts)
            found[seen.name].append(shares)
            chances[seen.name].append(chance)
            epsilons[seen.name] = seen.epsilon
    figures: Figures = {}
    for name, rows in found.items():
        columns = list(zip(*rows, strict=True))
        best = max(columns, key=statistics.fmean)
        figures |= _report(name, best, statistics.fmean(chances[name]), epsilons[name])
    return figures


def _report(
    name: str, shares: Sequence[float], chance: float, epsilon: float | None
) -> Figures:
    mean = statistics.fmean(shares)
    error = statistics.stdev(shares) / math.sqrt(len(shares))
    finite = epsilon if epsilon is not None and math.isfinite(epsilon) else None
    print(
        f"{name:16} {mean:6.1%} +- {error:.1%}, by chance {chance:.1%};"
        f" epsilon {'none' if finite is None else f'{finite:.2f}'}",
        file=sys.stderr,
    )
    return {
        f"{name}_share": mean,
        f"{name}_error": error,
        f"{name}_chance": chance,
        f"{name}_epsilon": finite,
    }


def _vectors(
    model: LanguageModel, multipliers: Sequence[str], *, seed: int
) -> Iterator[AttackedVector]:
    """Return each vector that is attacked once, over the same records."""
    texts = codes(np.random.default_rng(seed), max(COHORTS))
    bare = Federation(model=model, nodes=max(COHORTS), seed=seed)
    raw = _train(bare, texts)
    for count in (1, *COHORTS):
        total: FloatVector = np.stack(raw[:count]).sum(axis=0)
        yield AttackedVector(name=f"raw_{count}", vector=total, texts=texts[:count])
    yield AttackedVector(name="masked_1", vector=bare.masked(raw[0]), texts=texts[:1])
    trained: dict[str, list[FloatVector]] = {}
    for kind, multiplier, count in itertools.product(KINDS, multipliers, COHORTS):
        federation = replace(bare, nodes=count, noise=kind, noise_multiplier=multiplier)
        key = multiplier if kind == "local" else ""  # a shared step has no noise yet
        if key not in trained:
            trained[key] = _train(federation, texts)
        yield AttackedVector(
            name=f"{kind}_{count}_z{multiplier}",
            vector=federation.opened(trained[key][:count]),
            texts=texts[:count],
            epsilon=federation.epsilon,
        )


def _train(federation: Federation, texts: Sequence[str]) -> list[FloatVector]:
    return [federation.trained(text, place=i) for i, text in enumerate(texts, 1)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--multipliers", nargs="+", default=["0.02", "0.3", "1"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
