"""What the machine at hand can do, told alike in a container and out of it."""

import os
from pathlib import Path

import pytest

from tapestry.workloads import hardware
from tapestry.workloads.hardware import memory_bytes


def test_this_machine_says_how_much_memory_it_has() -> None:
    found = memory_bytes()
    assert found is None or found > 1 << 28


@pytest.fixture
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where a container's limits stand, with none there."""
    places = [tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"]
    monkeypatch.setattr(hardware, "_LIMITS", tuple(places))
    return places


def test_memory_without_a_container_is_that_of_the_machine(limits: list[Path]) -> None:
    whole = memory_bytes()
    assert whole == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for text in ("max\n", "", "many", "\xff"):
        limits[0].write_text(text, "latin-1")
        assert memory_bytes() == whole
    limits[0].write_text(f"{1 << 62}\n")
    assert memory_bytes() == whole


@pytest.mark.parametrize("place", [0, 1], ids=["cgroup 2", "cgroup 1"])
def test_memory_in_a_container_is_its_limit(limits: list[Path], place: int) -> None:
    limits[place].write_text("1048576\n")
    assert memory_bytes() == 1 << 20
    limits[1 - place].write_text("2097152\n")
    assert memory_bytes() == 1 << 20


def test_memory_that_no_system_tells_of_is_unknown(
    limits: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", fail)
    assert memory_bytes() is None
    limits[0].write_text("4096")
    assert memory_bytes() == 4096
