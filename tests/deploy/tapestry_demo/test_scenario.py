"""The demo's plan: sized by its data and base, within what each member allows."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tapestry.privacy import accounting
from tapestry_demo import scenario
from tapestry_demo.scenario import SCALES, DemoScale, noise_multiplier, scale_of
from tests.support.demo_folders import DIGEST, demo_founding, demo_members


def _epsilon(scale: DemoScale, noise: float, *, records: int) -> float:
    """What all rounds cost an institution of so many records."""
    return accounting.epsilon(
        [
            accounting.Steps(
                sampling_rate=accounting.sampling_rate(
                    scale.batch_size, records=records
                ),
                noise_multiplier=noise,
                steps=scale.rounds * scale.steps,
            )
        ],
        target_delta=float(scenario.DELTA),
    )


def test_a_base_folder_gets_the_scale_of_the_default_base() -> None:
    assert scale_of("tiny") is SCALES["tiny"]
    own = scale_of("./own")
    assert own == replace(SCALES["smollm2"], base="./own")
    assert asdict(own).items() - asdict(SCALES["smollm2"]).items() == {
        ("base", "./own")
    }


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_is_of_its_base_and_releases_one_in_time(name: str) -> None:
    scale = SCALES[name]
    assert scale.base == name
    assert scale.rounds % scale.release_every == 0
    assert scale.epsilon < float(scenario.EPSILON_LIMIT)


@pytest.mark.parametrize(
    "name", ["tiny", pytest.param("smollm2", marks=pytest.mark.slow)]
)
def test_the_noise_keeps_the_promise_of_the_smallest_and_is_no_larger(
    tmp_path: Path, name: str
) -> None:
    scale = SCALES[name]
    noise = noise_multiplier(scale, demo_members(tmp_path))
    assert 0.95 * scale.epsilon < _epsilon(scale, noise, records=200) <= scale.epsilon
    assert _epsilon(scale, noise, records=400) < scale.epsilon


def test_each_institution_allows_what_the_policy_agrees_on(tmp_path: Path) -> None:
    members = demo_members(tmp_path)
    founding = demo_founding(members)
    plan, policy = founding.run, founding.policy
    assert policy.given_base(DIGEST) is not None
    assert policy.min_cohort == plan.secagg.min_cohort == len(members)
    assert policy.max_colluding == plan.secagg.max_colluding == 1
    assert plan.privacy.noise in policy.noise
    assert [each.name for each in founding.institutions] == ["fi", "fr", "id"]
    for member, each in zip(members, founding.institutions, strict=True):
        own = json.loads(json.dumps(each.settings))
        assert own["policy"]["bases"] == [DIGEST]
        assert own["policy"]["max_steps"] >= plan.training.steps
        assert plan.privacy.noise in own["policy"]["noise"]
        assert own["adapter"]["licence"] in policy.adapter_licences
        assert own["country"] == member.country
        assert each.data == member.data


def test_the_run_is_as_large_as_its_scale_says(tmp_path: Path) -> None:
    scale = SCALES["tiny"]
    plan = demo_founding(demo_members(tmp_path)).run
    assert (plan.rounds, plan.release_every) == (scale.rounds, scale.release_every)
    assert plan.training.batch_size == scale.batch_size
    assert plan.training.steps == scale.steps
    assert float(plan.training.learning_rate) == scale.learning_rate
    assert float(plan.outer.max_norm) == scale.update_norm
    assert plan.training.parameterization == "low_rank"
    assert plan.training.targets == scale.targets
    assert plan.training.options == {"sequence_length": scale.sequence_length}
