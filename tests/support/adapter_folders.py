"""Tiny adapters and bases of two weights, as folders."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors.numpy import save

from tapestry.artifacts import manifest, model_folder
from tapestry.artifacts.model_identity import ModelContent
from tapestry_governance.events.round_events import RoundDisputed
from tests.support.audit_bundles import attach_proof, bundle_of
from tests.support.commands import Result
from tests.support.log_world import World, changed
from tests.support.proposals import new_policy, withdrawal

BASE = {
    "model.layers.0.self_attn.q_proj.weight": np.full((6, 8), 0.5, dtype=np.float32),
    "model.layers.0.self_attn.v_proj.weight": np.full((4, 8), 0.25, dtype=np.float32),
    "model.norm.weight": np.ones(8, dtype=np.float32),
}
MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj")
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "base-1",
    "inference_mode": True,
    "r": 2,
    "lora_alpha": 2,
    "target_modules": ["q_proj", "v_proj"],
}
Tensors = dict[str, Any]


def make_tensors() -> Tensors:
    found: Tensors = {}
    for module in MODULES:
        out, width = BASE[f"{module}.weight"].shape
        prefix = f"base_model.model.{module}"
        found[f"{prefix}.lora_A.weight"] = np.full((2, width), 0.25, dtype=np.float32)
        found[f"{prefix}.lora_B.weight"] = np.full((out, 2), 0.5, dtype=np.float32)
    return found


def make_metadata(**changes: str) -> dict[str, str]:
    digest = ModelContent(tensors=BASE).digest
    return {"format": "pt", "base": "base-1", "base_digest": digest, **changes}


def make_adapter(
    folder: Path,
    *,
    tensors: Tensors | None = None,
    metadata: dict[str, str] | None = None,
    config: str | None = None,
    config_changes: dict[str, Any] | None = None,
    card: str = "# italy\n",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = save(tensors or make_tensors(), metadata or make_metadata())
    (folder / "adapter_model.safetensors").write_bytes(content)
    text = config or json.dumps({**CONFIG, **(config_changes or {})})
    (folder / "adapter_config.json").write_text(text)
    (folder / "README.md").write_text(card)
    manifest.write(folder)
    return folder


def make_base(folder: Path, *, scale: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    values = {name: np.float32(scale) * value for name, value in BASE.items()}
    (folder / "model.safetensors").write_bytes(save(values, {"format": "pt"}))
    return folder


def make_demo(
    folder: Path,
    *,
    disputes: Sequence[RoundDisputed] = (),
    approved: bool = True,
    withdrawn: str | None = None,
    files: tuple[Path, Path] | None = None,
    rules: Mapping[str, object] = MappingProxyType({}),
    newer: Mapping[str, object] | None = None,
) -> Path:
    """Lay out releases/, adapters/ and bundle/ as the demo leaves them.

    ``disputes`` are logged by ``fr`` after the rounds. Members approve the release, and
    withdraw what is named. ``files`` are the folders of a base and of an adapter on
    ``base-2``, instead of those of two weights. ``rules`` are terms of the policy,
    and ``newer`` those that members adopt between the two rounds.
    """
    world = World(rules=dict(rules))
    base, adapter = folder / "releases" / "base-2", folder / "adapters" / "fr-culture"
    if files is None:
        make_base(base)
        make_adapter(
            adapter,
            metadata=make_metadata(base="base-2"),
            config_changes={"base_model_name_or_path": "base-2"},
        )
    else:
        shutil.copytree(files[0], base)
        shutil.copytree(files[1], adapter)
    world.models = {2: model_folder.read_files(base).manifest}
    world.found()
    world.run_round(1)
    if newer is not None:
        world.decide(new_policy(world, **newer))
    world.run_round(2)
    for each in disputes:
        world.add(each, "fr", "node")
    released = manifest.write(base)
    index = world.add(world.release(2, manifest_digest=released.digest))
    accounted = world.add(world.adapter_account(), "fr", "node")
    published = changed(world.adapter(2), manifest_digest=manifest.read(adapter).digest)
    own = world.add(published, "fr", "community")
    for name, at in (("accounted", accounted), ("published", own)):
        (adapter / "tapestry" / f"{name}.entry").write_bytes(world.entries[at])
    if approved:
        world.approve("base-2")
    if withdrawn is not None:
        world.decide(withdrawal(world, withdrawn))
    attach_proof(base, world, index)
    bundle = bundle_of(world, folder, artifacts={}).folder
    if bundle != folder / "bundle":
        shutil.move(bundle, folder / "bundle")
    return folder


def words(result: Result) -> dict[str, str]:
    """Take the lines of checks apart: which check, and what came of it."""
    lines = [line for line in result.stdout.splitlines() if line[:1].strip()]
    return {line[13:21].strip(): line[:13].strip() for line in lines}


def codes(result: Result) -> dict[str, str | None]:
    """Read from a report in JSON the code of each check; None for one that holds."""
    steps = json.loads(result.stdout)["steps"]
    return {step["name"]: step["code"] for step in steps}
