"""What federation costs, on real text: federated, central and alone; with DP, without.

    python benchmarks/debian_corpora.py CORPORA
    python benchmarks/federation.py CORPORA [--seeds 3] [--only full,dp] [--json]

Four institutions (de, fr, es, id) start from SmolLM2 and train one base, through the
product itself: founding, signed log, guard, TSA-1, outer step, gate, in one process.
Central training takes as many gradients of single examples from the pooled text, one
step after the other; alone, each institution takes its share of them on its own text.
``low_rank`` trains B only, ``full`` all parameters under DiLoCo's outer Nesterov;
``dp`` is low rank under DP-SGD (record level, add-remove), and the same plan without
noise; its central run takes the batches of all nodes in one, for the same epsilon.

Records are passages of up to 128 tokens; held-out ones come from chapters that are
held out in every language. Each finished run is a file below ``benchmarks/work``; runs
that are there are not repeated. A seed fixes which records are drawn, not how
updates are rounded. Runs without noise multiply in bfloat16 where the processor can
(``--exact``: float32 in any case); weights are always float32.
"""

import argparse
import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from federation_probe import Scores, UpdateProbe, seeded, sources, stepped_once, watched
from federation_recipes import LANGUAGES, LENGTH, RECIPES, ROUNDS, Recipe
from passages import prepare, read_lines, spread, write_lines
from torch import Tensor

from tapestry.encoding import encode_decimal
from tapestry.errors import TapestryError
from tapestry.evaluation.held_out import evaluate_all, scores_of
from tapestry.model.low_rank import expand
from tapestry.model.replica import Replica
from tapestry.workloads.base import Example
from tapestry.workloads.language.base_models import open_base
from tapestry.workloads.language.bfloat16 import multiplies_bfloat16
from tapestry.workloads.language.dialogue import Text
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry.workloads.ratio_score import RatioScore
from tapestry_coordinator import run as driver
from tapestry_coordinator.grid import LocalGrid
from tapestry_coordinator.run_folders import run_folder
from tapestry_demo import local_federation, scenario
from tapestry_governance.events.federation_events import GivenBase
from tapestry_node.data import records
from tapestry_node.node import Node
from tapestry_node.training import dp_sgd
from tapestry_node.training.dp_sgd import Runtime
from tapestry_node.training.microbatches import BatchLimits

HELD_OUT = 12  # passages of each language; as many others to choose rates by
GATE = 2  # of the latter, what the coordinator holds each round against
WORK = Path(__file__).parent / "work" / "federation"

Result = dict[str, Any]
ARMS = {
    "low_rank": ("federated", "central", "alone"),
    "full": ("federated", "central", "alone"),
    "dp": ("federated", "central", "plain-federated", "plain-central"),
}


class Coarse(LanguageWorkload):
    """Multiplies in bfloat16."""

    def losses(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """As of a language model, a little less exact."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().losses(sequences)

    def evaluate(
        self, texts: Sequence[Text], *, sequence_length: int, coarse: bool = True
    ) -> RatioScore:
        """As of a language model, likewise."""
        return super().evaluate(texts, sequence_length=sequence_length, coarse=coarse)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all runs share."""

    work: Path
    texts: Path
    exact: LanguageWorkload
    quick: LanguageWorkload
    given: Replica
    held_out: Mapping[str, list[str]]
    gate: Mapping[str, list[str]]
    rate: float | None  # instead of the recipe's, while rates are chosen

    def founding(self, recipe: Recipe) -> local_federation.Founding:
        """Plan a federation in which every institution holds its language."""
        return recipe.founding(
            folders={name: self.texts / name / "private" for name in LANGUAGES},
            fewest=min(len(self.units([name])) for name in LANGUAGES),
            base=GivenBase(
                model=self.given.digest,
                parameters=self.given.manifest.parameters,
            ),
        )

    def model(self, recipe: Recipe) -> LanguageWorkload:
        """Pick the model that the recipe may be run on."""
        return self.exact if recipe.epsilon else self.quick

    def scores(self, model: LanguageWorkload) -> Scores:
        """Bits per byte of each language under the loaded parameters."""
        evaluation = model.evaluation({"sequence_length": LENGTH})
        return scores_of(evaluate_all(evaluation, self.held_out))

    def units(self, languages: Sequence[str]) -> Sequence[Example]:
        """Encode the records of some institutions together."""
        reader = self.exact.reader
        found = [
            records.read(self.texts / each / "private", reader) for each in languages
        ]
        texts = [text for each in found for text in each.records]
        return self.exact.examples(texts, {"sequence_length": LENGTH})


def federated(bench: Bench, recipe: Recipe, label: str) -> Result:
    """Train over the product's own path and return what came of it."""
    out = bench.work / f"run {label}"
    shutil.rmtree(out, ignore_errors=True)
    model = bench.model(recipe)
    local_federation.found(out, bench.founding(recipe))
    folder = run_folder(out / "coordinator", scenario.RUN)
    gate = folder / "held-out"
    gate.mkdir()
    for language, texts in bench.gate.items():
        write_lines(gate / f"{language}.jsonl", texts)
    witness = UpdateProbe(folder=folder, nodes=len(LANGUAGES))
    nodes = [
        Node(folder, workload=model, replica=bench.given)
        for folder in sorted((out / "nodes").iterdir())
    ]
    with ExitStack() as stack:
        for context in (watched(witness), seeded(label)):
            stack.enter_context(context)
        bases = stack.enter_context(stepped_once())
        driver.main(
            out / "coordinator",
            LocalGrid({n.name: partial(n.handle, connection=n.name) for n in nodes}),
            workload=model,
            replica=bench.given,
            notify=witness.notify,
        )
    model.load(bases[-1].parameters)
    result = {
        "bits_per_byte": bench.scores(model),
        **_account(nodes, witness, length=model.layout(recipe.plan()).length),
    }
    for node in nodes:
        node.close()
    shutil.rmtree(out)
    return result


def _account(nodes: Sequence[Node], witness: UpdateProbe, *, length: int) -> Result:
    receipts = [receipt for node in nodes for receipt in node.store.receipts()]
    uploads = [receipt.bytes for receipt in receipts if receipt.kind == "masked_input"]
    rounds = len(witness.errors)
    spent = [node.ledger.balance().by_run.get(scenario.RUN) for node in nodes]
    return {
        "gate_by_round": witness.scores,
        "drawn": witness.drawn,
        "masking_error": max(witness.errors),
        "parameters": length,
        "bytes_up_per_parameter": sum(uploads) / len(uploads) / length,
        "bytes_up_in_all": sum(r.bytes for r in receipts) / len(nodes) / rounds,
        "epsilon": max((each for each in spent if each is not None), default=None),
    }


def sequential(
    bench: Bench, recipe: Recipe, label: str, *, languages: Sequence[str]
) -> Result:
    """Train on the pooled records of some institutions, without federation.

    As many example gradients as these institutions take together, in steps that
    follow each other, or with the batches of a step joined (``Recipe.joined``).
    """
    model, parts = bench.model(recipe), len(languages)
    units = bench.units(languages)
    plan = recipe.plan().model_copy(
        update={
            "steps": ROUNDS * recipe.steps * (1 if recipe.joined else parts),
            "batch_size": recipe.batch_size * (parts if recipe.joined else 1),
            "learning_rate": encode_decimal(recipe.central_rate),
        }
    )
    noise = recipe.noise(rate=plan.batch_size / len(units))
    model.load(bench.given.parameters)
    runtime = Runtime(source=next(sources(label)), limits=BatchLimits(rows=16))
    found = dp_sgd.update(
        model,
        units,
        training=plan,
        privacy=recipe.privacy(noise=noise),
        records=len(units),
        runtime=runtime,
    )
    given = bench.given.parameters
    change = expand(
        found.values, layout=model.layout(plan), plan=plan, parameters=given
    )
    model.load({**given, **{name: given[name] + step for name, step in change.items()}})
    return {"bits_per_byte": bench.scores(model), "drawn": found.fit.drawn}


def alone(bench: Bench, recipe: Recipe, label: str) -> Result:
    """Train each institution by itself, as centrally, and test it everywhere."""
    runs = {
        language: sequential(bench, recipe, f"{label} {language}", languages=[language])
        for language in LANGUAGES
    }
    others = [
        run["bits_per_byte"][other]
        for language, run in runs.items()
        for other in LANGUAGES
        if other != language
    ]
    return {
        "by_institution": {name: run["bits_per_byte"] for name, run in runs.items()},
        "on_others": statistics.mean(others),
        "drawn": sum(run["drawn"] for run in runs.values()),
    }


def measure(bench: Bench, family: str, arm: str, seed: int) -> Result:
    """Do a run, or read what it gave before."""
    label, recipe = f"{family} {arm} {seed}", RECIPES[family]
    if bench.rate is not None:
        label += f" at {bench.rate:g}"
        recipe = replace(recipe, rate=bench.rate, central_rate=bench.rate)
    path = bench.work / f"{label.replace(' ', '-')}.json"
    if path.exists():
        return dict(json.loads(path.read_text("utf-8")))
    say(label)
    wall, work = time.monotonic(), time.process_time()
    if arm.startswith("plain-"):
        recipe = replace(recipe, epsilon=None)
    match arm.removeprefix("plain-"):
        case "federated":
            result = federated(bench, recipe, label)
        case "central":
            result = sequential(bench, recipe, label, languages=LANGUAGES)
        case _:
            result = alone(bench, recipe, label)
    result["seconds"] = time.monotonic() - wall
    result["cpu_seconds"] = time.process_time() - work
    say(f"  {_short(result.get('bits_per_byte', {}))} {result['cpu_seconds']:.0f} s")
    path.write_text(json.dumps(result, indent=1), "utf-8")
    return result


def summarize(given: Scores, rows: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """Reduce runs to figures: means, standard errors over seeds, and paired ratios."""
    figures = {f"given/{name}": value for name, value in given.items()}
    figures["given"] = statistics.mean(given.values())
    for name, results in rows.items():
        scores = [r["bits_per_byte"] for r in results if "bits_per_byte" in r]
        for language in given if scores else ():
            figures |= _spread(f"{name}/{language}", [s[language] for s in scores])
        if scores:
            figures |= _spread(name, [statistics.mean(s.values()) for s in scores])
        for key in ("on_others", "masking_error", "bytes_up_per_parameter", "drawn"):
            values = [r[key] for r in results if r.get(key) is not None]
            if values:
                figures |= _spread(f"{name}/{key}", values)
    for family in ARMS:
        figures |= _compared(family, rows)
    return figures


def _compared(family: str, rows: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """Compare the federated runs with the others of their family, seed by seed."""
    figures: dict[str, float] = {}
    federated = rows.get(f"{family} federated", ())
    for arm in ARMS[family][1:]:
        pairs = list(zip(federated, rows.get(f"{family} {arm}", ()), strict=False))
        if pairs:
            ratios = [_level(mine) / _level(other) for mine, other in pairs]
            figures |= _spread(f"{family} federated/{arm}", ratios)
    return figures


def _level(result: Result) -> float:
    if "on_others" in result:
        return float(result["on_others"])
    return float(statistics.mean(result["bits_per_byte"].values()))


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    figures = {name: statistics.mean(values)}
    if len(values) > 1:
        figures[f"{name} se"] = statistics.stdev(values) / math.sqrt(len(values))
    return figures


def table(figures: Mapping[str, float], names: Sequence[str]) -> Iterator[str]:
    """Print bits per byte as a table in Markdown."""
    yield "| run | mean | " + " | ".join(LANGUAGES) + " | over given |"
    yield "|---|" + "---|" * (len(LANGUAGES) + 2)
    for name in ("given", *names):
        if name not in figures:
            continue
        cells = [_cell(figures, key) for key in (name, *_languages(name))]
        gain = 100 * (figures[name] / figures["given"] - 1)
        yield f"| {name} | " + " | ".join(cells) + f" | {gain:+.1f} % |"


def _languages(name: str) -> list[str]:
    return [f"{name}/{language}" for language in LANGUAGES]


def _cell(figures: Mapping[str, float], key: str) -> str:
    error = figures.get(f"{key} se")
    return f"{figures[key]:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def say(text: str) -> None:
    """Tell how far the work is."""
    print(text, file=sys.stderr, flush=True)


def _short(scores: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in scores.items())


def set_up(
    corpora: Path, *, base: str, exact: bool, rate: float | None = None
) -> Bench:
    """Open the base and cut the corpora into passages.

    Of the held-out passages every other one is for choosing rates, the rest for tests.
    """
    model = open_base(base)
    work = WORK / base
    work.mkdir(parents=True, exist_ok=True)
    texts = work / f"text-{LENGTH}"
    prepare(corpora, texts, tokenizer=model.tokenizer, length=LENGTH)
    passages = {
        name: spread(read_lines(texts / name / "held-out.jsonl"), 2 * HELD_OUT)
        for name in LANGUAGES
    }
    coarse = Coarse(model.module, model.tokenizer)
    return Bench(
        work=work,
        texts=texts,
        exact=model,
        quick=model if exact else coarse,
        given=Replica.start(model.given),
        held_out={name: each[rate is None :: 2] for name, each in passages.items()},
        gate={name: each[::2][:GATE] for name, each in passages.items()},
        rate=rate,
    )


def main() -> None:
    """Do what the command line asks for and print the table."""
    options = _parse()
    torch.set_num_threads(options.threads)
    try:
        bench = set_up(
            options.corpora,
            base=options.base,
            exact=options.exact or not multiplies_bfloat16(),
            rate=options.rate,
        )
    except TapestryError as error:
        sys.exit(f"federation.py: {error}")
    rows: dict[str, list[Result]] = {}
    for seed in range(1, options.seeds + 1):
        for family in options.only.split(","):
            for arm in (each for each in ARMS[family] if options.arm in each):
                found = measure(bench, family, arm, seed)
                rows.setdefault(f"{family} {arm}", []).append(found)
    bench.exact.load(bench.given.parameters)
    figures = summarize(bench.scores(bench.exact), rows)
    for line in table(figures, list(rows)):
        say(line)
    if options.json:
        print(json.dumps(figures, indent=2, sort_keys=True))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpora", type=Path, help="what text.py prepared")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(ARMS))
    parser.add_argument("--arm", default="", help="only runs with this in their name")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument(
        "--rate", type=float, help="try another rate, on passages that test nothing"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--exact", action="store_true", help="float32 throughout")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
