"""Stored types widen exactly and are rounded to nearest, ties to even."""

import numpy as np
import pytest
import torch

from tapestry.tensor_types import is_finite, narrow, to_bytes, type_name, widen

KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
EDGES = np.array(
    [0x00000000, 0x80000000, 0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0xFF7FFFFF,
     0x00000001, 0x7F800000, 0xFF800000, 0x33000000, 0x38800000],
    dtype=np.uint32,
).view(np.float32)  # fmt: skip


@pytest.mark.parametrize("name", list(KINDS))
def test_rounding_and_widening_are_those_of_torch(name: str) -> None:
    random = np.random.default_rng(5).integers(0, 2**32, 100_000, dtype=np.uint32)
    values = np.concatenate([EDGES, random.view(np.float32)])
    values = values[~np.isnan(values)]
    ours = narrow(values, name)
    theirs = torch.from_numpy(values).to(KINDS[name])
    assert type_name(ours) == name
    assert np.array_equal(widen(ours), theirs.float().numpy())
    bits = theirs.view(torch.int32 if name == "F32" else torch.int16).numpy()
    assert bytes(to_bytes(ours)) == bits.tobytes()


@pytest.mark.parametrize("name", list(KINDS))
def test_a_value_that_is_not_finite_stays_so_and_is_seen(name: str) -> None:
    for value in (np.nan, np.inf, -np.inf, np.float32(3e38)):
        kept = narrow(np.array([[1.0, value]], dtype=np.float32), name)
        assert kept.shape == (1, 2)
        assert np.isfinite(widen(kept)).all() == is_finite(kept)
        assert is_finite(kept) == (value == np.float32(3e38) and name != "F16")


def test_an_array_of_another_type_is_no_tensor() -> None:
    with pytest.raises(TypeError, match="float64"):
        type_name(np.zeros(1))
