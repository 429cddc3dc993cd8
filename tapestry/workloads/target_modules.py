"""The modules of a model that a low-rank plan moves, and those that it can move.

A plan in the log names its targets. Settings may leave them open; then the workload
chooses them from the model when the plan is made (``Workload.choose_targets``).
"""

from collections.abc import Collection, Iterable, Mapping

from torch import nn

from tapestry.errors import ConfigError
from tapestry.protocol.round_manifest import TrainingPlan


def linear_modules(
    module: nn.Module, parameters: Collection[str]
) -> dict[str, nn.Linear]:
    """Find what a low-rank plan can move, by name, in module order.

    Attached LoRA layers do not count; tied parameters are named once.
    """
    return {
        name.removesuffix(".base_layer"): part
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and ".lora_" not in name
        if f"{name.removesuffix('.base_layer')}.weight" in parameters
    }


def find_targets(
    linear: Mapping[str, nn.Linear], plan: TrainingPlan
) -> dict[str, nn.Linear]:
    """Pick the modules that a plan names, in module order.

    Raises:
        ConfigError: The rank is 0, no target is named, or one is not a linear module
            of this model.
    """
    if plan.rank < 1:
        raise ConfigError(
            "rank 0 trains nothing; set rank to 1 or more", code="rank-zero"
        )
    if not plan.targets:
        raise ConfigError(
            f"no linear module is named; {choice_of(linear)}",
            code="target-module-missing",
        )
    for target in plan.targets:
        if not any(_matches(name, target) for name in linear):
            raise ConfigError(
                f"no linear module {target!r} in this model; {choice_of(linear)}",
                code="target-module-unknown",
            )
    return {
        name: part
        for name, part in linear.items()
        if any(_matches(name, target) for target in plan.targets)
    }


def choice_of(linear: Iterable[str]) -> str:
    """Say what can be targeted."""
    known = sorted(leaves_of(linear))
    if not known:
        return (
            "nothing in this model can be targeted: it has no layer of type"
            " torch.nn.Linear (GPT-2 has Conv1D); choose another base"
        )
    return f"targets may be {', '.join(known)}"


def leaves_of(names: Iterable[str]) -> list[str]:
    """Last parts of module names, each once, in the order of the model."""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
