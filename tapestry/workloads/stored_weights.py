"""Layers whose frozen weights stay in the type in which they are stored.

A base in bfloat16 takes twice its size as float32, and a replica holds it already. Here
a module's parameters are the replica's own arrays, without a copy, and a layer widens
its weight to float32 when it computes with it, forwards and backwards::

    replica   uint16 bits of a bfloat16   --- the same memory --->   layer.weight
    layer     widens one weight at a time, float32, and drops it again

Guarantees:
    Widening is exact, so that a result has the bits that it has with a module in
    float32, where the machine multiplies matrices alike.

Edge cases:
    A weight of another kind of layer is widened once and stays so: these are small.
    Arrays that are shared must not be written to; nothing here does.
"""

import warnings
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from tapestry.tensor_types import Stored, type_name, widen
from tapestry.vectors import Parameters


class _Product(torch.autograd.Function):
    """``x W^T + b``, both frozen; keeps W as it is stored, and nothing of x."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, features: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(weight)
        return functional.linear(features, weight.float(), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return grads[0].matmul(weight.float()), None, None


def keep_stored(module: nn.Module) -> None:
    """Let the plain linear and embedding layers of a module take stored weights.

    The layers stay of their classes, by which Opacus and PEFT know them.
    """
    for part in module.modules():
        if (forward := _FORWARDS.get(type(part))) is not None:
            part.forward = MethodType(forward, part)


def _linear(layer: nn.Linear, features: Tensor) -> Tensor:
    """Apply a layer to float32 features of shape (..., in); returns (..., out)."""
    is_coarse = torch.is_autocast_enabled(features.device.type)
    if layer.weight.dtype == torch.float32 or is_coarse:
        return functional.linear(features, layer.weight, layer.bias)
    found: Tensor = _Product.apply(  # type: ignore[no-untyped-call]  # torch's own
        features, layer.weight, layer.bias
    )
    return found


def _embedding(layer: nn.Embedding, rows: Tensor) -> Tensor:
    """Look rows up by number, shape (...); returns float32 (..., width)."""
    return nn.Embedding.forward(layer, rows).float()


_FORWARDS: Mapping[type[nn.Module], Callable[..., Tensor]] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
}


def place(
    module: nn.Module,
    own: Mapping[str, nn.Parameter],
    given: Parameters,
    *,
    device: torch.device,
) -> None:
    """Give each of a module's own parameters the value of its name.

    Guarantees:
        On a processor no value is copied whose type the layer takes as it is.
    """
    stored = {
        id(part.weight)
        for part in module.modules()
        if type(part) in _FORWARDS and "forward" in vars(part)
    }
    for name, parameter in own.items():
        narrow = id(parameter) in stored
        parameter.data = _tensor(given[name], narrow=narrow).to(device)


def _tensor(array: Stored, *, narrow: bool) -> Tensor:
    """Return a tensor that shares an array's memory, if need be widened first."""
    if not narrow:
        return _shared(widen(array))
    if type_name(array) != "BF16":
        return _shared(array)
    return _shared(array.view(np.int16)).view(torch.bfloat16)


def _shared(array: Stored) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(array)
