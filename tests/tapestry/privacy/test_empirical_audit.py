"""A lower bound on epsilon from canaries: it convicts, and never wrongly."""

import numpy as np
import pytest

from tapestry.privacy.empirical_audit import gaussian_bound


def test_the_audit_bound_holds_for_a_gaussian_of_known_shift() -> None:
    from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

    generator = np.random.default_rng(0)
    truth = get_epsilon_gaussian(1.0, 1e-5)
    bounds = []
    for _ in range(300):
        excluded = generator.standard_normal(500)
        included = generator.standard_normal(500) + 1.0
        bounds.append(
            gaussian_bound(included, excluded, target_delta=1e-5, confidence=0.95)
        )
    assert np.mean(np.array(bounds) > truth) < 0.05
    assert np.mean(bounds) > 0.7 * truth
    excluded = generator.standard_normal(500)
    same = gaussian_bound(excluded, excluded, target_delta=1e-5, confidence=0.95)
    assert same == 0
    with pytest.raises(ValueError, match="ten canaries"):
        gaussian_bound(excluded[:9], excluded, target_delta=1e-5, confidence=0.95)
