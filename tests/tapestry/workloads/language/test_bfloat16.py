"""Which processors multiply bfloat16."""

import pytest
import torch

from tapestry.workloads.language.bfloat16 import multiplies_bfloat16


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, False),
        ({"avx512_f": True}, False),
        ({"avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
    ],
    ids=str,
)
def test_a_processor_multiplies_bfloat16_if_one_of_its_units_does(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert multiplies_bfloat16() is expected
