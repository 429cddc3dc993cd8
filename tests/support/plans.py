"""The one builder of plans and manifests for tests.

Each function returns a valid plan; a test names what differs::

    training_plan(steps=1, options={"sequence_length": 16})
    training_plan(**LOW_RANK)
    privacy_plan(noise="shared")
    round_manifest(participants, privacy=privacy_plan(noise="none"))

A change goes through the schema like any value from outside, so a plan that no message
could hold cannot be built. Settings files (``run.toml``, ``node.toml``) are in
``tests.support.settings_files``.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from tapestry.protocol.round_manifest import (
    OuterPlan,
    Participant,
    PrivacyPlan,
    RoundManifest,
    TrainingPlan,
    recommended_threshold,
)
from tapestry.protocol.stages import SECAGG_STAGES

DIGEST = "sha256:" + "ab" * 32
# Changes of ``training_plan``: a low-rank part of rank 2 in one layer's projection.
LOW_RANK = {"parameterization": "low_rank", "rank": 2, "targets": ("q_proj",)}


def training_plan(**changes: Any) -> TrainingPlan:
    """Plan three SGD steps of eight expected records on all parameters."""
    plan = {
        "workload": "language",
        "parameterization": "full",
        "rank": 0,
        "targets": (),
        "factor_seed": "0" * 64,
        "steps": 3,
        "batch_size": 8,
        "optimizer": "sgd",
        "learning_rate": "0.1",
        "weight_decay": "0",
        "options": {"sequence_length": 16},
    }
    return TrainingPlan.model_validate(plan | changes)


def privacy_plan(*, noise: str = "local", **changes: Any) -> PrivacyPlan:
    """Plan noise of multiplier 1 for records clipped to 1, or no noise."""
    plan: dict[str, Any] = {"noise": noise}
    if noise != "none":
        plan |= {
            "unit": "record",
            "adjacency": "add-remove",
            "clip_norm": "1",
            "noise_multiplier": "1",
            "target_delta": "0.00001",
        }
    if noise == "shared":
        plan["min_share"] = "0"
    adapter: TypeAdapter[PrivacyPlan] = TypeAdapter(PrivacyPlan)
    return adapter.validate_python(plan | changes)


def outer_plan(**changes: Any) -> OuterPlan:
    """Plan to add the mean of the updates, if it is no longer than 10."""
    plan = {
        "optimizer": "mean",
        "learning_rate": "1",
        "max_norm": "10",
        "max_loss_increase": "1",
    }
    adapter: TypeAdapter[OuterPlan] = TypeAdapter(OuterPlan)
    return adapter.validate_python(plan | changes)


def recommended_colluding(cohort: int) -> int:
    """Return n_C just under a third of the cohort."""
    return -(-cohort // 3) - 1


def round_manifest(
    participants: Sequence[Participant], **changes: Any
) -> RoundManifest:
    """Plan the first round of a run, without noise, with the recommended thresholds."""
    count = len(participants)
    colluding = recommended_colluding(count)
    threshold = recommended_threshold(count, max_colluding=colluding)
    manifest = {
        "protocol": "tapestry-secagg/2",
        "federation": "loom.example",
        "run_id": "run-1",
        "purpose": "train",
        "round_number": 1,
        "attempt": 1,
        "model_digest": DIGEST,
        "layout_digest": DIGEST,
        "software": (DIGEST,),
        "policy_digest": DIGEST,
        "roster_digest": DIGEST,
        "participants": tuple(participants),
        "max_colluding": colluding,
        "threshold": threshold,
        "min_cohort": threshold,
        "ring_bits": 32,
        "length": 50,
        "clip_norm": "1",
        "clip_value": "0.5",
        "scale_bits": 16,
        "statistics": (),
        "training": training_plan(steps=1, options={"sequence_length": 32}),
        "privacy": privacy_plan(noise="none"),
        "outer": outer_plan(),
        "gate": {"held_out": DIGEST, "evaluation": DIGEST},
        "deadlines": dict.fromkeys(SECAGG_STAGES, 60),
        "post_quantum": "mlkem768",
    }
    return RoundManifest.model_validate({**manifest, **changes})
