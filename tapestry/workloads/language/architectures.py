"""Check of the architectures that private training takes, from the model alone.

DP-SGD needs the gradient of each sequence by itself. A model that looks at all rows of
a batch would mix them, one that keeps something for the next batch would carry them
over, and one that draws at random would give the same sequence two gradients. Let in
are only architectures that are tested to do none of it, set to do none of it.

The check needs neither records nor the library of per-sequence gradients, so that a
coordinator can make it before it opens a round, and a node before it charges one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # also of instance norms
from torch.nn.modules.dropout import _DropoutNd

from tapestry.errors import ConfigError
from tapestry.workloads.language.architecture_names import ARCHITECTURES

ROTARY = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary types whose frequencies are the same for sequences of any length.

"longrope" takes them from the longest sequence of a batch, and "dynamic" keeps those of
a long sequence for the batches that follow: there, a unit moves what others give.
"""

_RANDOM = ("dropout", "pdrop", "layerdrop", "drop_path", "jitter_noise")
_NO_MATTER = ("classifier_", "summary_")  # of heads that no language model has


def check_architecture(module: nn.Module) -> None:
    """Refuse a model whose per-sequence gradients are not known to be right.

    Guarantees:
        Only the model's configuration and kinds of modules are looked at; no value of a
        parameter, and no record.

    Edge cases:
        A rate of dropout above 0 is refused though a step could run without: then
        nodes would train another model than its configuration says.

    Raises:
        ConfigError: The architecture or its rotary type is not tested, it drops out at
            random, or it keeps statistics over a batch.
    """
    config: Any = getattr(module, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in ARCHITECTURES:
        raise ConfigError(
            f"no private training of architecture {kind!r}; tested are "
            + ", ".join(sorted(ARCHITECTURES))
            + "; choose a base of one of them",
            code="architecture-not-private",
        )
    settings: Mapping[str, object] = config.to_dict()
    check_rotary(settings)
    for name, rate in (*_set_rates(settings), *_built_rates(module)):
        if rate > 0:
            raise ConfigError(
                f"no private training with dropout, and {name} is {rate:g}; set it to 0"
                " in the base's config.json",
                code="dropout-not-private",
            )
    for name, part in module.named_modules():
        if isinstance(part, _NormBase):
            raise ConfigError(
                f"no private training with {type(part).__name__} ({name}), which shares"
                " statistics across a batch; choose a base with layer or RMS norms",
                code="architecture-not-private",
            )


def check_rotary(settings: Mapping[str, object]) -> None:
    """Refuse a configuration whose rotary frequencies depend on the batch.

    Raises:
        ConfigError: A rotary type is not in ``ROTARY``, be it of a single layer.
    """
    if strange := sorted(set(_rotary_types(settings)) - ROTARY):
        raise ConfigError(
            f"no private training with rotary type {strange[0]!r}, whose frequencies"
            f" may depend on the batch; fixed are {', '.join(sorted(ROTARY))}",
            code="architecture-not-private",
        )


def _set_rates(settings: object, *, place: str = "") -> Iterator[tuple[str, float]]:
    """Find the rates of a configuration and of its parts."""
    if not isinstance(settings, Mapping):
        return
    for name, value in settings.items():
        where = f"{place}{name}"
        if _is_rate(str(name)) and isinstance(value, int | float):
            yield where, float(value)
        yield from _set_rates(value, place=f"{where}.")


def _built_rates(module: nn.Module) -> Iterator[tuple[str, float]]:
    """Find the rates that the modules hold, whatever the configuration says."""
    for name, part in module.named_modules():
        if isinstance(part, _DropoutNd):
            yield f"{name}.p", float(part.p)
        for attribute, value in vars(part).items():
            if _is_rate(attribute) and isinstance(value, int | float):
                yield f"{name}.{attribute}", float(value)


def _is_rate(name: str) -> bool:
    named = any(word in name.lower() for word in _RANDOM)
    return named and not name.startswith(_NO_MATTER)


def _rotary_types(settings: object, *, inside: bool = False) -> Iterator[str]:
    """Find the rotary types, at any depth; ``type`` is what they were called once."""
    if isinstance(settings, list | tuple):
        settings = dict(enumerate(settings))
    if not isinstance(settings, Mapping):
        return
    for name, value in settings.items():
        if name == "rope_type" or (inside and name == "type"):
            yield str(value)
        else:
            rotary = name in {"rope_parameters", "rope_scaling"}
            yield from _rotary_types(value, inside=inside or rotary)
