"""``node.toml``: which keys go together, and what former spellings are told."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tapestry.errors import ConfigError
from tapestry.inputs.setting_values import to_toml
from tapestry.workloads.hardware import Machine, memory_bytes
from tapestry_node.settings import NodeSettings
from tests.support.settings_files import NO_ADAPTER_NOISE, merged, node_settings

DIGEST = "sha256:" + "0" * 64


def _read(folder: Path, changes: dict[str, Any]) -> NodeSettings:
    settings = {**node_settings(DIGEST), "name": "fr", "genesis": DIGEST}
    written = merged(to_toml(settings, NodeSettings), changes)
    path = folder / "node.toml"
    path.write_text(tomli_w.dumps(written), encoding="utf-8")
    return NodeSettings.read(path)


def _said(folder: Path, changes: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        _read(folder, changes)
    said = str(caught.value).replace(" [input-fault]", "")
    return said.removeprefix(f"{folder / 'node.toml'}: ")


def test_an_adapter_without_noise_names_neither_epsilon_nor_clip_norm(
    tmp_path: Path,
) -> None:
    adapter = _read(tmp_path, {"adapter": NO_ADAPTER_NOISE}).adapter
    assert adapter.noise == "none"
    assert not {"epsilon", "clip_norm"} & set(adapter.model_dump())


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        (
            {"noise": "none"},
            (
                "2 faults\n"
                '  adapter.epsilon: has no effect with noise = "none"; take it out'
                " [setting-invalid]\n"
                '  adapter.clip_norm: has no effect with noise = "none"; take it out'
                " [setting-invalid]"
            ),
        ),
        ({"epsilon": None}, "epsilon: is missing; write, for example, epsilon = 8"),
        ({"clip_norm": None}, "clip_norm: is missing; write, for example, clip_no"),
        ({"noise": None}, 'noise: is missing; write, for example, noise = "local"'),
        (
            {"noise": "shared"},
            (
                "noise: \"shared\" must be 'local' or 'none'; write, for example, noi"
                'se = "local"'
            ),
        ),
        ({"noise": 0}, "noise: 0 must be 'local' or 'none'; write, for example, noi"),
        (
            {"epsilon": 0},
            (
                'epsilon: 0 is now spelled noise = "none", without epsilon; write, for'
                " example, epsilon = 8"
            ),
        ),
        ({"epsilon": "4"}, 'epsilon: "4" is text; write epsilon = 4 without quotatio'),
        ({"epsilom": 4, "epsilon": None}, "epsilom: no such key; is epsilon meant?"),
    ],
    ids=str,
)
def test_noise_decides_which_keys_an_adapter_has(
    tmp_path: Path, adapter: dict[str, Any], said: str
) -> None:
    found = _said(tmp_path, {"adapter": adapter})
    if "\n" in said:
        assert found == said
    else:
        assert found.startswith(f"adapter.{said}")
        assert "\n" not in found


def test_an_adapter_that_is_no_table_is_told_so(tmp_path: Path) -> None:
    said = _said(tmp_path, {"adapter": 3})
    assert said == "adapter: 3 must be a table; add the table [adapter]"


@pytest.mark.parametrize("checks", [1, 64, "none"])
def test_spot_checks_are_a_count_or_none(tmp_path: Path, checks: object) -> None:
    policy = _read(tmp_path, {"policy": {"spot_checks": checks}}).policy
    assert policy.spot_checks == checks
    assert policy.chunks_to_check == (0 if checks == "none" else checks)


@pytest.mark.parametrize("checks", [0, 65, -1, True, "some", "2", 2.5, [2]], ids=repr)
def test_another_number_of_spot_checks_is_told_the_word(
    tmp_path: Path, checks: object
) -> None:
    said = _said(tmp_path, {"policy": {"spot_checks": checks}})
    rule = 'policy.spot_checks: must be a whole number from 1 to 64 or "none"; '
    assert said.startswith(rule)
    assert ("0 is now spelled" in said) is (checks == 0)
    assert said.endswith("write, for example, spot_checks = 2")


def test_a_key_of_earlier_versions_is_told_what_to_write(tmp_path: Path) -> None:
    said = _said(tmp_path, {"models": "models"})
    assert said.startswith("models: no longer a key; take it out: base names ")


def test_the_length_of_windows_is_an_option_of_the_workload(tmp_path: Path) -> None:
    said = _said(tmp_path, {"adapter": {"sequence_length": 16}})
    assert said == (
        "adapter.sequence_length: no longer a key; move it into the table"
        " [adapter.options]"
    )
    adapter = _read(tmp_path, {"adapter": {"options": {"rate": 0.5}}}).adapter
    assert adapter.options == {"rate": "0.5"}


@pytest.mark.parametrize("workload", ["", "Language", "a/b", 3, None], ids=repr)
def test_a_workload_is_a_name(tmp_path: Path, workload: object) -> None:
    assert _said(tmp_path, {"workload": workload}).startswith("workload: ")


@pytest.mark.parametrize("seconds", [0, 60.5, -1])
def test_the_pause_between_polls_has_a_range(tmp_path: Path, seconds: float) -> None:
    transport = {
        "superlink": "127.0.0.1:9092",
        "root_certificates": "authority.pem",
        "auth_key": "keys/transport",
        "poll_seconds": seconds,
    }
    said = _said(tmp_path, {"transport": transport})
    assert said.startswith(
        f"transport.poll_seconds: {seconds} seconds are not in (0, 60]; write, for"
        " example, poll_seconds = 0.1"
    )


def test_exceptions_for_survivors_need_rounds_without_noise(tmp_path: Path) -> None:
    named = {"varying_survivors": ["sha256:" + "a" * 64]}
    said = _said(tmp_path, {"policy": named})
    assert 'varying_survivors needs "none" in noise' in said
    policy = _read(tmp_path, {"policy": {**named, "noise": ["none"]}}).policy
    assert policy.varying_survivors == ("sha256:" + "a" * 64,)
    assert _read(tmp_path, {}).policy.varying_survivors == ()


def test_a_node_uses_the_machine_as_it_is_told(tmp_path: Path) -> None:
    whole = memory_bytes()
    assert whole is not None
    assert _read(tmp_path, {}).speed.machine == Machine(device="cpu", memory=whole)
    told = {"speed": {"device": "cuda:1", "memory_gb": 1}}
    assert _read(tmp_path, told).speed.machine == Machine(device="cuda:1", memory=10**9)
    more = {"speed": {"memory_gb": 1_000_000}}
    assert _read(tmp_path, more).speed.machine.memory == whole
    assert '"cpu", "cuda" or "cuda:1"' in _said(tmp_path, {"speed": {"device": "tpu"}})
