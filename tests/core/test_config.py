"""Settings files: strict, whole, and named by the line that is wrong."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tapestry.config import (
    CoordinatorSettings,
    NodeSettings,
    write_new,
)
from tapestry.errors import ConfigError, ResourceError
from tests.simulator import merged, node_settings, run_settings

DIGEST = "sha256:" + "0" * 64


def _node() -> dict[str, Any]:
    return {**node_settings(DIGEST), "name": "fr", "genesis": DIGEST}


def _write(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(tomli_w.dumps(settings), encoding="utf-8")
    return path


def _without(settings: dict[str, Any], dotted: str) -> dict[str, Any]:
    head, _, rest = dotted.partition(".")
    kept = dict(settings)
    if rest:
        kept[head] = _without(kept[head], rest)
    else:
        del kept[head]
    return kept


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    node = NodeSettings.read(_write(tmp_path / "node.toml", _node()))
    assert node.name == "fr"
    assert node.policy.noise == ("local",)
    assert node.transport is None
    assert node.speed.physical_batch == 8
    text = tomli_w.dumps(
        CoordinatorSettings.model_validate(run_settings()).model_dump()
    )
    (tmp_path / "coordinator.toml").write_text(text)
    again = CoordinatorSettings.read(tmp_path / "coordinator.toml")
    assert again == CoordinatorSettings.model_validate(run_settings())


@pytest.mark.parametrize(
    "dotted",
    [
        "genesis",
        "policy",
        *(f"policy.{name}" for name in node_settings(DIGEST)["policy"]),
        *(f"adapter.{name}" for name in node_settings(DIGEST)["adapter"]),
    ],
)
def test_nothing_that_affects_privacy_or_trust_has_a_default(
    tmp_path: Path, dotted: str
) -> None:
    path = _write(tmp_path / "node.toml", _without(_node(), dotted))
    with pytest.raises(ConfigError, match=rf"{dotted}: Field required") as caught:
        NodeSettings.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"polcy": {}}, "polcy"),
        ({"policy": {"min_cohrt": 3}}, "policy.min_cohrt"),
        ({"policy": {"min_cohort": 1}}, "policy.min_cohort"),
        ({"policy": {"min_cohort": "3"}}, "policy.min_cohort"),
        ({"policy": {"epsilon_limit": 8}}, "policy.epsilon_limit"),
        ({"policy": {"epsilon_limit": "8.0"}}, "policy.epsilon_limit"),
        ({"policy": {"epsilon_limit": "0"}}, "policy.epsilon_limit"),
        ({"policy": {"epsilon_limit": "1001"}}, "policy.epsilon_limit"),
        ({"policy": {"fallback_epsilon_limit": "0"}}, "policy.fallback_epsilon_limit"),
        ({"policy": {"target_delta": "1"}}, "policy.target_delta"),
        ({"policy": {"noise": ["some"]}}, "policy.noise.0"),
        ({"policy": {"bases": ["smollm2"]}}, "policy.bases.0"),
        ({"name": "FR"}, "name"),
        ({"speed": {"threads": 0}}, "speed.threads"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(
    tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    path = _write(tmp_path / "node.toml", merged(_node(), changes))
    with pytest.raises(ConfigError, match=rf"node\.toml: {where}: "):
        NodeSettings.read(path)


def test_a_misspelled_key_is_named_and_not_the_one_that_lacks(tmp_path: Path) -> None:
    settings = _without(_node(), "policy.min_cohort")
    path = _write(
        tmp_path / "node.toml", merged(settings, {"policy": {"min_cohrt": 3}})
    )
    with pytest.raises(ConfigError) as caught:
        NodeSettings.read(path)
    said = f"{path}: policy.min_cohrt: no such key; mind the spelling"
    assert str(caught.value) == said


def test_a_number_out_of_range_is_told_its_rule(tmp_path: Path) -> None:
    changes = {"policy": {"epsilon_limit": "0"}}
    path = _write(tmp_path / "node.toml", merged(_node(), changes))
    with pytest.raises(ConfigError) as caught:
        NodeSettings.read(path)
    said = f"{path}: policy.epsilon_limit: epsilon 0 is not in (0, 1000]"
    assert str(caught.value) == said


@pytest.mark.parametrize("text", ["= 1", "a = 2026-01-01\n", "\x00"])
def test_a_file_that_is_no_settings_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"^[^\n]+$"):
        NodeSettings.read(path)


def test_a_file_in_another_encoding_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match="is not TOML"):
        NodeSettings.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*node\.toml"):
        NodeSettings.read(tmp_path / "node.toml")


def test_settings_are_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    write_new(path, "a = 1\n")
    with pytest.raises(ConfigError, match="exists"):
        write_new(path, "a = 2\n")
    assert path.read_text() == "a = 1\n"
    with pytest.raises(ResourceError):
        write_new(tmp_path / "no" / "node.toml", "")


def test_settings_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    node = NodeSettings.read(_write(tmp_path / "node.toml", _node()))
    with pytest.raises(ValueError, match="frozen"):
        node.policy.min_cohort = 2  # type: ignore[misc]  # that is what is tested
