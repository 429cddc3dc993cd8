"""An attacker that reads tokens off an update: the first step of DAGER (2405.15586).

The gradient of B in the first layer is a sum of outer products with ``A x_t``, one
per token: while there are fewer tokens than dimensions, exactly their ``A x`` lie in
its span. Order and text follow from there; who knows which tokens has won.

The attacker knows the base, the plan, the public A and how many distinct tokens there
are, and sees one vector. Everything up to that vector is the product's own.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tapestry.model.low_rank import factor
from tapestry.privacy import accounting
from tapestry.privacy.gaussian import NoiseSource
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.round_manifest import PrivacyPlan, RoundManifest, TrainingPlan
from tapestry.schema import Noise
from tapestry.secagg.masks import Mask, add_masks
from tapestry.secagg.quantization import Encoding, check_sum, mean
from tapestry.vectors import FloatVector, RingVector
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_node.round.contribution import prepare
from tapestry_node.training.dp_sgd import Runtime, noiseless_step, update
from tests.support import plans
from tests.support.secagg_cohort import manifest_for, members

RANK, WIDTH, BYTES = 64, 96, 256
TARGET = "model.layers.0.self_attn.v_proj"  # the plan that is worst for a node
SYMBOLS = "abcdefghijklmnopqrstuvwxyz0123456789-.:/"
DELTA = "0.00001"

Scores = npt.NDArray[np.float64]
Trained = Any  # float32, or whole numbers with shared noise


def codes(generator: np.random.Generator, count: int) -> list[str]:
    """Draw records that nobody can guess: twelve characters, as a password has."""
    drawn = generator.choice(list(SYMBOLS), size=(count, 12))
    return ["".join(row) for row in drawn]


def training_plan() -> TrainingPlan:
    return plans.training_plan(
        parameterization="low_rank",
        rank=RANK,
        targets=(TARGET,),
        steps=1,
        batch_size=1,
        learning_rate="1",
        options={"sequence_length": 24},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Nodes with one record each, which is in every batch; clipped to the bound."""

    model: LanguageWorkload
    nodes: int
    noise: Noise = "none"
    noise_multiplier: str = "0"
    seed: int = 0

    @property
    def manifest(self) -> RoundManifest:
        training = training_plan()
        return manifest_for(
            members(self.nodes),
            length=self.model.layout(training).length,
            clip_norm="4",
            clip_value="1",
            scale_bits=26,
            training=training,
            privacy=self.privacy(),
        )

    def privacy(self) -> PrivacyPlan:
        if self.noise == "none":
            return plans.privacy_plan(noise="none")
        return plans.privacy_plan(
            noise=self.noise,
            noise_multiplier=self.noise_multiplier,
            clip_norm="0.015625",
            target_delta=DELTA,
        )

    def source(self, place: int, use: str) -> NoiseSource:
        label = f"{self.seed} {place} {use}".encode()
        return NoiseSource.unsafe_from_key(hashlib.sha256(label).digest())

    def trained(self, text: str, *, place: int = 1) -> Trained:
        """One node's update, before it is prepared to leave."""
        plan = self.manifest
        units = self.model.encode([text], sequence_length=24)
        runtime = Runtime(source=self.source(place, "training"))
        if self.noise == "shared":
            return noiseless_step(
                self.model, units, manifest=plan, records=1, runtime=runtime
            )
        return update(
            self.model,
            units,
            training=plan.training,
            privacy=plan.privacy,
            records=1,
            runtime=runtime,
        ).values

    def encoded(self, trained: Trained, *, place: int = 1) -> RingVector:
        """What the node masks: clipped, rounded, and with its share of noise."""

        def random(size: int) -> bytes:
            return self.source(place, "rounding").words(size // 8).tobytes()

        return prepare(
            trained,
            manifest=self.manifest,
            random=random,
            noise=self.source(place, "share"),
        ).values

    def masked(self, trained: Trained) -> FloatVector:
        """What the node uploads, to whoever lacks the masks."""
        values = self.encoded(trained)
        key = self.source(1, "mask").words(4).tobytes()
        add_masks(values, [Mask(key)], threads=1)
        return np.asarray(values.view(np.int32), dtype=np.float32)

    def opened(self, trained: Sequence[Trained]) -> FloatVector:
        """What the coordinator learns: the mean of all nodes."""
        encoding = Encoding.of(self.manifest)
        rows = [self.encoded(row, place=i) for i, row in enumerate(trained, 1)]
        total: RingVector = np.stack(rows).sum(axis=0, dtype=np.uint32)
        check_sum(total, encoding=encoding, survivors=self.nodes)
        return mean(total, encoding=encoding, survivors=self.nodes)

    @property
    def epsilon(self) -> float | None:
        """What the round costs a record; None where nothing is promised."""
        if self.noise == "none":
            return None
        share = NoiseShare.of(self.manifest)
        whole = float(self.noise_multiplier)
        step = accounting.Steps(
            noise_multiplier=share.noise_multiplier if share else whole,
            sampling_rate=1.0,
            steps=1,
            coordinates=self.manifest.length if share else 0,
            bound=share.bound if share else 0.0,
        )
        return accounting.epsilon([step], target_delta=float(DELTA))


def present(model: LanguageWorkload, texts: Sequence[str]) -> set[int]:
    """All bytes but each last one, on which nothing depends."""
    units = model.encode(texts, sequence_length=24)
    found = {token for u in units for s in u.rows for token in s[:-1]}
    return {token for token in found if token < BYTES}


def scores(
    model: LanguageWorkload, vector: FloatVector, *, tokens: int
) -> list[Scores]:
    """Two ways to rank all bytes: nearness to the span, and energy along ``A x``."""
    gradient = vector.reshape(-1, RANK).astype(np.float64)
    plan = training_plan()
    a = factor(f"{TARGET}.weight", rank=RANK, width=WIDTH, seed=plan.factor_seed)
    vectors = inputs(model)[:BYTES] @ a.T
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    _, sizes, rows = np.linalg.svd(gradient)
    kept = min(int((sizes > 1e-5 * sizes[0]).sum()), tokens + 1)  # one begins the text
    inside = np.linalg.norm(vectors @ rows[:kept].T, axis=1)
    return [inside, np.linalg.norm(vectors @ gradient.T, axis=1)]


def inputs(model: LanguageWorkload) -> Scores:
    """What the first layer sees for each token, whatever its position."""
    inner = model.module.get_submodule("model")
    with torch.no_grad():
        embedded = inner.get_submodule("embed_tokens").weight
        seen = inner.get_submodule("layers.0.input_layernorm")(embedded)
    return np.asarray(seen.double().numpy())


def recovered(
    model: LanguageWorkload, vector: FloatVector, texts: Sequence[str]
) -> tuple[list[float], float]:
    """The share of tokens among as many guesses, for each ranking; and by chance."""
    right = present(model, texts)
    found = []
    for ranking in scores(model, vector, tokens=len(right)):
        guesses = np.argsort(-ranking)[: len(right)].tolist()
        found.append(len(right.intersection(guesses)) / len(right))
    return found, len(right) / BYTES
