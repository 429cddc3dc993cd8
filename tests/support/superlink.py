"""A real SuperLink in this process: Flower's own application, over TLS on a port."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink.main import create_app

from tapestry.transport_keys import load_transport_key
from tapestry_coordinator.superlink.tls import ServerFiles, make_server_certificate


@dataclass(frozen=True, slots=True)
class SuperLink:
    """A SuperLink that listens, and its state."""

    address: str
    authority: Path
    state: Any  # Flower's LinkState

    def register(self, auth_key: Path) -> int:
        """Register a node's key as ``flwr supernode register`` does; return the id."""
        key = public_key_to_bytes(load_transport_key(auth_key).public_key())
        node_id = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0)
        return int(node_id)

    def status(self, node_id: int) -> tuple[str, str, str]:
        """Return a node's status, and when it came and left."""
        (info,) = self.state.get_node_info(node_ids=[node_id])
        return info.status, info.last_activated_at, info.last_deactivated_at


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    """Run one SuperLink for all tests; each registers keys of its own."""
    with superlink(make_server_certificate(tmp_path_factory.mktemp("tls"))) as link:
        yield link


@contextlib.contextmanager
def superlink(files: ServerFiles) -> Iterator[SuperLink]:
    """Serve Flower's application until the block ends."""
    app = create_app()
    app.state.enable_supernode_auth = True
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app,
            ssl_certfile=str(files.certificate),
            ssl_keyfile=str(files.key),
            log_config=None,
            lifespan="off",
            ws="none",
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            address = f"127.0.0.1:{listening.getsockname()[1]}"
            state = app.state.linkstate_factory.state()
            yield SuperLink(address, files.authority, state)
        finally:
            server.should_exit = True
            thread.join()
