"""Every rule of the guard, one at a time: what it refuses, and with which code."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tapestry.protocol.round_manifest import (
    LocalNoise,
    NoNoise,
    PrivacyPlan,
    RoundManifest,
    TrainingPlan,
)
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.refusal import Refused
from tapestry_node.round.admission import Facts, check_offer, first_round
from tapestry_node.settings import NodePolicy
from tests.support.log_world import World, renamed
from tests.support.refusals import refused

MANIFEST = World().found().manifest()
OTHER = "sha256:" + "f" * 64
FACTS = Facts(
    name="fr",
    federation="tapestry",
    software_digest=MANIFEST.software_digest,
    base_digest=MANIFEST.model_digest,
    first_base=MANIFEST.model_digest,
    layout_digest=MANIFEST.layout_digest,
    layout_length=MANIFEST.length,
)
POLICY = NodePolicy(
    min_cohort=3,
    max_colluding=1,
    noise=("local",),
    epsilon_limit="8",
    fallback_epsilon_limit="8",
    spot_checks=2,
    target_delta="0.00001",
    max_steps=20,
    bases=(MANIFEST.model_digest,),
    parameterizations=("full",),
    max_checkpoint_age=3600,
)


def _training(**changes: Any) -> TrainingPlan:
    return TrainingPlan.model_validate({**MANIFEST.training.model_dump(), **changes})


def _privacy(**changes: Any) -> PrivacyPlan:
    return LocalNoise.model_validate({**MANIFEST.privacy.model_dump(), **changes})


def _refused(
    manifest: RoundManifest = MANIFEST,
    *,
    policy: NodePolicy = POLICY,
    facts: Facts = FACTS,
) -> str:
    with pytest.raises(Refused) as caught:
        check_offer(manifest, policy=policy, facts=facts)
    assert str(caught.value).startswith(f"{caught.value.reason.value}: ")
    return caught.value.reason.value


def test_what_meets_every_rule_is_accepted() -> None:
    check_offer(MANIFEST, policy=POLICY, facts=FACTS)


@pytest.mark.parametrize(
    ("name", "manifest", "reason"),
    [
        ("federation", {"federation": "other"}, "local_policy"),
        ("software", {"software_digest": OTHER}, "software_unapproved"),
        ("base", {"model_digest": OTHER}, "base_mismatch"),
        ("layout", {"layout_digest": OTHER}, "base_mismatch"),
        ("length", {"length": 999}, "base_mismatch"),
        ("floor", {"min_cohort": 2}, "local_policy"),
        ("cohort", {"participants": MANIFEST.participants[1:3]}, "local_policy"),
        ("stranger", {"participants": MANIFEST.participants[:2]}, "local_policy"),
        ("colluding", {"max_colluding": 0}, "local_policy"),
        ("low threshold", {"threshold": 2}, "local_policy"),
        ("high threshold", {"threshold": 5}, "local_policy"),
        ("steps", {"training": _training(steps=21)}, "local_policy"),
        (
            "parameterization",
            {"training": _training(parameterization="low_rank", rank=1)},
            "local_policy",
        ),
        ("no noise", {"privacy": NoNoise(noise="none")}, "local_policy"),
        ("delta", {"privacy": _privacy(target_delta="0.0001")}, "local_policy"),
    ],
)
def test_each_rule_refuses_with_its_own_code(
    name: str, manifest: dict[str, Any], reason: str
) -> None:
    assert _refused(renamed(MANIFEST, **manifest)) == reason, name


def test_a_node_joins_no_round_that_does_not_name_it() -> None:
    assert _refused(facts=dataclasses.replace(FACTS, name="xx")) == "local_policy"


@pytest.mark.parametrize("bases", [(OTHER,), ()], ids=["another", "none"])
def test_every_round_is_of_a_run_from_a_base_that_the_policy_names(
    bases: tuple[str, ...],
) -> None:
    policy = POLICY.model_copy(update={"bases": bases})
    later = renamed(MANIFEST, round_number=2, model_digest=OTHER)
    moved = dataclasses.replace(FACTS, base_digest=OTHER)
    assert _refused(policy=policy) == "local_policy"
    assert _refused(later, policy=policy, facts=moved) == "local_policy"


def test_a_later_round_starts_from_what_the_node_computed_itself() -> None:
    later = renamed(MANIFEST, round_number=2, model_digest=OTHER)
    assert _refused(later) == "base_mismatch"
    moved = dataclasses.replace(FACTS, base_digest=OTHER)
    check_offer(later, policy=POLICY, facts=moved)


def test_a_run_begins_with_its_first_round_in_the_log(tmp_path: Path) -> None:
    world = World().found()
    world.run_round(1)
    world.run_round(2)
    view = LogMirror.open(
        tmp_path / "view.db", trust=world.trust, genesis=world.genesis
    )
    view.extend(0, world.entries, world.note())
    run = world.manifest(2).run_id
    assert first_round(view, run).round_number == 1
    with refused(Refused, "not-in-log", match="not_in_log"):
        first_round(view, "another")
    view.close()


def test_a_stricter_institution_refuses_what_the_federation_allows() -> None:
    for change in (
        {"min_cohort": 4},
        {"max_colluding": 2},
        {"max_steps": 19},
        {"target_delta": "0.000001"},
        {"noise": ("none",)},
        {"parameterizations": ("low_rank",)},
    ):
        assert _refused(policy=POLICY.model_copy(update=change)) == "local_policy"
