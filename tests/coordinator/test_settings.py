"""``run.toml``: which keys go together, and what former spellings are told."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tapestry.errors import ConfigError
from tapestry.inputs.setting_values import to_toml
from tapestry.protocol.stages import SECAGG_STAGES, RoundStage
from tapestry_coordinator.settings import CoordinatorSettings, RunSettings
from tests.support.refusals import refused
from tests.support.settings_files import (
    NO_NOISE,
    coordinator_settings,
    merged,
    run_settings,
    write_settings,
)


def _read(folder: Path, changes: dict[str, Any]) -> RunSettings:
    written = merged(to_toml(run_settings(), RunSettings), changes)
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(written), encoding="utf-8")
    return RunSettings.read(path)


def _said(folder: Path, changes: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        _read(folder, changes)
    one = "\n" not in str(caught.value)
    assert caught.value.code == ("setting-invalid" if one else "many-faults")
    return str(caught.value).removeprefix(f"{folder / 'run.toml'}: ")


def test_a_training_may_take_two_days_and_no_stage_no_time(tmp_path: Path) -> None:
    two_days = 2 * 24 * 3600
    settings = _read(tmp_path, {"deadlines": {"collect_masked_inputs": two_days}})
    assert settings.deadlines.of(RoundStage.COLLECT_MASKED_INPUTS) == two_days
    for stage in SECAGG_STAGES:
        assert f"deadlines.{stage}" in _said(tmp_path, {"deadlines": {stage.value: 0}})


def test_a_run_without_noise_says_none_and_no_number(tmp_path: Path) -> None:
    privacy = _read(tmp_path, {"privacy": NO_NOISE}).privacy
    assert privacy.model_dump() == {"noise": "none"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"privacy": {**NO_NOISE, "noise_multiplier": 1}},
            'privacy.noise_multiplier: has no effect with noise = "none"; take it out',
        ),
        (
            {"privacy": {"min_share": 1}},
            'privacy.min_share: has no effect with noise = "local"; take it out',
        ),
        (
            {"privacy": {"noise": "shared"}},
            "privacy.min_share: is missing; write, for example, min_share = 0.5",
        ),
        (
            {"privacy": {"noise_multiplier": "1"}},
            (
                'privacy.noise_multiplier: "1" is text; write noise_multiplier = 1 with'
                "out quotation marks"
            ),
        ),
        (
            {"privacy": {"noise": None}},
            'privacy.noise: is missing; write, for example, noise = "local"',
        ),
        (
            {"outer": {"optimizer": "mean"}},
            'outer.momentum: has no effect with optimizer = "mean"; take it out',
        ),
        (
            {"outer": {"momentum": None}},
            "outer.momentum: is missing; write, for example, momentum = 0.5",
        ),
        (
            {"outer": {"optimizer": "adagrad"}},
            (
                "outer.optimizer: \"adagrad\" must be 'mean', 'nesterov' or 'adam'; "
                'write, for example, optimizer = "mean"'
            ),
        ),
        ({"privacy": None}, "privacy: is missing; add the table [privacy]"),
        (
            {"training": {"sequence_length": 16}},
            "training.sequence_length: no longer a key; move it into the table [train",
        ),
        (
            {"training": {"parameterization": "full", "targets": None}},
            'training.rank: has no effect with parameterization = "full"; take it out',
        ),
        (
            {"training": {"parameterization": "full", "rank": None}},
            'training.targets: has no effect with parameterization = "full"; take it',
        ),
        (
            {"training": {"rank": None}},
            "training.rank: is missing; write, for example, rank = 1",
        ),
        ({"training": {"rank": 0}}, "training.rank: 0 must be 1 or more"),
        (
            {"training": {"options": None}},
            "training.options: is missing; write, for example, options = { sequence_l",
        ),
        ({"training": {"options": 16}}, "training.options: 16 must be a table; write"),
        (
            {"training": {"options": {"rate": 0.25, "share": True}}},
            "training.options.share: true must be a whole number below 2**53, a plain",
        ),
        ({"training": {"workload": "My models"}}, 'training.workload: "My models" is'),
        ({"models": "models"}, "models: no longer a key; take it out: base names"),
        ({"speed": {"threads": 1}}, "speed: no longer a key; take it out: a coordin"),
    ],
    ids=str,
)
def test_keys_without_effect_are_refused_and_those_that_lack_are_named(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    assert _said(tmp_path, changes).startswith(said)


def test_full_training_names_neither_rank_nor_targets(tmp_path: Path) -> None:
    full = {"parameterization": "full", "rank": None, "targets": None}
    plan = _read(tmp_path, {"training": full}).training.plan(factor_seed="0" * 64)
    assert (plan.parameterization, plan.rank, plan.targets) == ("full", 0, ())


def test_the_options_of_a_workload_are_kept_as_the_plan_has_them(
    tmp_path: Path,
) -> None:
    options = {"length": 16, "rate": 0.25, "names": ["a", 1, 0.5], "kind": "flat"}
    training = _read(tmp_path, {"training": {"options": options}}).training
    wanted = {**options, "rate": "0.25", "names": ("a", 1, "0.5")}
    assert training.options == wanted
    assert training.plan(factor_seed="0" * 64).options == wanted


def test_faults_inside_a_table_of_several_kinds_are_told_with_the_others(
    tmp_path: Path,
) -> None:
    changes = {
        "privacy": {"clip_norm": "0.5", "target_delta": 1e-5, "colour": "red"},
        "rounds": 0,
    }
    head, *lines = _said(tmp_path, changes).splitlines()
    assert head == "4 faults"
    assert [line.split(":")[0].strip() for line in lines] == [
        "privacy.colour",
        "rounds",
        "privacy.clip_norm",
        "privacy.target_delta",
    ]


@pytest.mark.parametrize("port", [0, 1, 65535, 65536, 99999])
@pytest.mark.parametrize("place", ["address", "listen"])
def test_a_port_is_from_1_to_65535(tmp_path: Path, place: str, port: int) -> None:
    told = coordinator_settings().model_dump()
    value: object = f"rivers.example:{port}"
    told[place] = value if place == "address" else {"superlink": value}
    path = tmp_path / "coordinator.toml"
    write_settings(path, told, CoordinatorSettings)
    if port in {1, 65535}:
        CoordinatorSettings.read(path)
    else:
        with refused(ConfigError, "setting-invalid", match="a port from 1 to 65535"):
            CoordinatorSettings.read(path)
