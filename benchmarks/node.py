"""What a node's private training costs: over a step without privacy, and in memory.

    python benchmarks/node.py [--only lora,large,stream] [--threads 1] [--json]

A step is one of ``dp_sgd.update``: rank 8 on ``q_proj`` and ``v_proj``, a Poisson
sample of real text (this project's pages), windows of 128 tokens. It is timed from the
coins to the end of the optimizer. Private is noise ``local`` with clipping, plain is
noise ``none``; both draw the same records, turn about in one process. A sample is a
pair of such steps, and a figure is the median over samples, after one that is not
counted. Times of a ratio are CPU seconds of the process; rates are per second of the
clock, so they need an idle machine. Draws come from a fixed key.

lora    SmolLM2-135M, 12 expected records of 96 to 128 tokens, ``--repeats`` samples.
        ``lora_dp_over_plain`` is private over plain, with the quartiles of the samples.
        ``tokens_per_s`` counts the drawn tokens of private steps;
        ``loop_tokens_per_s`` those of a loop over the same examples, one backward pass
        each, without clipping or noise.
large   A folder is written: the shape of SmolLM2-1.7B, random weights in bfloat16, the
        tokenizer of the tiny base. A process of its own opens it and takes a private
        step of 4 records of 128 tokens; ``peak_gb_1_7b`` is the largest resident size
        it ever had (VmHWM), in GB: pages of the file count where they are mapped, the
        page cache does not. ``lora_dp_over_plain_1_7b`` is of another process, with
        these records, in ``--large-repeats`` samples.
stream  ``stream_extra_gb_3gb`` and ``check_first_line_s`` of ``streaming.py``.

A private way that takes one record at a time scores 1.2 and more in ``lora``; one that
gets a sequence's gradients by another pass scores about 2. A base widened to float32
while the stored one is kept has a peak above 10 GB. A step that skips what was drawn
would score well below 1, as would one that times the draw of nothing: less than half
the expected tokens are an error.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import streaming
import torch

from tapestry.artifacts.model_identity import ModelContent
from tapestry.artifacts.model_writer import write_model
from tapestry.privacy.gaussian import NoiseSource
from tapestry.protocol.round_manifest import TrainingPlan
from tapestry.tensor_types import Stored, narrow
from tapestry.workloads.base import Workload
from tapestry.workloads.language.base_models import base_folder
from tapestry.workloads.language.tokens import TokenExample
from tapestry.workloads.workload_registry import open_workload
from tapestry_node.training import dp_sgd
from tapestry_node.training.dp_sgd import Runtime
from tests.support import plans

ROOT = Path(__file__).parents[1]
WORK = Path(__file__).parent / "work" / "node"
KEY = b"benchmarks/node.py, fixed draws."  # 32 bytes
RANK, TARGETS, LENGTH = 8, ("q_proj", "v_proj"), 128
SHORTEST = 96  # tokens of a record, where lengths differ
POOL = 10  # records, as a multiple of those that a step is expected to draw
LARGE_RECORDS = 4
SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 64,
}
_SMALL = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


class FixedDraws(NoiseSource):
    """Noise as ever, and coins that are fixed; it notes when they were asked for."""

    mask: npt.NDArray[np.bool_]
    began: tuple[float, float]  # CPU seconds, seconds of the clock

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_]) -> Self:
        """Take the records that are drawn."""
        source = cls.fresh()
        source.mask = mask
        return source

    def coins(self, count: int, *, probability: float) -> npt.NDArray[np.bool_]:
        """Toss as ever, and return what the mask draws."""
        self.began = time.process_time(), time.perf_counter()
        super().coins(count, probability=probability)
        return self.mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model, the records of a node, and the plan of a step."""

    workload: Workload
    records: Sequence[TokenExample]
    training: TrainingPlan

    def step(self, noise: str, mask: npt.NDArray[np.bool_]) -> tuple[float, float]:
        """Take a step on what the mask draws; return CPU and clock seconds."""
        source = FixedDraws.of(mask)
        ended: list[tuple[float, float]] = []
        dp_sgd.update(
            self.workload,
            self.records,
            training=self.training,
            privacy=plans.privacy_plan(noise=noise),
            records=len(self.records),
            runtime=Runtime(
                source=source,
                progress=lambda _: ended.append(
                    (time.process_time(), time.perf_counter())
                ),
            ),
        )
        ((cpu, clock),) = ended
        return cpu - source.began[0], clock - source.began[1]

    def loop(self, mask: npt.NDArray[np.bool_]) -> float:
        """Train on the same records one by one without privacy; return seconds."""
        with self.workload.attach(self.training) as parameters:
            optimizer = torch.optim.SGD([p for _, p in parameters], lr=0.1)
            began = time.perf_counter()
            for record in self.drawn(mask):
                loss = self.workload.losses(record.rows).mean()
                (loss / self.training.batch_size).backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
            return time.perf_counter() - began

    def draws(self) -> Iterator[npt.NDArray[np.bool_]]:
        """Draw Poisson samples from the fixed key, without end."""
        source = NoiseSource.unsafe_from_key(KEY)
        rate = self.training.batch_size / len(self.records)
        while True:
            yield source.coins(len(self.records), probability=rate)

    def drawn(self, mask: npt.NDArray[np.bool_]) -> list[TokenExample]:
        """List the records that a mask draws."""
        return [self.records[int(place)] for place in np.flatnonzero(mask)]

    def tokens(self, mask: npt.NDArray[np.bool_]) -> int:
        """Count the tokens of the drawn records."""
        return sum(len(row) for record in self.drawn(mask) for row in record.rows)


def low_rank_task(base: str, *, batch: int, shortest: int) -> Task:
    """Open a base, and cut pages into records of ``shortest`` to 128 tokens."""
    training = plans.training_plan(
        parameterization="low_rank",
        rank=RANK,
        targets=TARGETS,
        steps=1,
        batch_size=batch,
        options={"sequence_length": LENGTH},
    )
    workload = open_workload("language", base)
    pages = "\n".join(path.read_text("utf-8") for path in sorted(ROOT.glob("*.md")))
    rows = workload.examples([pages], training.options)[0].rows
    if len(rows) <= POOL * batch:
        sys.exit(f"the pages have {len(rows)} windows; take a smaller batch")
    draw = np.random.default_rng(0)
    lengths = draw.integers(shortest, LENGTH, size=POOL * batch, endpoint=True)
    records = [
        TokenExample(rows=(tuple(row[:length]),))
        for row, length in zip(rows, lengths.tolist(), strict=False)
    ]
    return Task(workload=workload, records=records, training=training)


def ratio(pairs: Sequence[tuple[float, float]]) -> tuple[float, list[float]]:
    """Return the median of first over second, and the quartiles."""
    each = [private / plain for private, plain in pairs]
    low, middle, high = np.quantile(each, (0.25, 0.5, 0.75)).tolist()
    return middle, [low, high]


def measure_lora(base: str, *, batch: int, repeats: int) -> dict[str, Any]:
    """Time private and plain steps, and a loop, turn about."""
    task = low_rank_task(base, batch=batch, shortest=SHORTEST)
    cpu, rates, loops = [], [], []
    for number, mask in zip(range(repeats + 1), task.draws(), strict=False):
        seconds = in_turn(task, mask, number)
        loop = task.loop(mask)
        if number:  # the first one warms up
            cpu.append((seconds["local"][0], seconds["none"][0]))
            rates.append(task.tokens(mask) / seconds["local"][1])
            loops.append(task.tokens(mask) / loop)
    middle, quartiles = ratio(cpu)
    return {
        "lora_dp_over_plain": middle,
        "lora_dp_over_plain_quartiles": quartiles,
        "lora_plain_s": statistics.median(plain for _, plain in cpu),
        "lora_repeats": repeats,
        "tokens_per_s": statistics.median(rates),
        "loop_tokens_per_s": statistics.median(loops),
    }


def in_turn(
    task: Task, mask: npt.NDArray[np.bool_], number: int
) -> dict[str, tuple[float, float]]:
    """Take both steps on one draw; which comes first changes from sample to sample."""
    if task.tokens(mask) < task.training.batch_size * SHORTEST / 2:
        sys.exit("a draw has less than half of the expected tokens; change the key")
    kinds = ("local", "none") if number % 2 else ("none", "local")
    return {kind: task.step(kind, mask) for kind in kinds}


def write_large(folder: Path, shape: Mapping[str, int] = SHAPE) -> None:
    """Write a Llama with tied embeddings, random weights in bfloat16, bytes as tokens.

    Each tensor has a standard deviation of 0.02, but for norms, which are 1.
    """
    tiny = base_folder("tiny")
    config = json.loads((tiny / "config.json").read_text("utf-8"))
    config |= {**shape, "dtype": "bfloat16", "tie_word_embeddings": True}
    files = {name: (tiny / name).read_bytes() for name in _SMALL}
    files["config.json"] = json.dumps(config, indent=2).encode()
    draw = np.random.default_rng(0)
    tensors: dict[str, Stored] = {}
    for name, size in _shapes(shape).items():
        if len(size) == 1:
            values = np.ones(size, dtype=np.float32)
        else:
            values = draw.standard_normal(size, dtype=np.float32)
            values *= np.float32(0.02)
        tensors[name] = narrow(values, "BF16")
    folder.mkdir(parents=True)
    write_model(folder, ModelContent(tensors=tensors, files=files), card=None)


def _shapes(shape: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Name the tensors of a Llama, by Hugging Face's names."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    queries = shape["num_attention_heads"] * shape["head_dim"]
    layer = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    return {
        "model.embed_tokens.weight": (shape["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
        **{
            f"model.layers.{number}.{name}.weight": size
            for number in range(shape["num_hidden_layers"])
            for name, size in layer.items()
        },
    }


def measure_large(
    *, repeats: int, threads: int, shape: Mapping[str, int] = SHAPE
) -> dict[str, Any]:
    """Write the folder, run the two processes on it, and remove it again."""
    shutil.rmtree(WORK, ignore_errors=True)
    try:
        write_large(folder := WORK / "base", shape)
        found = _ask("peak", folder, repeats, threads)
        return found | _ask("pairs", folder, repeats, threads)
    finally:
        shutil.rmtree(WORK, ignore_errors=True)


def _ask(what: str, folder: Path, repeats: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--inside", what, "--base", str(folder)]
    command += ["--repeats", str(repeats), "--threads", str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def _inside(what: str, folder: str, repeats: int) -> dict[str, Any]:
    """Measure the large model in this process, which does nothing else."""
    began = time.perf_counter()
    task = low_rank_task(folder, batch=LARGE_RECORDS, shortest=LENGTH)
    open_s = time.perf_counter() - began
    mask = np.arange(len(task.records)) < LARGE_RECORDS
    if what == "peak":
        opened = peak_gb()
        cpu, _ = task.step("local", mask)
        return {
            "peak_gb_1_7b": peak_gb(),
            "open_peak_gb_1_7b": opened,
            "open_s_1_7b": open_s,
            "first_step_s_1_7b": cpu,
        }
    pairs = [in_turn(task, mask, number) for number in range(repeats + 1)]
    cpu_pairs = [(each["local"][0], each["none"][0]) for each in pairs[1:]]
    middle, quartiles = ratio(cpu_pairs)
    return {
        "lora_dp_over_plain_1_7b": middle,
        "lora_dp_over_plain_1_7b_quartiles": quartiles,
        "plain_s_1_7b": statistics.median(plain for _, plain in cpu_pairs),
        "repeats_1_7b": repeats,
    }


def peak_gb() -> float:
    """Return the largest resident size that this process ever had, in GB.

    ``getrusage`` would count that of the process which started this one.
    """
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError("the kernel does not say VmHWM")


def measure_stream() -> dict[str, Any]:
    """Take the two figures of ``streaming.py`` that have a bar."""
    found = streaming.measure()
    return {name: found[name] for name in ("stream_extra_gb_3gb", "check_first_line_s")}


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="lora,large,stream")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--large-repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inside", choices=("peak", "pairs"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.inside is not None:
        found = _inside(asked.inside, asked.base, asked.repeats)
        sys.stdout.write(json.dumps(found))
        return
    found = {}
    wanted = asked.only.split(",")
    if "lora" in wanted:
        found |= measure_lora(asked.base, batch=asked.batch, repeats=asked.repeats)
    if "large" in wanted:
        found |= measure_large(
            repeats=asked.large_repeats,
            threads=asked.threads,
            shape=SHAPE | {"num_hidden_layers": asked.layers},
        )
    if "stream" in wanted:
        found |= measure_stream()
    if asked.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for name, value in found.items():
        sys.stdout.write(f"{name:<36}{value}\n")


if __name__ == "__main__":
    main()
