"""``policy.toml``."""

from pathlib import Path

import pytest
import tomli_w

from tapestry.errors import ConfigError
from tapestry.inputs.setting_values import to_toml
from tapestry_governance.policy_file import PolicySettings, read_policy
from tests.support.log_world import World


def test_a_policy_is_read_as_it_was_written(tmp_path: Path) -> None:
    policy = World().policy(epsilon_cap="2.5")
    path = tmp_path / "policy.toml"
    path.write_text(tomli_w.dumps(to_toml(policy.model_dump(), PolicySettings)))
    assert "epsilon_cap = 2.5" in path.read_text()
    assert "[voting]" in path.read_text()
    assert read_policy(path) == policy


@pytest.mark.parametrize("text", ["", "version = 1", "[voting]\npolicy = '3/2'"])
def test_a_policy_with_faults_is_refused_by_their_names(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"policy.toml"):
        read_policy(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_policy(tmp_path / "none.toml")
