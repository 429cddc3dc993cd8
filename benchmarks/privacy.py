"""The cost of privacy: time per step, loss by kind of noise, and an empirical audit.

    python benchmarks/privacy.py [--json] [--base smollm2] [--only speed,audit,...]

speed  CPU time of a step with clipping and noise over one without, the same batch in
       the same run, alternating; LoRA (B only) and full parameters.
audit  the Gaussian one-run audit of ``tests/node``: lower bound over claimed epsilon.
membership  area under the curve of an attacker who sees base and trained model.
noise  loss after the same steps, epsilon and example gradients, with noise of each
       node alone (local), in shares that add up inside the masked sum (shared), and
       once over pooled data (central: needs one party trusted with all records), over
       seeds. Finished runs are files below ``benchmarks/work`` and not repeated.
"""

import argparse
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from tapestry.dialogue import Text
from tapestry.encoding import encode_decimal
from tapestry.privacy import accounting, skellam
from tapestry.privacy.gaussian import NoiseSource, add_gaussian
from tapestry.protocol.round_manifest import (
    LocalNoise,
    NoNoise,
    PrivacyPlan,
    TrainingPlan,
    recommended_threshold,
)
from tapestry.workloads.base import Unit
from tapestry.workloads.language.base_models import open_base
from tapestry.workloads.language.model import LanguageModel
from tapestry_demo import corpora
from tapestry_node.training.dp_sgd import Runtime, fit
from tapestry_node.training.microbatches import BatchLimits
from tapestry_node.training.per_example_gradients import Gradients, Problem, attached

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SCALE_BITS = 24
DELTA = 1e-5
WORK = Path(__file__).parent / "work" / "noise"

Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One comparison of noises; the defaults take about a quarter of an hour."""

    epsilon: float = 8.0
    steps: int = 20
    batch_size: int = 32
    clip_norm: float = 1.0
    learning_rate: float = 1e-3
    sequence_length: int = 32
    seeds: tuple[int, ...] = (1, 2, 3)
    cohorts: tuple[int, ...] = (4, 10)


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    figures: Figures = {}
    wanted = arguments.only.split(",")
    if "audit" in wanted:
        figures |= audit()
    if {"speed", "membership", "noise"} & set(wanted):
        model = open_base(arguments.base)
        if "speed" in wanted:
            figures |= speed(model, repeats=arguments.repeats)
        study = Study(
            steps=arguments.steps,
            learning_rate=arguments.learning_rate,
            seeds=tuple(range(arguments.first_seed, arguments.seeds + 1)),
        )
        if "membership" in wanted:
            figures |= membership(model, study)
        if "noise" in wanted:
            figures |= noise(model, study)
    if arguments.json:
        print(json.dumps(figures, indent=2, sort_keys=True))


def speed(model: LanguageModel, *, repeats: int) -> Figures:
    tokens = np.random.default_rng(0).integers(10, 250, size=(8, 128)).tolist()
    units = [Unit(sequences=(tuple(row),)) for row in tokens]
    figures: Figures = {}
    for name, plan in (("lora", _plan(rank=16)), ("full", _plan(rank=0))):
        with model.attach(plan) as parameters:
            problem = _problem(model, parameters)
            plain, private = _time_steps(problem, units, repeats)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        _say(
            f"{name}: plain {plain:.2f} s, private {private:.2f} s,"
            f" {private / plain:.2f} x; d = {problem.length:,}; peak {peak:.1f} GB"
        )
        figures |= {
            f"{name}_dp_over_plain": private / plain,
            f"{name}_plain_s": plain,
            f"{name}_peak_gb": peak,
        }
    return figures


def _time_steps(
    problem: Problem, units: Sequence[Unit], repeats: int
) -> tuple[float, float]:
    source = NoiseSource.fresh()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(repeats + 1):
        for private in (False, True):
            with attached(problem, BatchLimits(), private=private) as gradients:
                started = time.process_time()
                if private:
                    total, _ = gradients.clipped_sum(units, clip_norm=1.0)
                    add_gaussian(total, stddev=1.0, source=source)
                else:
                    total, _ = gradients.plain_sum(units)
                gradients.apply(total, scale=1 / len(units))
                if repeat:  # the first one warms up
                    seconds[private].append(time.process_time() - started)
                del total
    return min(seconds[False]), min(seconds[True])


def audit() -> Figures:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.support.canaries import audit as one_run

    bound, claim = one_run(NoiseSource.fresh())
    _say(f"audit: at least {bound:.2f} (99.9 %), claimed {claim:.2f}")
    return {"audit_bound_over_claim": bound / claim}


def noise(model: LanguageModel, study: Study) -> Figures:
    units, held_out = _texts(model, study)
    given = _loss(model, held_out, study)
    _say(f"noise: {len(units)} records, untouched base {given:.4f} bits per byte")
    losses: dict[str, list[float]] = {}
    work = WORK / f"{study.steps} steps at {study.learning_rate:g}"
    work.mkdir(parents=True, exist_ok=True)
    for seed in study.seeds:
        runs = [("central", 1)]
        runs += [(kind, n) for n in study.cohorts for kind in ("local", "shared")]
        for kind, nodes in runs:
            name = kind if kind == "central" else f"{kind}_{nodes}"
            path = work / f"{name}-{seed}.json"
            if not path.exists():
                loss = _train(model, units, held_out, study, (kind, nodes, seed))
                path.write_text(json.dumps(loss), encoding="utf-8")
            losses.setdefault(name, []).append(json.loads(path.read_text("utf-8")))
            _say(f"noise: seed {seed} {name}: {losses[name][-1]:.4f}")
    _say_fallback(study, len(units))
    return _ratios(losses, given)


def membership(model: LanguageModel, study: Study) -> Figures:
    """Return how well the change in loss tells members of the data; 0.5 is chance.

    Sixty-four records of one country, each in the data by a fair coin; the attacker
    knows base, release and text, and scores each record by how much its loss fell.
    """
    units = _texts(model, study)[0][:64]
    before, figures = _unit_losses(model, units), Figures()
    for name, epsilon in (("plain", None), ("dp", study.epsilon)):
        areas = []
        for seed in study.seeds:
            source = NoiseSource.unsafe_from_key(seed.to_bytes(32))
            inside = source.coins(len(units), probability=0.5)
            fell = before - _losses_after(model, units, inside, study, epsilon)
            wins = stats.mannwhitneyu(fell[inside], fell[~inside]).statistic
            areas.append(float(wins / (inside.sum() * (~inside).sum())))
            _say(f"membership: {name}, seed {seed}: AUC {areas[-1]:.3f}")
        figures |= _over_seeds(f"membership_auc_{name}", areas)
    return figures


def _losses_after(
    model: LanguageModel,
    units: Sequence[Unit],
    inside: np.ndarray,
    study: Study,
    epsilon: float | None,
) -> np.ndarray:
    """Train on the members, and return the loss of every unit."""
    members = [u for u, coin in zip(units, inside, strict=True) if coin]
    size = len(members) // 2
    plan = _plan(rank=8).model_copy(update={"steps": study.steps, "batch_size": size})
    with model.attach(plan) as parameters:
        fit(
            _problem(model, parameters),
            members,
            training=plan,
            privacy=_privacy(study, plan, len(members), epsilon),
            records=len(members),
            runtime=Runtime(),
        )
        return _unit_losses(model, units)


def _problem(model: LanguageModel, parameters: Any) -> Problem:
    return Problem(module=model.module, parameters=parameters, losses=model.losses)


def _unit_losses(model: LanguageModel, units: Sequence[Unit]) -> np.ndarray:
    with torch.no_grad():
        return np.array([float(model.losses(u.sequences).mean()) for u in units])


def _privacy(
    study: Study, plan: TrainingPlan, records: int, epsilon: float | None
) -> PrivacyPlan:
    if epsilon is None:
        return NoNoise(noise="none")
    noise = accounting.calibrate(
        target_epsilon=epsilon,
        target_delta=DELTA,
        sampling_rate=accounting.sampling_rate(plan.batch_size, records=records),
        steps=plan.steps,
    )
    return LocalNoise(
        noise="local",
        unit="record",
        adjacency="add-remove",
        clip_norm=encode_decimal(study.clip_norm),
        noise_multiplier=encode_decimal(noise),
        target_delta=encode_decimal(DELTA),
    )


def _ratios(losses: dict[str, list[float]], given: float) -> Figures:
    """Compare with central DP seed by seed; without a number: the largest cohort."""
    figures: Figures = {"given_loss": given}
    central = losses["central"]
    for name, values in losses.items():
        figures[f"{name}_loss"] = statistics.mean(values)
        if name == "central":
            continue
        ratios = [a / b for a, b in zip(values, central, strict=True)]
        kind, _, nodes = name.partition("_")
        for key in (f"{kind}_loss_over_central_{nodes}", f"{kind}_loss_over_central"):
            figures |= _over_seeds(key, ratios)
    return figures


def _over_seeds(key: str, values: Sequence[float]) -> Figures:
    """Print the mean and, of several values, its standard error."""
    figures = {key: statistics.mean(values)}
    if len(values) > 1:
        figures[f"{key}_se"] = statistics.stdev(values) / math.sqrt(len(values))
    return figures


def _say_fallback(study: Study, records: int) -> None:
    """Return the noise that is left if all other nodes subtract theirs again."""
    whole = noise_multiplier(study, records)
    rate = accounting.sampling_rate(study.batch_size, records=records)
    for nodes in study.cohorts:
        own = accounting.Steps(
            noise_multiplier=whole / math.sqrt(honest(nodes)),
            sampling_rate=rate,
            steps=study.steps,
        )
        fallback = accounting.epsilon([own], target_delta=DELTA)
        _say(f"noise: N = {nodes}: epsilon {fallback:.1f} if all others collude")


def _train(
    model: LanguageModel,
    units: Sequence[Unit],
    held_out: Sequence[Text],
    study: Study,
    run: tuple[str, int, int],
) -> float:
    kind, nodes, seed = run
    source = NoiseSource.unsafe_from_key(seed.to_bytes(32))
    with model.attach(_plan(rank=8)) as parameters:
        problem = _problem(model, parameters)
        optimizer = torch.optim.Adam([p for _, p in parameters], lr=study.learning_rate)
        with attached(problem, BatchLimits(), private=True) as gradients:
            for _ in range(study.steps):
                parts = [list(units[i::nodes]) for i in range(nodes)]
                total = _noised_sum(gradients, parts, study, kind, source)
                gradients.apply(total, scale=1 / study.batch_size)
                optimizer.step()
        return _loss(model, held_out, study)


def _noised_sum(
    gradients: Gradients,
    parts: Sequence[Sequence[Unit]],
    study: Study,
    kind: str,
    source: NoiseSource,
) -> torch.Tensor:
    """Return one step's sum over the nodes, with the noise of its kind."""
    records = sum(map(len, parts))
    stddev = study.clip_norm * noise_multiplier(study, records)
    sums = []
    for part in parts:
        coins = source.coins(len(part), probability=study.batch_size / records)
        drawn = [unit for unit, coin in zip(part, coins, strict=True) if coin]
        total, _ = gradients.clipped_sum(drawn, clip_norm=study.clip_norm)
        if kind == "local":
            add_gaussian(total, stddev=stddev, source=source)
        sums.append(total)
    if kind == "shared":
        return _shared_sum(sums, stddev, source)
    whole = torch.stack(sums).sum(dim=0)
    if kind == "central":
        add_gaussian(whole, stddev=stddev, source=source)
    return whole


def _shared_sum(
    sums: Sequence[torch.Tensor], stddev: float, source: NoiseSource
) -> torch.Tensor:
    """Quantize, add each node's share, sum mod 2**32, read back: the ring's path."""
    share = (stddev * 2**SCALE_BITS) ** 2 / honest(len(sums))
    ring = np.zeros(sums[0].numel(), dtype=np.uint32)
    for part in sums:
        whole = np.rint(part.numpy() * 2**SCALE_BITS).astype(np.int64)
        whole += skellam.draw(whole.size, variance=share, source=source)
        ring += whole.astype(np.uint32)
    return torch.from_numpy(ring.view(np.int32).astype(np.float64) / 2**SCALE_BITS)


def honest(nodes: int) -> int:
    """Return the number of noise shares that are sure to be in the sum, t - n_C."""
    colluding = math.ceil(nodes / 3) - 1
    return recommended_threshold(nodes, max_colluding=colluding) - colluding


def noise_multiplier(study: Study, records: int) -> float:
    return accounting.calibrate(
        target_epsilon=study.epsilon,
        target_delta=DELTA,
        sampling_rate=accounting.sampling_rate(study.batch_size, records=records),
        steps=study.steps,
    )


def _texts(model: LanguageModel, study: Study) -> tuple[list[Unit], list[Text]]:
    private: list[Text] = []
    held_out: list[Text] = []
    for country in corpora.COUNTRIES:
        split = corpora.load(country)
        private += [t for texts in split.private.values() for t in texts]
        held_out += [t for texts in split.held_out.values() for t in texts][:25]
    units = model.encode(private, sequence_length=study.sequence_length)
    order = np.random.default_rng(0).permutation(len(units))
    short = [Unit(sequences=units[i].sequences[:1]) for i in order]
    return short, held_out


def _loss(model: LanguageModel, texts: Sequence[Text], study: Study) -> float:
    return model.evaluate(texts, sequence_length=study.sequence_length).bits_per_byte


def _plan(*, rank: int) -> TrainingPlan:
    return TrainingPlan(
        workload="language",
        parameterization="low_rank" if rank else "full",
        rank=rank,
        targets=TARGETS if rank else (),
        factor_seed="5" * 64,
        sequence_length=128,
        steps=1,
        batch_size=8,
        optimizer="adam",
        learning_rate="0.001",
        weight_decay="0",
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", default="speed,audit,membership,noise")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
