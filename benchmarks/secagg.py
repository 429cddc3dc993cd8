"""The cost of secure aggregation, beside Flower's on the same vector.

    python benchmarks/secagg.py [--json] [--only rates client cohort hybrid memory]

Times are CPU seconds on one core (``threads=1``), the best of a few repeats that take
turns, all in one run: on a shared machine the ratios mean more than the rates. Flower
is imported and timed only: its quantising and masking, as its own module calls them.
"""

import argparse
import json
import math
import multiprocessing
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    parameters_addition,
    parameters_mod,
)
from flwr.common.secure_aggregation.quantization import quantize as flwr_quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from tapestry.keys import VerifyKey
from tapestry.protocol.secagg_messages import (
    Ciphertexts,
    ConsentList,
    HeadList,
    KeyList,
    SurvivorList,
)
from tapestry.secagg import client as masking
from tapestry.secagg.chunks import chunk_root, cut
from tapestry.secagg.masks import (
    BLOCK_COORDINATES,
    Mask,
    add_masks,
    aligned_empty,
    keystream_into,
)
from tapestry.secagg.quantization import Encoding, quantize
from tapestry.secagg.server import AdvertiseKeysStage
from tapestry.vectors import Clipped, FloatVector, RingVector
from tests.support.secagg_cohort import Member, manifest_for, members, terms_for

M = 1_000_000
Figures = dict[str, float]


def say(text: str) -> None:
    print(text, file=sys.stderr)


def cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def best(
    works: dict[str, Callable[[], object]],
    repeats: int,
    *,
    before: Callable[[], object] = lambda: None,
) -> Figures:
    """Time each work in turn, several times; keep the best of each.

    Args:
        works: The functions to time.
        repeats: The number of times.
        before: Called before each, and not timed.
    """
    times = dict.fromkeys(works, math.inf)
    for _ in range(repeats):
        for name, work in works.items():
            before()
            times[name] = min(times[name], cpu(work))
    return times


def keys(count: int) -> list[Mask]:
    return [Mask(secrets.token_bytes(32), negative=i % 2 == 0) for i in range(count)]


def rates() -> Figures:
    """Measure keystream, one mask and 16 fused masks, in 10^6 integers per second."""
    blocks = 152  # 10 M integers
    length = blocks * BLOCK_COORDINATES
    buffer, values = aligned_empty(BLOCK_COORDINATES), aligned_empty(length)
    values[:] = 0

    def stream(size: int) -> None:
        """Draw as much as 16 masks take."""
        view = buffer[:size].data.cast("B")
        fill = keystream_into(secrets.token_bytes(32))
        for _ in range(16 * length // size):
            fill(view)

    sizes = (BLOCK_COORDINATES, BLOCK_COORDINATES // 2)  # the better counts
    streams = {f"aes{size}": partial(stream, size) for size in sizes}
    times = best(
        {
            **streams,
            "one": lambda: add_masks(values, keys(1), threads=1),
            "fused": lambda: add_masks(values, keys(16), threads=1),
        },
        repeats=25,
    )
    aes = 16 * length / min(times[name] for name in streams)
    fused = 16 * length / times["fused"]
    figures = {
        "aes_m_per_s": aes / M,
        "one_mask_m_per_s": length / times["one"] / M,
        "fused_m_per_s": fused / M,
        "fused_over_aes": fused / aes,
    }
    for name, figure in figures.items():
        say(f"{name:24} {figure:10.3f}")
    return figures


def update(length: int) -> FloatVector:
    """Make a vector of norm just under 1, without temporaries."""
    rng = np.random.default_rng(0)
    values = np.empty(length, dtype=np.float32)
    for start in range(0, length, M):
        part = values[start : start + M]
        rng.standard_normal(dtype=np.float32, out=part)
        part /= np.float32(1.01 * np.sqrt(length))
    return values


def encoding(length: int, nodes: int) -> Encoding:
    return Encoding(
        length=length,
        scale_bits=24,
        bound=(2**31 - 1) // nodes,
        clip_norm=1.0,
    )


def ours(clipped: FloatVector, nodes: int) -> RingVector:
    """Encode and mask in place: one self mask, one pair mask per other node."""
    quantized = quantize(
        Clipped(values=clipped, clip_norm=1.0),
        encoding=encoding(clipped.size, nodes),
        random=secrets.token_bytes,
        threads=1,
        out=clipped.view(np.uint32),
    )
    add_masks(quantized.values, keys(nodes), threads=1)
    return quantized.values


def flowers(values: FloatVector, nodes: int) -> None:
    """Do the same in Flower, with the defaults of its workflow."""
    rows = flwr_quantize([values], 8.0, 1 << 22)
    for _ in range(nodes):
        mask = pseudo_rand_gen(secrets.token_bytes(32), 1 << 32, [values.shape])
        rows = parameters_addition(rows, mask)
    parameters_mod(rows, 1 << 32)


def _client(length: int, nodes: int, *, repeats: int, flower: bool) -> Figures:
    values = update(length)
    clipped = values.copy()  # what the node's clipping returns
    works: dict[str, Callable[[], object]] = {"s": lambda: ours(clipped, nodes)}
    if flower:
        works["flwr_s"] = lambda: flowers(values, nodes)
    times = best(works, repeats, before=lambda: np.copyto(clipped, values))
    vector = clipped.view(np.uint32)
    times["merkle_s"] = cpu(lambda: chunk_root(cut(vector), threads=1))
    if flower:
        times["over_flwr"] = times["flwr_s"] / times["s"]
    return {f"client_{length // M}m_n{nodes}_{k}": v for k, v in times.items()}


def client() -> Figures:
    """Measure the client stage, and Flower's, for two sizes and two cohorts."""
    figures: Figures = {}
    for length, nodes, repeats in (
        (10 * M, 10, 3),
        (10 * M, 50, 2),
        (135 * M, 10, 3),
        (135 * M, 50, 1),  # Flower's takes minutes there and is left out
    ):
        flower = (length, nodes) != (135 * M, 50)
        row = _client(length, nodes, repeats=repeats, flower=flower)
        for name, figure in row.items():
            say(f"{name:32} {figure:10.3f}")
        figures |= row
    ratios = [v for k, v in figures.items() if k.endswith("over_flwr")]
    return {**figures, "client_over_flwr": min(ratios)}


@contextmanager
def trusting(*, skip: bool) -> Iterator[None]:
    """Skip the signatures of nodes that are not measured."""
    if not skip:
        yield
        return
    with patch.object(VerifyKey, "verify", lambda *_: None):
        yield


class Clock:
    """The CPU seconds and bytes of one party."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.sent = 0
        self.received = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the CPU time of the block."""
        start = time.process_time()
        yield
        self.seconds += time.process_time() - start


class Timed:
    """A round of many nodes, of which one, and the coordinator, are timed."""

    def __init__(
        self, count: int, *, length: int, lost: int, post_quantum: str = "mlkem768"
    ) -> None:
        self.cohort = members(count)
        self.manifest = manifest_for(
            self.cohort,
            length=length,
            scale_bits=20,
            clip_value="0.01",
            post_quantum=post_quantum,
        )
        self.terms = terms_for(self.manifest)
        self.values = update(length)
        self.lost = {member.name for member in self.cohort[1 : lost + 1]}
        self.measured = self.cohort[0].name
        self.node, self.coordinator, self.extras = Clock(), Clock(), Clock()
        self.stage: Any = AdvertiseKeysStage(self.manifest)

    def run(self) -> None:
        """Let all nodes share keys; ``lost`` nodes drop out before they upload."""
        self._ask(self._join, {m.name: [] for m in self.cohort})
        body = self._close()
        self._ask(self._share, dict.fromkeys(self.stage.missing, body))
        bodies = self._close_sharing()
        self._ask(self._upload, {n: b for n, b in bodies.items() if n not in self.lost})
        body = self._close()
        self._ask(self._consent, dict.fromkeys(self.stage.missing, body))
        body = self._close()
        self._ask(self._reveal, dict.fromkeys(self.stage.missing, body))
        with self.coordinator.running():
            self.stage.close(threads=1).mean()

    def _ask(
        self, step: Callable[..., Any], bodies: Mapping[str, Sequence[bytes]]
    ) -> None:
        for member in self.cohort:
            if member.name not in bodies:
                continue
            measured = member.name == self.measured
            clock = self.node if measured else self.extras
            with trusting(skip=not measured), clock.running():
                message, size = step(member, *bodies[member.name])
            clock.sent += size
            clock.received += sum(map(len, bodies[member.name]))
            with self.coordinator.running():
                self.stage.accept(member.name, message)

    def _close(self) -> list[bytes]:
        with self.coordinator.running():
            self.stage, message = self.stage.close()
            return [message.encode()]

    def _close_sharing(self) -> dict[str, list[bytes]]:
        """Print the heads once; what is sealed differs by node and is bytes."""
        with self.coordinator.running():
            self.stage, messages = self.stage.close()
            heads = next(iter(messages.values())).heads.encode()
            return {name: [heads, each.messages] for name, each in messages.items()}

    def _join(self, member: Member) -> tuple[Any, int]:
        member.state, message = masking.advertise_keys(
            self.manifest, member.identity, terms=self.terms
        )
        return message, len(message.encode())

    def _share(self, member: Member, body: bytes) -> tuple[Any, int]:
        state, message = masking.share_keys(member.state, KeyList.decode(body))
        member.state = state
        return message, len(message.head.encode()) + len(message.messages)

    def _upload(self, member: Member, heads: bytes, sealed: bytes) -> tuple[Any, int]:
        shares = Ciphertexts(heads=HeadList.decode(heads), messages=sealed)
        state = masking.receive_shares(member.state, shares)
        quantized = quantize(
            Clipped(values=self.values, clip_norm=1.0),
            encoding=Encoding.of(self.manifest),
            random=secrets.token_bytes,
            threads=1,
        )
        reservation = masking.reserve(state, member.marks)
        member.state, message = masking.mask_input(
            state, quantized, reservation=reservation, threads=1
        )
        size = len(message.head.encode()) + sum(len(c) for c in message.chunks)
        return message, size

    def _consent(self, member: Member, body: bytes) -> tuple[Any, int]:
        message = SurvivorList.decode(body)
        member.state, reply = masking.check_consistency(member.state, message)
        return reply, len(reply.encode())

    def _reveal(self, member: Member, body: bytes) -> tuple[Any, int]:
        message = ConsentList.decode(body)
        member.state, reply = masking.unmask(member.state, message)
        return reply, len(reply.encode())


def cohort() -> Figures:
    """Measure whole rounds: each message, signature and check, printed and parsed."""
    figures: Figures = {}
    for count, length, lost in (
        (10, 10 * M, 0),
        (10, 10 * M, 1),
        (50, 1 * M, 0),
        (50, 1 * M, 5),
        (500, M // 10, 0),
        (500, M // 10, 150),
    ):
        timed = Timed(count, length=length, lost=lost)
        timed.run()
        row = {
            "client_s": timed.node.seconds,
            "server_s": timed.coordinator.seconds,
            "bytes_per_parameter": timed.node.sent / length,
        }
        label = f"n{count}_d{length}_lost{lost}"
        for name, figure in row.items():
            say(f"{label + ' ' + name:44} {figure:10.4f}")
            figures[f"{label}_{name}"] = figure
    figures["client_500_100k_s"] = max(
        figures["n500_d100000_lost0_client_s"], figures["n500_d100000_lost150_client_s"]
    )
    figures["server_500_100k_30pct_s"] = figures["n500_d100000_lost150_server_s"]
    figures["bytes_per_parameter"] = figures["n10_d10000000_lost1_bytes_per_parameter"]
    return figures


def hybrid() -> Figures:
    """Compare rounds with ML-KEM-768 and without, in turns; the best of each."""
    figures: Figures = {}
    for count, length, lost, repeats in ((10, M, 0, 7), (500, M // 10, 150, 1)):
        rows: dict[str, Figures] = {}
        for _ in range(repeats):
            for kind in ("none", "mlkem768"):
                timed = Timed(count, length=length, lost=lost, post_quantum=kind)
                timed.run()
                row = {
                    "node_ms": 1000 * timed.node.seconds,
                    "server_s": timed.coordinator.seconds,
                    "node_sent_bytes": float(timed.node.sent),
                    "node_received_bytes": float(timed.node.received),
                }
                kept = rows.setdefault(kind, row)
                rows[kind] = {name: min(kept[name], row[name]) for name in row}
        without, with_kem = rows["none"], rows["mlkem768"]
        label = f"hybrid_n{count}_d{length}_lost{lost}"
        for name, figure in with_kem.items():
            figures[f"{label}_{name}"] = figure
            figures[f"{label}_{name}_over_none"] = figure / without[name]
            figures[f"{label}_{name}_more"] = figure - without[name]
    for name, figure in figures.items():
        say(f"{name:52} {figure:14.3f}")
    return figures


def _resident(field: str) -> int:
    """Read VmRSS or VmHWM, its peak, of this process (Linux), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field}")


def _measure_memory(result: "multiprocessing.Queue[int]") -> None:
    values = update(135 * M)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _resident("VmRSS")
    masked = ours(values, 10)
    chunk_root(cut(masked))
    result.put(_resident("VmHWM") - before)


def memory() -> Figures:
    """Measure the peak memory of a 135 M upload with ten nodes, less the vector."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=_measure_memory, args=(queue,))
    process.start()
    extra = queue.get() / 1e9
    process.join()
    say(f"{'peak_extra_gb_135m':32} {extra:10.3f}")
    return {"peak_extra_gb_135m": extra}


PARTS = {
    "rates": rates,
    "client": client,
    "cohort": cohort,
    "hybrid": hybrid,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="figures on stdout")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments = parser.parse_args()
    figures: Figures = {}
    for name in arguments.only:
        figures |= PARTS[name]()
    if arguments.json:
        print(json.dumps({k: round(v, 6) for k, v in figures.items()}, indent=1))


if __name__ == "__main__":
    main()
