"""The check for bfloat16 arithmetic in the processor."""

import torch


def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16; others take fifty times longer."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
