"""Addresses of the SuperLink's port: this machine's own, or a proxy is declared."""

from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry_coordinator.superlink.listen_address import check_listen_host
from tapestry_coordinator.superlink.supervisor import Engine
from tests.support.refusals import refused

OUTSIDE = ["0.0.0.0", "::", "", "192.0.2.7", "10.0.0.1", "superlink.example", "*"]  # noqa: S104


@pytest.mark.parametrize("host", OUTSIDE)
def test_control_paths_do_not_face_a_network(host: str) -> None:
    with refused(ConfigError, "control-paths-exposed", match="eight paths alone"):
        check_listen_host(host, proxied=False)
    check_listen_host(host, proxied=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_needs_no_proxy(host: str) -> None:
    check_listen_host(host, proxied=False)


@pytest.mark.parametrize("host", OUTSIDE)
def test_no_engine_starts_on_an_address_that_others_reach(
    tmp_path: Path, host: str
) -> None:
    engine = Engine(tmp_path / "engine", host=host)
    with refused(ConfigError, "control-paths-exposed"):
        engine.start()
    assert engine.pids == {}
    assert not (tmp_path / "engine").exists()
