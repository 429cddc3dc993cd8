"""A published PEFT adapter on a loaded model, checked on its way in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tapestry.artifacts import adapter_folder
from tapestry.artifacts.adapter_folder import AdapterFolder
from tapestry.errors import ConfigError, IncompleteError, VerificationError
from tapestry.workloads.language.pretrained import refusing
from tapestry.workloads.lora_layers import ADAPTER, restoring


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
    with restoring(module):
        with refusing(f"adapter {directory} does not fit the base"):
            peft.PeftModel.from_pretrained(module, str(directory))
            _check_layers(module, adapter)
        yield


def _read(module: nn.Module, directory: Path) -> AdapterFolder:
    if not directory.is_dir():
        raise ConfigError(f"no adapter folder {directory}", code="folder-missing")
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
        raise ConfigError(f"adapter {directory}: {error}", code=error.code) from error
    return adapter


def _check_layers(module: nn.Module, adapter: AdapterFolder) -> None:
    """Require that PEFT put in what the folder holds, and nothing more."""
    layers: dict[str, Any] = {
        name: layer
        for name, layer in module.named_modules()
        if hasattr(layer, "base_layer")
    }
    if strange := sorted(layers.keys() ^ set(adapter.modules)):
        raise ConfigError(
            f"the layer {strange[0]!r} and its factors do not meet",
            code="adapter-shape-mismatch",
        )
    for name, layer in layers.items():
        for letter, factors in (("A", layer.lora_A), ("B", layer.lora_B)):
            loaded = factors[ADAPTER].weight.detach().cpu().numpy()
            if not np.array_equal(loaded, adapter.factor(name, letter)):
                raise ConfigError(
                    f"factor {letter} of {name!r} is changed on loading",
                    code="tensor-differs",
                )
