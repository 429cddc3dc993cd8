"""The targets of a low-rank plan for a language model whose settings name none.

They are those of PEFT's list for this kind of model, else the linear projections of
its attention.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from tapestry.errors import ConfigError
from tapestry.workloads.target_modules import choice_of, leaves_of

_ATTENTION = ("attn", "attention")  # in the name of a part


def choose_targets(
    module: nn.Module, linear: Mapping[str, nn.Linear]
) -> tuple[str, ...]:
    """Choose targets for a model where settings name none.

    Raises:
        ConfigError: Nothing in it can be targeted.
    """
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN,
    )

    config: Any = getattr(module, "config", None)
    known = KNOWN.get(getattr(config, "model_type", ""), ())
    leaves = leaves_of(linear)
    chosen = (
        [] if isinstance(known, str) else [leaf for leaf in known if leaf in leaves]
    )
    if not chosen:
        inside = (n for n in linear if any(word in n.lower() for word in _ATTENTION))
        chosen = leaves_of(inside)
    if not chosen:
        raise ConfigError(
            f"no linear module of attention to target; {choice_of(linear)}",
            code="target-module-missing",
        )
    return tuple(chosen)
