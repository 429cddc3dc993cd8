"""Settings of a simulated federation, and settings files written from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from tapestry.artifacts.model_identity import ModelManifest
from tapestry.inputs.setting_values import to_toml
from tapestry.protocol.stages import SECAGG_STAGES
from tapestry.settings import Settings
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_governance.events.federation_events import USUAL_VOTING

DELTA = "0.00001"
# Changes of ``run_settings`` and ``node_settings`` after which there is no noise.
NO_NOISE = {
    "noise": "none",
    **dict.fromkeys(
        ("unit", "adjacency", "clip_norm", "noise_multiplier", "target_delta")
    ),
}
NO_ADAPTER_NOISE = {"noise": "none", "epsilon": None, "clip_norm": None}


def write_settings(path: Path, values: Mapping[str, Any], of: type[Settings]) -> Path:
    """Write fields of a model, decimals as text, to a file; they need not be right."""
    path.write_text(tomli_w.dumps(to_toml(values, of)), encoding="utf-8")
    return path


def change_settings(path: Path, of: type[Settings], changes: Mapping[str, Any]) -> None:
    """Replace some fields of a file; None takes a key out."""
    write_settings(path, merged(of.read(path).model_dump(), changes), of)


def merged(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """Replace values of nested tables by others; None takes a key out.

    A workload's options are replaced as a whole.
    """
    both = dict(left)
    for key, value in right.items():
        if value is None:
            both.pop(key, None)
            continue
        known = both.get(key)
        nested = isinstance(known, Mapping) and isinstance(value, Mapping)
        nested = nested and key != "options"
        both[key] = merged(known, value) if nested and known is not None else value
    return both


def coordinator_settings() -> CoordinatorSettings:
    """``coordinator.toml`` of a federation that is simulated."""
    return CoordinatorSettings(
        federation="simulated",
        origin="simulated.example/log",
        address="localhost:443",
    )


def run_settings() -> dict[str, Any]:
    """``run.toml`` of a run of one round with one step."""
    return {
        "run_id": "run",
        "rounds": 1,
        "release_every": 10,
        "base": "tiny",
        "adapters": False,
        "training": {
            "workload": "language",
            "parameterization": "low_rank",
            "rank": 2,
            "targets": ("q_proj",),
            "steps": 1,
            "batch_size": 6,
            "optimizer": "sgd",
            "learning_rate": "0.1",
            "weight_decay": "0",
            "options": {"sequence_length": 16},
        },
        "privacy": {
            "noise": "local",
            "unit": "record",
            "adjacency": "add-remove",
            "clip_norm": "0.5",
            "noise_multiplier": "1",
            "target_delta": DELTA,
        },
        "secagg": {
            "max_colluding": 1,
            "min_cohort": 3,
            "clip_norm": "4",
            "clip_value": "4",
            "scale_bits": 20,
        },
        "outer": {
            "optimizer": "nesterov",
            "learning_rate": "0.5",
            "momentum": "0.5",
            "max_norm": "4",
            "max_loss_increase": "1",
        },
        "deadlines": {
            **dict.fromkeys(("cosign", *SECAGG_STAGES, "publish_adapter"), 1),
            "apply_result": 60,  # ends a pass that brings several results
        },
    }


def common_policy(base: ModelManifest) -> dict[str, Any]:
    """The federation's policy."""
    return {
        "version": 1,
        "min_cohort": 3,
        "max_colluding": 1,
        "noise": ("local",),
        "epsilon_cap": "20",
        "max_delta": DELTA,
        "bases": ({"model": base.digest, "parameters": base.parameters},),
        "software": "any",
        "adapter_licences": ("CC0-1.0",),
        "max_attempt": 1,
        "max_accounts": 16,
        "max_checkpoint_age": 86_400,
        "voting": USUAL_VOTING.model_dump(),
        "witnesses": (),
        "outside_quorum": 0,
        "withdrawn_warns": (),
    }


def node_settings(base_digest: str) -> dict[str, Any]:
    """An institution's ``node.toml``."""
    return {
        "federation": "simulated",
        "country": "somewhere",
        "workload": "language",
        "base": "tiny",
        "data": "data",
        "policy": {
            "min_cohort": 3,
            "max_colluding": 1,
            "noise": ["local"],
            "epsilon_limit": "20",
            "fallback_epsilon_limit": "1000",
            "spot_checks": 2,
            "target_delta": DELTA,
            "max_steps": 10,
            "bases": [base_digest],
            "parameterizations": ["low_rank"],
            "max_checkpoint_age": 86_400,
        },
        "adapter": {
            "publish": True,
            "licence": "CC0-1.0",
            "rank": 2,
            "targets": ["q_proj"],
            "steps": 1,
            "batch_size": 6,
            "learning_rate": "0.1",
            "noise": "local",
            "epsilon": "4",
            "clip_norm": "0.5",
            "options": {"sequence_length": 16},
        },
    }
