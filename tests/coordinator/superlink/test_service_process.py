"""The service starts again after faults of the machine; its own faults end it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry_coordinator.superlink import service_process
from tapestry_coordinator.superlink.service_process import Doorman
from tests.support.refusals import refused


class Stopped(BaseException):
    """The operator stopped it."""


def test_it_starts_again_after_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def wait(seconds: float, _tick: Any) -> None:
        waits.append(seconds)
        if len(waits) == 9:
            raise Stopped

    def fail(*_: Any) -> None:
        raise ResourceError("the port is in use", code="port-unavailable")

    monkeypatch.setattr(service_process, "_wait", wait)
    monkeypatch.setattr(service_process, "_serve_once", fail)
    with pytest.raises(Stopped):
        service_process.serve(tmp_path, tick=lambda: None)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_fault_of_the_folder_ends_it(tmp_path: Path) -> None:
    with refused(ConfigError, "file-missing", match=r"coordinator\.toml"):
        service_process.serve(tmp_path, tick=lambda: None)


def test_a_key_that_comes_later_is_registered_once(tmp_path: Path) -> None:
    admitted: list[list[str]] = []
    doorman = Doorman(tmp_path, admit=lambda keys: admitted.append(sorted(keys)))
    doorman.look()
    (tmp_path / "fr.pub").write_text("key")
    for _ in range(3):
        doorman.look()
    (tmp_path / "de.pub").write_text("key")
    (tmp_path / "note.txt").write_text("no key")
    doorman.look()
    assert admitted == [["fr"], ["de"]]
    (tmp_path / "fr.pub").write_text("another key")
    for _ in range(2):
        doorman.look()
    assert admitted == [["fr"], ["de"], ["fr"]]


def test_a_key_that_was_not_registered_is_tried_again(tmp_path: Path) -> None:
    def admit(_: Mapping[str, Path]) -> None:
        raise ResourceError("the SuperLink is gone", code="superlink-unreachable")

    (tmp_path / "fr.pub").write_text("key")
    doorman = Doorman(tmp_path, admit=admit)
    for _ in range(2):
        with pytest.raises(ResourceError):
            doorman.look()
