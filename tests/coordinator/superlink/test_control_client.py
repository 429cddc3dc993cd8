"""The control paths of a real SuperLink, over TLS."""

from pathlib import Path

import pytest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from tapestry.errors import ConfigError, IncompleteError, ResourceError
from tapestry.transport_keys import (
    load_transport_key,
    make_transport_key,
    transport_digest,
)
from tapestry_coordinator.superlink.config_files import write_bundle
from tapestry_coordinator.superlink.control_client import ControlClient
from tapestry_node.flower import try_connection
from tests.support.refusals import refused
from tests.support.superlink import SuperLink, engine

__all__ = ["engine"]


def loaded_public(path: Path) -> bytes:
    return bytes(public_key_to_bytes(load_transport_key(path).public_key()))


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


def test_a_key_that_is_unregistered_is_refused_at_once(
    control: ControlClient,
    engine: SuperLink,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("stolen", "kept"):
        make_transport_key(tmp_path / name)
    digest = transport_digest((tmp_path / "stolen.pub").read_text().strip())
    with control:
        for name in ("stolen", "kept"):
            assert control.register(name, tmp_path / f"{name}.pub")
        control.unregister({digest})
        control.unregister({digest})  # nothing is left to do
        assert not control.register("de", tmp_path / "stolen.pub", barred={digest})
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name)

    def connect(name: str) -> None:
        try_connection(
            superlink=engine.address,
            root_certificates=engine.authority,
            auth_key=tmp_path / name,
        )

    connect("kept")
    with refused(IncompleteError, "transport-key-unknown"):
        connect("stolen")
    nodes = {name: loaded_public(tmp_path / name) for name in ("stolen", "kept")}
    known = {n: engine.state.get_node_id_by_public_key(k) for n, k in nodes.items()}
    assert known["stolen"] is None  # by which each request of a connection is known
    assert known["kept"] is not None


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
