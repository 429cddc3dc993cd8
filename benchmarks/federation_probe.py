"""A probe of a run for ``federation.py``, with figures that no party of a run sees.

Three patches around the product's path, none of which changes what it computes: the
nodes' updates are summed in the open, to compare the masked mean with; coins and noise
come from a seed; and the outer step, which every party takes and must take alike, is
computed once per process, so that five copies of the base fit a small machine.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tapestry.model.replica import Replica
from tapestry.privacy.gaussian import NoiseSource
from tapestry.protocol.round_manifest import PrivacyPlan, RoundManifest, TrainingPlan
from tapestry.protocol.secagg_messages import Result
from tapestry.secagg.quantization import Encoding, mean
from tapestry.vectors import FloatVector, Layout, RingVector
from tapestry.workloads.base import Example, Workload
from tapestry_coordinator.journal import Journal, JournaledRound
from tapestry_node.training import dp_sgd
from tapestry_node.training.dp_sgd import Runtime, Update

Scores = dict[str, float]


@dataclass(slots=True, kw_only=True)
class UpdateProbe:
    """A probe that sums the nodes' own updates, which no party of a run sees."""

    folder: Path  # of the run
    nodes: int
    total: FloatVector | None = None
    drawn: int = 0
    scores: list[Scores] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def see(self, update: Update) -> None:
        """Add an update to the plain sum of its round."""
        self.drawn += update.fit.drawn
        if self.total is None:
            self.total = np.zeros_like(update.values)
        self.total += update.values

    def notify(self, event: dict[str, Any]) -> None:
        """When a round is closed, compare the masked mean with the plain one."""
        if event.get("round_stage") != "close" or self.total is None:
            return
        self.scores.append(event["scores"])
        journal = Journal(self.folder)
        rows = {row.number: row for row in journal.rounds()}
        masked = _mean_of(rows[event["round"]], journal)
        journal.close()
        plain = self.total / np.float32(self.nodes)
        masked -= plain
        error = float(np.linalg.norm(masked) / np.linalg.norm(plain))
        self.errors.append(error)
        self.total = None


def _mean_of(row: JournaledRound, journal: Journal) -> FloatVector:
    """Read the mean that came through the masks."""
    manifest = RoundManifest.decode(row.manifest)
    result = Result.decode(row.result or b"")
    if result.model_digest == manifest.model_digest:
        raise RuntimeError(f"the gate rejected round {row.number}")
    total, survivors = journal.load_sum(row.number), len(result.transcript.uploads)
    return mean(total, encoding=Encoding.of(manifest), survivors=survivors)


@contextmanager
def watched(witness: UpdateProbe) -> Iterator[None]:
    original = dp_sgd.update

    def update(
        workload: Workload,
        units: Sequence[Example],
        *,
        training: TrainingPlan,
        privacy: PrivacyPlan,
        records: int,
        runtime: Runtime,
    ) -> Update:
        done = original(
            workload,
            units,
            training=training,
            privacy=privacy,
            records=records,
            runtime=runtime,
        )
        witness.see(done)
        return done

    with mock.patch.object(dp_sgd, "update", update):
        yield


@contextmanager
def seeded(label: str) -> Iterator[None]:
    """Draw coins and noise from the label, so that a run can be repeated."""
    with mock.patch.object(NoiseSource, "fresh", side_effect=sources(label)):
        yield


def sources(label: str) -> Iterator[NoiseSource]:
    for number in itertools.count():
        key = hashlib.sha256(f"{label} {number}".encode()).digest()
        yield NoiseSource.unsafe_from_key(key)


@contextmanager
def stepped_once() -> Iterator[list[Replica]]:
    """Keep one copy of the base per process, since all parties' steps are equal.

    Yields the newest base, once there is one.
    """
    original = Replica.after
    known: list[tuple[str, RingVector, Replica]] = []
    newest: list[Replica] = []

    def after(
        self: Replica,
        total: RingVector,
        *,
        survivors: int,
        manifest: RoundManifest,
        layout: Layout,
    ) -> Replica:
        for digest, other, result in known:
            if digest == self.digest and np.array_equal(other, total):
                return result
        result = original(
            self, total, survivors=survivors, manifest=manifest, layout=layout
        )
        known[:] = [(self.digest, total, result)]
        newest[:] = [result]
        return result

    with mock.patch.object(Replica, "after", after):
        yield newest
