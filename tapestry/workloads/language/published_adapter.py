"""A published PEFT adapter on a loaded model, checked on its way in."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tapestry.artifacts import adapter_folder
from tapestry.artifacts.adapter_folder import CONFIG, WEIGHTS, AdapterFolder
from tapestry.artifacts.safetensors_writer import encode_tensors
from tapestry.errors import (
    ConfigError,
    IncompleteError,
    ProtocolError,
    VerificationError,
)
from tapestry.workloads.language.pretrained import private_copy, refusing
from tapestry.workloads.lora_layers import ADAPTER, restoring


@contextmanager
def published(module: nn.Module, adapter: AdapterFolder) -> Iterator[None]:
    """Run with an adapter, exactly as plain ``peft`` loads its folder.

    Guarantees:
        As ``published_all``.

    Raises:
        ConfigError: The adapter does not fit the module, or PEFT warns.
    """
    with published_all(module, {ADAPTER: adapter}):
        yield


@contextmanager
def published_all(
    module: nn.Module, adapters: Mapping[str, AdapterFolder]
) -> Iterator[None]:
    """Put in adapters under names of PEFT's, each as plain ``peft`` loads its folder.

    The first one is active, until a layer is told the names of a batch's rows.

    Guarantees:
        The LoRA layers are those that the adapters hold factors for, with their values,
        and no others. PEFT reads a private copy of what was checked, and no other file.

    Raises:
        ConfigError: An adapter does not fit the module, or PEFT warns.
    """
    import peft

    for adapter in adapters.values():
        _check_fit(module, adapter)
    model: Any = None
    with restoring(module):
        for name, adapter in adapters.items():
            weights = b"".join(encode_tensors(adapter.weights.arrays))
            files = {CONFIG: adapter.files[CONFIG], WEIGHTS: weights}
            with (
                private_copy(files) as folder,
                refusing("the adapter does not fit the base"),
            ):
                if model is None:
                    load = partial(peft.PeftModel.from_pretrained, module)
                    model = load(str(folder), adapter_name=name)
                else:
                    model.load_adapter(str(folder), adapter_name=name)
                _check_layers(module, adapter, name=name)
        yield


def read_adapter(directory: Path) -> AdapterFolder:
    """Read an adapter's folder, for ``published``.

    Raises:
        ConfigError: It is no folder, or breaks a rule of adapters.
        ForeignFileError: A file lies in the folder that is no part of an adapter.
        ResourceError: A file cannot be read.
    """
    if not directory.is_dir():
        raise ConfigError(f"no adapter folder {directory}", code="folder-missing")
    try:
        return adapter_folder.read(directory)
    except (VerificationError, IncompleteError, ProtocolError) as error:
        raise ConfigError(f"adapter {directory}: {error}", code=error.code) from error


def _check_fit(module: nn.Module, adapter: AdapterFolder) -> None:
    linear = {
        f"{name}.weight": tuple(each.weight.shape)
        for name, each in module.named_modules()
        if isinstance(each, nn.Linear)
    }
    try:
        adapter.check_fit(linear)
    except VerificationError as error:
        raise ConfigError(f"the adapter: {error}", code=error.code) from error


def _check_layers(module: nn.Module, adapter: AdapterFolder, *, name: str) -> None:
    """Require that PEFT put in what the folder holds, and nothing more."""
    layers: dict[str, Any] = {
        place: layer
        for place, layer in module.named_modules()
        if hasattr(layer, "base_layer") and name in layer.lora_A
    }
    if strange := sorted(layers.keys() ^ set(adapter.modules)):
        raise ConfigError(
            f"the layer {strange[0]!r} and its factors do not meet",
            code="adapter-shape-mismatch",
        )
    for place, layer in layers.items():
        for letter, factors in (("A", layer.lora_A), ("B", layer.lora_B)):
            loaded = factors[name].weight.detach().float().cpu().numpy()
            if not np.array_equal(loaded, adapter.factor(place, letter)):
                raise ConfigError(
                    f"factor {letter} of {place!r} is changed on loading",
                    code="tensor-differs",
                )
