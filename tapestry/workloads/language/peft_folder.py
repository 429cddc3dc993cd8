"""A trained low-rank update as a PEFT folder, which plain ``peft`` loads.

The update is B of each target; A is the public factor of the plan. The weights carry
the base they were trained on, by name and digest, in their own metadata, because
PEFT's configuration has no place for a digest. The configuration says where the base
lies beside the adapter, so that ``AutoPeftModelForCausalLM`` finds it.
"""

import json
from pathlib import Path

import numpy as np

from tapestry.artifacts.adapter_folder import CONFIG, WEIGHTS
from tapestry.artifacts.safetensors_writer import write_tensors
from tapestry.errors import ConfigError, ResourceError
from tapestry.model.low_rank import factor
from tapestry.protocol.round_manifest import TrainingPlan
from tapestry.vectors import FloatVector
from tapestry.workloads.adapter_format import BaseName
from tapestry.workloads.language.model import LanguageModel


def base_path(name: str) -> str:
    """Say where a release lies, from the folder that holds ``releases/``.

    Guarantees:
        ``peft`` and ``transformers`` take it for a folder or fail. A bare name, or
        ``releases/NAME``, could also name a repository on a model hub, which they
        would fetch instead.
    """
    return f"./releases/{name}"


def write_peft(
    folder: Path,
    update: FloatVector,
    *,
    model: LanguageModel,
    plan: TrainingPlan,
    base: BaseName,
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    Guarantees:
        The same update gives the same bytes. Loaded on the base, the adapter computes
        what the model computed while the plan was attached with these values.

    Raises:
        ConfigError: The plan trains all parameters; that is no adapter.
        ResourceError: The folder cannot be written.
    """
    import peft

    if plan.parameterization != "low_rank":
        raise ConfigError(
            "an adapter needs the parameterization low_rank",
            code="parameterization-not-low-rank",
        )
    pieces = model.layout(plan).split(update)
    tensors = {}
    for name, module in model.targets(plan).items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = factor(
            f"{name}.weight",
            rank=plan.rank,
            width=module.in_features,
            seed=plan.factor_seed,
        )
        tensors[f"base_model.model.{name}.lora_B.weight"] = np.ascontiguousarray(
            pieces[f"{name}.weight"]
        )
    metadata = {"format": "pt", "base": base.name, "base_digest": base.digest}
    config = peft.LoraConfig(
        r=plan.rank,
        lora_alpha=plan.rank,
        lora_dropout=0.0,
        target_modules=sorted(plan.targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_path(base.name),
        inference_mode=True,
    ).to_dict()
    config["target_modules"] = sorted(plan.targets)
    text = json.dumps(config, indent=2, sort_keys=True, default=str) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS, tensors, metadata)
        (folder / CONFIG).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            f"cannot write {folder}: {error.strerror}", code="file-unwritable"
        ) from error
