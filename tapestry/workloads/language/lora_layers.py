"""LoRA layers of PEFT, put into a module and taken out again without a trace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tapestry.artifacts import adapter_folder
from tapestry.artifacts.adapter_folder import AdapterFolder
from tapestry.errors import ConfigError, IncompleteError, VerificationError
from tapestry.vectors import FloatVector
from tapestry.workloads.language.pretrained import refusing

_ADAPTER = "default"  # PEFT's own name for the only adapter


@contextmanager
def inserted(
    module: nn.Module, factors: Mapping[str, FloatVector]
) -> Iterator[dict[str, nn.Parameter]]:
    """Put B A beside some linear modules and yield each B, zero and trainable.

    Args:
        module: The model; nothing in it is trainable yet.
        factors: The frozen A of each module, shape (rank, in), by module name.
    """
    import peft

    rank = next(iter(factors.values())).shape[0]
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=list(factors)
    )
    with _restoring(module), torch.random.fork_rng(devices=[]):  # PEFT draws A, in vain
        peft.LoraModel(module, {_ADAPTER: config}, _ADAPTER)
        yield {name: _prepare(module, name, a) for name, a in factors.items()}


@contextmanager
def published(module: nn.Module, directory: Path) -> Iterator[None]:
    """Run with a PEFT folder, exactly as plain ``peft`` loads it.

    Guarantees:
        The LoRA layers are those that the folder holds factors for, with its values,
        and no others; no file was there that PEFT could have obeyed besides.

    Raises:
        ConfigError: The folder holds no adapter that fits the module, or PEFT warns.
        ForeignFileError: A file lies in the folder that is no part of an adapter.
    """
    import peft

    adapter = _read(module, directory)
    with _restoring(module):
        with refusing(f"adapter {directory} does not fit the base"):
            peft.PeftModel.from_pretrained(module, str(directory))
            _check_layers(module, adapter)
        yield


def _read(module: nn.Module, directory: Path) -> AdapterFolder:
    if not directory.is_dir():
        raise ConfigError(f"no adapter folder {directory}")
    adapter_folder.FILES.check(directory)
    linear = {
        f"{name}.weight": tuple(each.weight.shape)
        for name, each in module.named_modules()
        if isinstance(each, nn.Linear)
    }
    try:
        adapter = adapter_folder.read(directory)
        adapter.check_fit(linear)
    except (VerificationError, IncompleteError) as error:
        raise ConfigError(f"adapter {directory}: {error}") from error
    return adapter


def _check_layers(module: nn.Module, adapter: AdapterFolder) -> None:
    """Require that PEFT put in what the folder holds, and nothing more."""
    layers: dict[str, Any] = {
        name: layer
        for name, layer in module.named_modules()
        if hasattr(layer, "base_layer")
    }
    if strange := sorted(layers.keys() ^ set(adapter.modules)):
        raise ConfigError(f"the layer {strange[0]!r} and its factors do not meet")
    for name, layer in layers.items():
        for letter, factors in (("A", layer.lora_A), ("B", layer.lora_B)):
            loaded = factors[_ADAPTER].weight.detach().cpu().numpy()
            if not np.array_equal(loaded, adapter.factor(name, letter)):
                raise ConfigError(f"factor {letter} of {name!r} is changed on loading")


@contextmanager
def _restoring(module: nn.Module) -> Iterator[None]:
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
    left: nn.Parameter = layer.lora_B[_ADAPTER].weight
    right: nn.Parameter = layer.lora_A[_ADAPTER].weight
    with torch.no_grad():
        right.copy_(torch.from_numpy(factor))
        left.zero_()
    right.requires_grad = False
    left.requires_grad = True
    return left
