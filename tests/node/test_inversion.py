"""Which tokens were in a record, from what a node sends: all, none, hardly any.

The attack (``inversion``) must find every token of an update that nothing protects, or
what it does not find elsewhere says nothing.
"""

from dataclasses import replace

import numpy as np
import pytest

from tapestry.schema import Noise
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.workload import LanguageWorkload
from tests.support.inversion import BYTES, Federation, codes, present, recovered, scores

KINDS: tuple[Noise, ...] = ("local", "shared")


@pytest.fixture(scope="module")
def model() -> LanguageWorkload:
    return build_tiny()


def best(found: list[list[float]]) -> float:
    """What the better of the two rankings finds, over all trials."""
    return max(float(np.mean(column)) for column in zip(*found, strict=True))


def drawn(count: int, *, seed: int = 0) -> list[str]:
    return codes(np.random.default_rng(seed), count)


@pytest.mark.parametrize("seed", range(4))
def test_a_raw_update_gives_away_every_token(
    model: LanguageWorkload, seed: int
) -> None:
    """Exactly its tokens lie in the span; nobody has to say how many there are."""
    [text] = drawn(1, seed=seed)
    vector = Federation(model=model, nodes=4).trained(text)
    nearness, _ = scores(model, vector, tokens=BYTES)
    assert set(np.flatnonzero(nearness > 1 - 1e-4).tolist()) == present(model, [text])


@pytest.mark.parametrize("count", [4, 10])
def test_a_sum_without_noise_gives_away_every_token_as_well(
    model: LanguageWorkload, count: int
) -> None:
    texts = drawn(count)
    federation = Federation(model=model, nodes=count)
    vector = np.sum([federation.trained(text) for text in texts], axis=0)
    shares, chance = recovered(model, vector, texts)
    assert max(shares) == 1
    assert chance < 0.2


def test_clipping_alone_hides_nothing(model: LanguageWorkload) -> None:
    texts = drawn(1)
    federation = Federation(
        model=model, nodes=4, noise="local", noise_multiplier="0.0000001"
    )
    shares, _ = recovered(model, federation.trained(texts[0]), texts)
    assert max(shares) == 1


def test_a_masked_update_is_at_chance(model: LanguageWorkload) -> None:
    texts = drawn(8)
    bare = Federation(model=model, nodes=4)
    trained = [bare.trained(text) for text in texts]
    above = []
    for seed in range(64):
        vector = replace(bare, seed=seed).masked(trained[seed % 8])
        shares, chance = recovered(model, vector, [texts[seed % 8]])
        above.append([share - chance for share in shares])
    error = np.std(above, axis=0) / np.sqrt(len(above))
    assert (np.abs(np.mean(above, axis=0)) < 4 * error).all()
    assert (4 * error < 0.1).all()


def attacked(federation: Federation, texts: list[str]) -> tuple[list[float], float]:
    """Open the sum of all nodes and read tokens off it."""
    rows = [federation.trained(text, place=i) for i, text in enumerate(texts, 1)]
    return recovered(federation.model, federation.opened(rows), texts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_under_noise_is_close_to_chance(
    model: LanguageWorkload, kind: Noise
) -> None:
    """With the product's own noise; a five hundredth of it would be noticed."""
    texts = drawn(4)
    noised = Federation(model=model, nodes=4, noise=kind, noise_multiplier="1")
    assert noised.epsilon == pytest.approx(4.38, abs=0.01)
    tried = [attacked(replace(noised, seed=seed), texts) for seed in range(3)]
    assert best([shares for shares, _ in tried]) < tried[0][1] + 0.15
    shares, _ = attacked(replace(noised, noise_multiplier="0.002"), texts)
    assert max(shares) > 0.5
