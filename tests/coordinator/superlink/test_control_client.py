"""The control paths of a real SuperLink, over TLS."""

from pathlib import Path

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry.transport_keys import make_transport_key
from tapestry_coordinator.superlink.config_files import write_bundle
from tapestry_coordinator.superlink.control_client import ControlClient
from tapestry_node.flower import try_connection
from tests.support.refusals import refused
from tests.support.superlink import SuperLink, engine

__all__ = ["engine"]


@pytest.fixture
def control(engine: SuperLink, monkeypatch: pytest.MonkeyPatch) -> ControlClient:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("ALL_PROXY", "all_proxy"):  # httpx knows no such proxy here
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    return ControlClient(engine.address, authority=engine.authority)


def test_a_key_that_was_registered_is_let_in_and_only_once(
    control: ControlClient, engine: SuperLink, tmp_path: Path
) -> None:
    make_transport_key(tmp_path / "key")
    with control:
        control.register("de", tmp_path / "key.pub")
        with refused(ResourceError, "superlink-refused", match=r"key.pub: [^\n]+\(4"):
            control.register("de", tmp_path / "key.pub")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            patch.delenv(name)
        try_connection(
            superlink=engine.address,
            root_certificates=engine.authority,
            auth_key=tmp_path / "key",
        )


@pytest.mark.parametrize("text", [b"", b"ssh-ed25519 AAAA", b"\xff"])
def test_what_is_no_public_key_is_named(
    control: ControlClient, tmp_path: Path, text: bytes
) -> None:
    (tmp_path / "de.pub").write_bytes(text)
    with control, refused(ConfigError, "key-file-invalid", match=r"de\.pub"):
        control.register("de", tmp_path / "de.pub")


def test_a_run_is_started_seen_and_stopped(
    control: ControlClient, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "bundle", app="some.module:app", directory=tmp_path)
    with control:
        run_id = control.start(tmp_path / "bundle")
        assert not control.has_finished(run_id)
        control.stop(run_id)
        assert control.has_finished(run_id)
        with refused(ResourceError, "superlink-refused", match="list run 7"):
            control.has_finished(7)


def test_a_superlink_that_is_gone_is_told_in_one_line(engine: SuperLink) -> None:
    control = ControlClient("127.0.0.1:9", authority=engine.authority)
    with control, refused(ResourceError, "superlink-refused", match=r"^[^\n]+$"):
        control.stop(1)
