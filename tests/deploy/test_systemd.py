"""The shipped units, as systemd itself reads and judges them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click import Command, Context, Group

from tapestry.cli import app

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
ANALYZE = shutil.which("systemd-analyze")
NAMES = (
    "tapestry-coordinator.service",
    "tapestry-node.service",
    "tapestry-witness.service",
)
WANTED = {
    "DynamicUser=yes",
    "LimitCORE=0",
    "PrivateDevices=yes",
    "PrivateUsers=yes",
    "ProtectSystem=strict",
    "Restart=always",
    "StartLimitIntervalSec=0",
    "StateDirectoryMode=0700",
    "TimeoutStopSec=120",
}

needs_systemd = pytest.mark.skipif(
    ANALYZE is None, reason="systemd is not installed; apt-get install systemd"
)


def analyze(*words: str | Path) -> tuple[int, str]:
    assert ANALYZE is not None
    done = subprocess.run(
        [ANALYZE, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout


def written(folder: Path, name: str, text: str) -> Path:
    """Write a unit whose program is there."""
    program = folder / "tapestry"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = folder / name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", text))
    return unit


def faults(unit: Path) -> list[str]:
    """What systemd says of a unit's own lines."""
    _, said = analyze("verify", "--man=no", unit)
    return [line for line in said.splitlines() if unit.name in line]


def drop_in(text: str) -> str:
    """The settings that a unit's comments propose for itself."""
    return "\n".join(re.findall(r"^#   (\w+=.*)$", text, re.MULTILINE))


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_no_fault_in_a_unit(name: str, tmp_path: Path) -> None:
    text = (UNITS / name).read_text("utf-8")
    assert faults(written(tmp_path, name, text)) == []
    changed = text.replace("ProtectSystem=strict", "ProtectSystem=very")
    assert faults(written(tmp_path, name, changed)) != []


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_a_unit_exposes_at_most_two_of_ten(name: str, tmp_path: Path) -> None:
    judge = ("security", "--offline=true", "--threshold=20")
    text = (UNITS / name).read_text("utf-8")
    status, said = analyze(*judge, UNITS / name)
    assert status == 0, said
    for line in ("PrivateUsers=yes", "CapabilityBoundingSet=", "SystemCallFilter=@"):
        assert line in text
    open_ = re.sub(r"(?m)^(Private|Protect|System|Capability)\w+=.*$", "", text)
    status, _ = analyze(*judge, written(tmp_path, name, open_))
    assert status != 0


@needs_systemd
def test_what_a_node_unit_proposes_for_a_gpu_is_read_too(tmp_path: Path) -> None:
    name = NAMES[1]
    text = (UNITS / name).read_text("utf-8")
    assert "IPAddressAllow=" in drop_in(text)
    assert "DeviceAllow=" in drop_in(text)
    grown = text.replace("[Install]", f"{drop_in(text)}\n[Install]")
    unit = written(tmp_path, name, grown)
    assert faults(unit) == []
    status, said = analyze("security", "--offline=true", "--threshold=20", unit)
    assert status == 0, said


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_has_what_systemd_does_not_weigh(name: str) -> None:
    lines = set((UNITS / name).read_text("utf-8").splitlines())
    assert lines >= WANTED
    assert "IPAddressDeny=any" in lines
    assert [line for line in lines if line.startswith("IPAddressAllow")] == (
        [] if "node" in name else ["IPAddressAllow=localhost"]
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_starts_a_command_that_there_is(name: str) -> None:
    text = (UNITS / name).read_text("utf-8")
    found = re.search(r"^ExecStart=\S+/tapestry (.*)$", text, re.M)
    assert found is not None
    role, verb, folder = found[1].split()
    commands: Command | None = app
    for word in (role, verb):
        assert isinstance(commands, Group)
        commands = commands.get_command(Context(commands), word)
    assert commands is not None
    assert f"StateDirectory={Path(folder).name}" in text
