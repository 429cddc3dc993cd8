"""The SuperLink's control paths: register keys, start, look at and stop runs.

``flwr`` does the same with a process for each call, which takes a second or two. A
contract test names every part of Flower that this relies on.
"""

import hashlib
import ssl
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.build import build_fab_from_disk
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from tapestry.environment import direct
from tapestry.errors import ConfigError, ResourceError, TapestryError
from tapestry.transport_keys import key_digest
from tapestry_coordinator.superlink.flower_programs import one_line
from tapestry_coordinator.superlink.tls import read_small_file

_SECONDS = 60.0


class ControlClient:
    """A connection to the control paths of a SuperLink on this machine.

    Guarantees:
        No proxy is asked, whatever the environment names.
    """

    def __init__(self, address: str, *, authority: Path) -> None:
        """Take host and port; connect with the first call.

        ``authority`` is the certificate that the SuperLink's own is signed by.
        """
        context = ssl.create_default_context(cafile=authority)
        with direct("localhost:1"):  # Flower's own client would ask what is named
            self._client = ControlHttpClient(f"https://{address}", verify=context)
        vars(self._client)["_client"] = self._http = httpx.Client(
            verify=context, timeout=_SECONDS, trust_env=False
        )

    def __enter__(self) -> Self:
        """Return this connection, for one block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._http.close()

    def register(
        self, name: str, public: Path, *, barred: Collection[str] = ()
    ) -> bool:
        """Register a node's public key under its name; False for one of these digests.

        Raises:
            ConfigError: The file is no public key.
            ResourceError: The SuperLink refuses the key, for instance a known one.
        """
        key = _read_public(public)
        if key_digest(key) in barred:
            return False
        request = RegisterNodeRequest(public_key=public_key_to_bytes(key), name=name)
        with _told(f"register {public}"):
            self._client.RegisterNode(request)
        return True

    def unregister(self, digests: Collection[str]) -> None:
        """Let nodes' keys in no more; what they connected ends with the next request.

        Raises:
            ResourceError: The SuperLink refuses that, or is not there.
        """
        with _told("list nodes"):
            nodes = self._client.ListNodes(ListNodesRequest()).nodes_info
        for node in nodes:
            key = serialization.load_pem_public_key(node.public_key)
            if not isinstance(key, ec.EllipticCurvePublicKey) or node.unregistered_at:
                continue
            if key_digest(key) in digests:
                with _told(f"unregister node {node.node_id}"):
                    self._client.UnregisterNode(
                        UnregisterNodeRequest(node_id=node.node_id)
                    )

    def start(self, bundle: Path) -> int:
        """Start a run of a bundle, and return its number.

        Raises:
            ResourceError: The SuperLink refuses it, or is not there.
        """
        content = build_fab_from_disk(bundle)
        fab = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
        with _told("start a run"):
            return int(self._client.StartRun(StartRunRequest(fab=fab)).run_id)

    def has_finished(self, run_id: int) -> bool:
        """Return whether a run has ended.

        Raises:
            ResourceError: The SuperLink does not know the run, or is not there.
        """
        with _told(f"list run {run_id}"):
            runs = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        return bool(runs[run_id].status.status == "finished")

    def stop(self, run_id: int) -> None:
        """Stop a run.

        Raises:
            ResourceError: The SuperLink refuses that, or is not there.
        """
        with _told(f"stop run {run_id}"):
            self._client.StopRun(StopRunRequest(run_id=run_id))


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn a failed call into an error of one line."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        said = one_line(error.response.text)
        raise _failed(f"{what}: {said} ({error.response.status_code})") from None
    except (httpx.HTTPError, ValueError) as error:  # the latter: no such message
        raise _failed(f"{what}: {one_line(str(error))}") from None


def _failed(said: str) -> ResourceError:
    return ResourceError(f"the SuperLink did not {said}", code="superlink-refused")


def _read_public(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_ssh_public_key(read_small_file(path))
    except (TapestryError, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(
            f"{path} is no public elliptic-curve key in OpenSSH form; put the member's"
            " there, as its request has it",
            code="key-file-invalid",
        )
    return key
