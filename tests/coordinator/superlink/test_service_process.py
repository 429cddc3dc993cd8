"""The service starts again after faults of the machine; its own faults end it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry.storage.file_lock import lock_folder
from tapestry_coordinator.barred_keys import FILE, bar
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_coordinator.superlink import service_process
from tapestry_coordinator.superlink.service_process import Doorman, reached
from tapestry_coordinator.superlink.tls import make_server_certificate
from tests.support.refusals import refused


class Stopped(BaseException):
    """The operator stopped it."""


def led(folder: Path) -> Path:
    said = {"federation": "rivers", "origin": "rivers/log", "address": "a.example:443"}
    text = "".join(f'{key} = "{value}"\n' for key, value in said.items())
    (folder / "coordinator.toml").write_text(text)
    return folder


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
        service_process.serve(led(tmp_path), tick=lambda: None)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_address_at_which_it_does_not_listen_needs_a_proxy(tmp_path: Path) -> None:
    settings = CoordinatorSettings.read(led(tmp_path) / "coordinator.toml")
    heard, proxied = reached(settings)
    assert heard == "listening on 127.0.0.1:8443"
    assert proxied.startswith("nodes dial a.example:443: a proxy has to answer there")
    assert "on to 127.0.0.1:8443, such as nginx" in proxied
    for host, lines in (("127.0.0.1", 1), ("localhost", 1), ("a.example", 2)):
        alone = {"address": f"{host}:9000", "listen": {"superlink": "127.0.0.1:9000"}}
        here = CoordinatorSettings.model_validate({**settings.model_dump(), **alone})
        assert len(list(reached(here))) == lines, host


def test_a_fault_of_the_folder_ends_it(tmp_path: Path) -> None:
    with refused(ConfigError, "file-missing", match=r"coordinator\.toml"):
        service_process.serve(tmp_path, tick=lambda: None)


def test_a_key_that_comes_later_is_registered_once(tmp_path: Path) -> None:
    admitted, barred = list[list[str]](), list[frozenset[str]]()
    doorman = Doorman(
        tmp_path, admit=lambda keys: admitted.append(sorted(keys)), bar=barred.append
    )
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
    assert barred == []


def test_a_key_that_was_not_registered_is_tried_again(tmp_path: Path) -> None:
    def admit(_: Mapping[str, Path]) -> None:
        raise ResourceError("the SuperLink is gone", code="superlink-unreachable")

    (tmp_path / "fr.pub").write_text("key")
    doorman = Doorman(tmp_path, admit=admit, bar=lambda _: None)
    for _ in range(2):
        with pytest.raises(ResourceError):
            doorman.look()


def test_a_stolen_key_is_barred_before_any_is_registered(tmp_path: Path) -> None:
    done: list[Any] = []

    def fail_once(digests: frozenset[str]) -> None:
        done.append(digests)
        if len(done) == 1:
            raise ResourceError("the SuperLink is gone", code="superlink-unreachable")

    doorman = Doorman(tmp_path, admit=lambda keys: done.append([*keys]), bar=fail_once)
    bar(tmp_path, ["ab" * 32])
    (tmp_path / "fr.pub").write_text("key")
    with pytest.raises(ResourceError):
        doorman.look()
    for _ in range(2):
        doorman.look()
    assert done == [{"ab" * 32}, {"ab" * 32}, ["fr"]]
    bar(tmp_path, ["cd" * 32])
    doorman.look()
    assert done[3:] == [{"ab" * 32, "cd" * 32}]


def test_no_key_is_registered_by_a_damaged_list(tmp_path: Path) -> None:
    admitted: list[Any] = []
    doorman = Doorman(tmp_path, admit=admitted.append, bar=admitted.append)
    (tmp_path / "fr.pub").write_text("key")
    (tmp_path / FILE).write_text("nonsense")
    with refused(ConfigError, "barred-keys-invalid"):
        doorman.look()
    assert admitted == []


def test_a_second_service_of_a_folder_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve_once(*_: object) -> None:
        raise Stopped

    monkeypatch.setattr(service_process, "_serve_once", serve_once)
    with (
        lock_folder(led(tmp_path)),
        refused(ConfigError, "folder-in-use", match=str(tmp_path)),
    ):
        service_process.serve(tmp_path, tick=lambda: None)
    with pytest.raises(Stopped):  # the other one has ended
        service_process.serve(tmp_path, tick=lambda: None)


def test_a_key_that_is_lost_ends_it_with_what_makes_another(tmp_path: Path) -> None:
    """As in a folder that was restored: no backup has a private key."""
    log = tmp_path / "log"
    log.mkdir()
    (log / "log.db").touch()
    files = make_server_certificate(led(tmp_path) / "tls")
    files.key.unlink()
    with refused(
        ConfigError, "tls-file-missing", match="superlink.key.*coordinator renew"
    ):
        service_process.serve(tmp_path, tick=lambda: None)
