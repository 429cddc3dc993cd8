"""Every rule of admission, one at a time: the refusal, its reason and its code."""

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
from tests.support.plans import outer_plan
from tests.support.refusals import refused

MANIFEST = World().found().manifest()
OTHER = "sha256:" + "f" * 64
LOCAL = "local_policy"
FACTS = Facts(
    name="fr",
    federation="tapestry",
    software_digest=MANIFEST.software[0],
    base_digest=MANIFEST.model_digest,
    origin=MANIFEST.model_digest,
    parameters=OTHER,
    named_parameters=OTHER,
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
) -> tuple[str, str]:
    """Return the reason that leaves the node, and the code that stays."""
    with pytest.raises(Refused) as caught:
        check_offer(manifest, policy=policy, facts=facts)
    assert str(caught.value).startswith(f"{caught.value.reason.value}: ")
    return caught.value.reason.value, caught.value.code


def test_what_meets_every_rule_is_accepted() -> None:
    check_offer(MANIFEST, policy=POLICY, facts=FACTS)


@pytest.mark.parametrize(
    ("name", "manifest", "reason", "code"),
    [
        ("federation", {"federation": "other"}, LOCAL, "federation-differs"),
        (
            "software",
            {"software": (OTHER,)},
            "software_unapproved",
            "software-differs",
        ),
        ("base", {"model_digest": OTHER}, "base_mismatch", "base-differs"),
        ("layout", {"layout_digest": OTHER}, "base_mismatch", "layout-differs"),
        ("length", {"length": 999}, "base_mismatch", "layout-differs"),
        ("floor", {"min_cohort": 2}, LOCAL, "cohort-too-small"),
        (
            "cohort",
            {"participants": MANIFEST.participants[1:3]},
            LOCAL,
            "cohort-too-small",
        ),
        (
            "stranger",
            {"participants": MANIFEST.participants[:2]},
            LOCAL,
            "node-not-in-cohort",
        ),
        ("colluding", {"max_colluding": 0}, LOCAL, "max-colluding-too-small"),
        ("key agreement", {"post_quantum": "none"}, LOCAL, "post-quantum-required"),
        ("low threshold", {"threshold": 2}, LOCAL, "threshold-out-of-range"),
        ("high threshold", {"threshold": 5}, LOCAL, "threshold-out-of-range"),
        ("steps", {"training": _training(steps=21)}, LOCAL, "steps-above-limit"),
        ("survey", {"purpose": "survey"}, "plan_unsupported", "purpose-not-supported"),
        (
            "statistics",
            {"statistics": ({"name": "moments", "entries": 8, "bound": "1"},)},
            "plan_unsupported",
            "purpose-not-supported",
        ),
        (
            "parameterization",
            {"training": _training(parameterization="low_rank", rank=1)},
            LOCAL,
            "parameterization-not-allowed",
        ),
        ("no noise", {"privacy": NoNoise(noise="none")}, LOCAL, "noise-not-allowed"),
        (
            "delta",
            {"privacy": _privacy(target_delta="0.0001")},
            LOCAL,
            "delta-too-large",
        ),
    ],
)
def test_each_rule_refuses_with_its_own_code(
    name: str, manifest: dict[str, Any], reason: str, code: str
) -> None:
    assert _refused(renamed(MANIFEST, **manifest)) == (reason, code), name


def test_a_node_joins_no_round_that_does_not_name_it() -> None:
    found = _refused(facts=dataclasses.replace(FACTS, name="xx"))
    assert found == (LOCAL, "node-not-in-cohort")


@pytest.mark.parametrize("bases", [(OTHER,), ()], ids=["another", "none"])
def test_every_round_is_of_a_run_from_a_base_that_the_policy_names(
    bases: tuple[str, ...],
) -> None:
    policy = POLICY.model_copy(update={"bases": bases})
    later = renamed(MANIFEST, round_number=2, model_digest=OTHER)
    moved = dataclasses.replace(FACTS, base_digest=OTHER)
    wanted = (LOCAL, "base-not-allowed")
    assert _refused(policy=policy) == wanted
    assert _refused(later, policy=policy, facts=moved) == wanted


def test_the_policy_names_the_parameters_that_the_base_has() -> None:
    wrong = dataclasses.replace(FACTS, named_parameters=MANIFEST.model_digest)
    assert _refused(facts=wrong) == ("base_mismatch", "base-parameters-differ")
    unnamed = dataclasses.replace(FACTS, named_parameters=None)  # any, or a release
    check_offer(MANIFEST, policy=POLICY, facts=unnamed)


def test_a_later_round_starts_from_what_the_node_computed_itself() -> None:
    later = renamed(MANIFEST, round_number=2, model_digest=OTHER)
    assert _refused(later) == ("base_mismatch", "base-differs")
    moved = dataclasses.replace(FACTS, base_digest=OTHER)
    check_offer(later, policy=POLICY, facts=moved)


def test_a_run_begins_with_its_first_round_in_the_log(tmp_path: Path) -> None:
    world = World().found()
    world.run_round(1)
    world.run_round(2)
    mirror = LogMirror.open(
        tmp_path / "view.db", trust=world.trust, genesis=world.genesis
    )
    mirror.extend(0, world.entries, world.note())
    run = world.manifest(2).run_id
    assert first_round(mirror, run).round_number == 1
    with refused(Refused, "run-not-in-log", match="^not_in_log: .*'another'"):
        first_round(mirror, "another")
    mirror.close()


def test_a_stricter_institution_refuses_what_the_federation_allows() -> None:
    changes: dict[str, dict[str, Any]] = {
        "cohort-too-small": {"min_cohort": 4},
        "max-colluding-too-small": {"max_colluding": 2},
        "steps-above-limit": {"max_steps": 19},
        "delta-too-large": {"target_delta": "0.000001"},
        "noise-not-allowed": {"noise": ("none",)},
        "parameterization-not-allowed": {"parameterizations": ("low_rank",)},
    }
    for code, change in changes.items():
        assert _refused(policy=POLICY.model_copy(update=change)) == (LOCAL, code)


@pytest.mark.parametrize(
    ("optimizer", "least", "below"),
    [
        ("mean", "0.05", "0.0499"),
        ("nesterov", "0.05", "0.000000001"),
        ("adam", "0.0001", "0.00009"),
    ],
)
def test_without_noise_an_outer_step_that_moves_nothing_is_refused(
    optimizer: str, least: str, below: str
) -> None:
    """It would change the base's identity, by which survivor sets are marked."""
    policy = POLICY.model_copy(update={"noise": ("none", "local")})
    more = {"momentum": "0.9"} if optimizer == "nesterov" else {}
    for noise, rate, fits in (
        (NoNoise(noise="none"), least, True),
        (NoNoise(noise="none"), below, False),
        (MANIFEST.privacy, below, True),
    ):
        outer = outer_plan(optimizer=optimizer, learning_rate=rate, **more)
        manifest = renamed(MANIFEST, privacy=noise, outer=outer)
        if fits:
            check_offer(manifest, policy=policy, facts=FACTS)
        else:
            assert _refused(manifest, policy=policy) == (LOCAL, "outer-rate-too-small")
