"""A real SuperLink behind the shipped proxy: what passes, and what does not."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry_coordinator.superlink.supervisor import Engine
from tapestry_coordinator.superlink.tls import ServerFiles, make_server_certificate
from tests.deploy.reverse_proxy import PATHS, Proxy, ask, needs_nginx, proxied
from tests.support.echo_members import NAMES
from tests.support.enrolled import enroll
from tests.support.federation_fixtures import Found, base, found
from tests.support.process_families import wait_until
from tests.support.settings_files import run_settings

__all__ = ["Found", "base", "found"]
pytestmark = [pytest.mark.slow, needs_nginx]

MEMBERS = Path(__file__).resolve().parents[1] / "coordinator" / "superlink"


def files_of(engine: Engine) -> ServerFiles:
    return make_server_certificate(engine.home / "tls")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = os.pathsep.join([str(MEMBERS), *filter(None, sys.path)])
    home = tmp_path_factory.mktemp("engine")
    with Engine(home, proxied=True, environment={"PYTHONPATH": path}) as engine:
        yield engine


@pytest.fixture(scope="module")
def proxy(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    with proxied(folder, files_of(engine), superlink=engine.address) as proxy:
        yield proxy


def test_of_all_paths_of_the_superlink_eight_are_there(
    engine: Engine, proxy: Proxy
) -> None:
    authority = proxy.authority
    status, text = ask(engine.address, authority, "GET", "/openapi.json")
    listed = json.loads(text)["paths"]
    assert status == 200
    assert len(listed) > 60
    assert set(PATHS) < set(listed)
    named = [re.sub(r"\{\w+\}", "x", path) for path in listed]
    for path in {*named, "/docs", "/redoc", "/openapi.json"} - set(PATHS):
        for method in ("GET", "POST"):
            assert proxy.ask(method, path, b"")[0] == 404, path
    assert proxy.passed == []
    for path in PATHS:  # as if there were no proxy: no signature, no answer
        assert ask(engine.address, authority, "POST", path, b"")[0] == 401
        assert proxy.ask("POST", path, b"")[0] == 401
    # nginx writes its log after it has answered.
    wait_until(lambda: len(proxy.passed) >= len(PATHS))
    assert proxy.passed == [f"POST {path} HTTP/1.1" for path in PATHS]


def test_nodes_prove_their_keys_and_send_sixteen_mebibytes_through_the_proxy(
    engine: Engine, proxy: Proxy, tmp_path: Path
) -> None:
    for name in NAMES[:2]:
        site = enroll(engine, name, engine.home / "keys" / name)
        script = [sys.executable, str(MEMBERS / "echo_node.py"), name, proxy.address]
        files = [str(site.root_certificates), str(site.auth_key)]
        engine.start_node(name, [*script, *files])
    step = {"body": {}, "deadline": 90.0, "blocks": 16}
    plan = {"nodes": 2, "steps": [step, step]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    engine.run(tmp_path, app="echo_app:app")
    for number in range(2):
        note = json.loads((tmp_path / f"step-{number}.json").read_text())
        assert sorted(note["kinds"]) == list(NAMES[:2])
        assert note["same"]

    def answered() -> set[str]:
        worked = (proxy.folder / "access.log").read_text().splitlines()
        return {line.split()[2] for line in worked if line.startswith("200 ")}

    # A node sends a heartbeat each 20 seconds, and the two go on.
    expected = set(PATHS) - {"/v1/fleet/deactivate-node"}
    wait_until(lambda: answered() >= expected, seconds=300)


def test_a_round_of_real_nodes_closes_through_the_proxy(found: Found) -> None:
    patient = {"deadlines": dict.fromkeys(run_settings()["deadlines"], 90)}
    federation = found(train=True, coordinator=patient)
    federation.close()
    home, folder = federation.directory / "flower", federation.directory / "proxy"
    folder.mkdir()
    public = federation.coordinator / "log" / "public"
    (folder / "public").symlink_to(public)
    with (
        Engine(home, proxied=True) as engine,
        proxied(folder, files_of(engine), superlink=engine.address) as proxy,
    ):
        for place in sorted((federation.directory / "nodes").iterdir()):
            site = enroll(engine, place.name, place / "keys" / "transport")
            command = [
                *(sys.executable, "-m", "tapestry", "node", "run", str(place)),
                *("--superlink", proxy.address),
                *("--root-certificates", str(site.root_certificates)),
                *("--auth-key", str(site.auth_key)),
            ]
            engine.start_node(place.name, command)
        engine.run(federation.coordinator)
        engine.stop()
        wait_until(lambda: any("/deactivate-node" in line for line in proxy.passed))
        passed = {line.split()[1] for line in proxy.passed}
        # Large messages alone take requests for their parts, and here may be none;
        # and a quick round ends before the first heartbeat.
        always = ("activate-node", "deactivate-node", "pull-messages", "push-messages")
        assert {f"/v1/fleet/{name}" for name in always} <= passed <= set(PATHS)
        for path in (p for p in public.rglob("*") if p.is_file()):
            name = path.relative_to(public)
            assert proxy.ask("GET", f"/public/{name}") == (200, path.read_bytes())
    (closed,) = federation.closed()
    assert closed.outcome == "applied"
    assert len(closed.included) == 4
