"""Which tokens were in a record, from what a node sends: all, none, hardly any.

The attack is the first step of DAGER (arXiv 2405.15586) on the tiny model. The
gradient of B in the first layer is a sum of outer products with ``A x_t``, one per
token: while a record has fewer tokens than the rank, exactly its tokens' ``A x`` lie
in the span. Recovering the text from there is a matter of order.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from tapestry.low_rank import factor
from tapestry.privacy.noise import NoiseSource
from tapestry.protocol import TrainingPlan
from tapestry.secagg.keystream import Mask, add_masks
from tapestry.vector import FloatVector
from tapestry.workloads.bases import build_tiny
from tapestry.workloads.language import LanguageModel
from tapestry_node.training import Runtime, update
from tests.node import tiny

RANK = 32
TEXTS = ["ward 7, bed 2", "my pin is 4821", "Zoë left early", "xylem, quartz"]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return build_tiny()


def plan(*, records: int) -> TrainingPlan:
    return tiny.training_plan(
        parameterization="low_rank",
        rank=RANK,
        targets=("v_proj",),
        sequence_length=24,
        steps=1,
        batch_size=records,
        learning_rate=str(records),
    )


def sent(
    model: LanguageModel, texts: list[str], *, key: int = 0, **privacy: str
) -> FloatVector:
    """One step on some records, by the product: minus the (noised) gradient sum."""
    units = model.encode(texts, sequence_length=24)
    done = update(
        model,
        units,
        training=plan(records=len(texts)),
        privacy=tiny.privacy_plan(target_delta="0.00001", **privacy),
        records=len(texts),
        runtime=Runtime(source=NoiseSource.unsafe_from_key(bytes([key]) * 32)),
    )
    return done.values


def distances(model: LanguageModel, vector: FloatVector) -> np.ndarray:
    """How far each token is from the span of what was sent, between 0 and 1."""
    name, shape = model.layout(plan(records=1)).tensors[0]
    gradient = vector[: shape[0] * shape[1]].reshape(shape).astype(np.float64)
    _, sizes, rows = np.linalg.svd(gradient)
    rank = int((sizes > 1e-5 * sizes[0]).sum())
    span = rows[: min(rank, RANK // 2)]
    vectors = _inputs(model) @ factor(name, rank=RANK, width=96, seed="0" * 64).T
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    apart = np.linalg.norm(vectors - vectors @ span.T @ span, axis=1)
    return np.asarray(apart)


def _inputs(model: LanguageModel) -> np.ndarray:
    """What the first layer sees for each token, whatever its position."""
    inner = model.module.get_submodule("model")
    with torch.no_grad():
        embedded = inner.get_submodule("embed_tokens").weight
        seen = inner.get_submodule("layers.0.input_layernorm")(embedded)
    return np.asarray(seen.double().numpy())


def tokens_of(model: LanguageModel, texts: list[str]) -> set[int]:
    """All tokens but each last one, on which nothing depends."""
    units = model.encode(texts, sequence_length=24)
    return {token for u in units for s in u.sequences for token in s[:-1]}


def auc(model: LanguageModel, vector: FloatVector, texts: list[str]) -> float:
    """Chance that a token that was there scores better than one that was not."""
    present = tokens_of(model, texts)
    scores = -distances(model, vector)
    inside = scores[sorted(present)]
    outside = scores[[t for t in range(scores.size) if t not in present]]
    wins = float(stats.mannwhitneyu(inside, outside).statistic)
    return wins / (inside.size * outside.size)


@pytest.mark.parametrize("text", TEXTS)
def test_a_raw_update_gives_away_every_token(model: LanguageModel, text: str) -> None:
    vector = sent(model, [text], noise="none")
    found = np.flatnonzero(distances(model, vector) < 0.01)
    assert set(found.tolist()) == tokens_of(model, [text])


def test_clipping_alone_hides_nothing(model: LanguageModel) -> None:
    vector = sent(model, TEXTS[:1], noise_multiplier="0.0000001", clip_norm="0.001")
    assert auc(model, vector, TEXTS[:1]) > 0.95


def test_a_masked_update_is_at_chance(model: LanguageModel) -> None:
    found = []
    for trial in range(40):
        text = TEXTS[trial % len(TEXTS)]
        vector = sent(model, [text], noise="none")
        ring = np.rint(vector * 2.0**16).astype(np.int64).astype(np.uint32)
        add_masks(ring, [Mask(key=bytes([trial]) * 32)], threads=1)
        found.append(auc(model, ring.view(np.int32).astype(np.float32), [text]))
    mean, error = np.mean(found), np.std(found) / np.sqrt(len(found))
    assert abs(mean - 0.5) < 4 * error < 0.1


def test_a_private_update_is_close_to_chance(model: LanguageModel) -> None:
    found = [
        auc(model, sent(model, [text], key=key), [text])
        for text in TEXTS
        for key in range(5)
    ]
    assert 0.45 < np.mean(found) < 0.65
