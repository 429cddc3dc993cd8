"""The check for bfloat16 arithmetic in the processor."""

import torch


def multiplies_bfloat16() -> bool:
    """Return True if the processor multiplies bfloat16; others are 50 times slower."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
