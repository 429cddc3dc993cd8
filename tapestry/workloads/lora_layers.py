"""LoRA layers of PEFT, put into a module and taken out again without a trace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from tapestry.vectors import FloatVector

ADAPTER = "default"  # PEFT's own name for the only adapter


@contextmanager
def inserted(
    module: nn.Module, factors: Mapping[str, FloatVector]
) -> Iterator[dict[str, nn.Parameter]]:
    """Put B A beside some linear modules and yield each B, zero and trainable.

    Nothing in the model is trainable yet; ``factors`` has the frozen A of each module,
    shape (rank, in), by its name.
    """
    import peft

    rank = next(iter(factors.values())).shape[0]
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=list(factors)
    )
    with restoring(module), torch.random.fork_rng(devices=[]):  # PEFT draws A, in vain
        peft.LoraModel(module, {ADAPTER: config}, ADAPTER)
        yield {name: _prepare(module, name, a) for name, a in factors.items()}


@contextmanager
def restoring(module: nn.Module) -> Iterator[None]:
    """Take every LoRA layer out again, whatever happens."""
    flags = [(p, p.requires_grad) for p in module.parameters()]
    known = set(vars(module))
    try:
        yield
    finally:
        for name, layer in list(module.named_modules()):
            inner: Any = getattr(layer, "base_layer", None)
            if inner is not None:
                parent, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(parent), leaf, inner)
        for leftover in set(vars(module)) - known:
            with suppress(AttributeError):
                delattr(module, leftover)
        for parameter, flag in flags:
            parameter.requires_grad = flag


def _prepare(module: nn.Module, name: str, factor: FloatVector) -> nn.Parameter:
    layer: Any = module.get_submodule(name)
    for factors in (layer.lora_A, layer.lora_B):
        factors.float()  # PEFT gives them the type of the base
    left: nn.Parameter = layer.lora_B[ADAPTER].weight
    right: nn.Parameter = layer.lora_A[ADAPTER].weight
    with torch.no_grad():
        right.copy_(torch.from_numpy(factor))
        left.zero_()
    right.requires_grad = False
    left.requires_grad = True
    return left
