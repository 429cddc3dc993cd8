"""Somebody with the authority's certificate alone, at the port of a real SuperLink.

Flower lets everybody who reaches its control paths register and unregister keys. The
outsider here has another folder, another key and no file of the engine's but the
certificate. Members are processes, as in ``test_supervisor``.
"""

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tapestry.keys import SigningKey
from tapestry.protocol.messages import Kind, Message
from tapestry.transport_keys import make_transport_key
from tapestry_coordinator.superlink.supervisor import Engine
from tapestry_node.flower import LineUse, serve
from tests.support.echo_members import NAMES, identity
from tests.support.enrolled import enroll
from tests.support.flwr_command import flwr, write_connection

HERE = Path(__file__).parent

pytestmark = pytest.mark.slow


class Outsider:
    """Reaches the port, and claims to be ``fr`` by a key of its own."""

    def __init__(self, home: Path, engine: Engine) -> None:
        home.mkdir()
        self.home, self.address = home, engine.address
        self.authority = home / "authority.pem"
        shutil.copy(engine.home / "tls" / "authority.pem", self.authority)
        write_connection(home, self.address, authority=self.authority)
        make_transport_key(home / "key")
        self.key = SigningKey.generate("fr.example/node")
        self.got: list[Kind] = []
        self.stop, self.met = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._connect)

    def control(self, *arguments: str) -> Any:
        """Call a control path."""
        return flwr(*arguments, home=self.home)

    def _answer(self, request: Message, connection: str) -> Message:
        self.got.append(request.kind)
        return identity("fr", request, connection, key=self.key)

    def _connect(self) -> None:
        serve(
            self._answer,
            superlink=self.address,
            root_certificates=self.authority,
            auth_key=self.home / "key",
            use=LineUse(tell=lambda *_: self.met.set()),
            stop=self.stop,
        )


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])  # the code under test
    with Engine(tmp_path / "engine", environment={"PYTHONPATH": path}) as engine:
        yield engine


def replies(engine: Engine, folder: Path, *, nodes: int) -> dict[str, str]:
    """Let a coordinator ask every member that it has met."""
    folder.mkdir()
    plan = {"nodes": nodes, "steps": [{"body": {}, "deadline": 40.0}]}
    (folder / "plan.json").write_text(json.dumps(plan))
    engine.run(folder, app="echo_app:app")
    kinds: dict[str, str] = json.loads((folder / "step-0.json").read_text())["kinds"]
    return kinds


def test_an_outsider_at_the_control_paths_gains_no_name_and_no_message(
    engine: Engine, tmp_path: Path
) -> None:
    outsider = Outsider(tmp_path / "outsider", engine)
    control = partial(outsider.control, "supernode")
    control("register", str(outsider.home / "key.pub"), "local", "--name", "fr")
    outsider.thread.start()
    try:
        assert outsider.met.wait(120)  # before any member
        for name in NAMES:
            site = enroll(engine, name, engine.home / "keys" / name)
            script = [sys.executable, str(HERE / "echo_node.py"), name, site.superlink]
            files = [str(site.root_certificates), str(site.auth_key)]
            engine.start_node(name, [*script, *files])
        met = replies(engine, tmp_path / "first", nodes=len(NAMES))
        assert met == dict.fromkeys(NAMES, "receipt")
        assert set(outsider.got) == {Kind.HELLO}

        known = {str(node["node-id"]) for node in control("list", "local")["nodes"]}
        victim = (engine.home / "keys" / "fr.node-id").read_text()
        assert victim in known
        control("unregister", victim, "local")
        others = set(NAMES) - {"fr"}
        met = replies(engine, tmp_path / "second", nodes=len(others))
        assert met == dict.fromkeys(sorted(others), "receipt")
        assert set(outsider.got) == {Kind.HELLO}
        assert outsider.thread.is_alive()
    finally:
        outsider.stop.set()
        outsider.thread.join(120)
