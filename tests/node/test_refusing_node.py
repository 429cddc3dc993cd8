"""A node that cannot work says so: a code to the coordinator, all to its operator."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import ConfigError, ResourceError, TapestryError
from tapestry.protocol.folder_faults import FolderFault
from tapestry.protocol.messages import (
    HelloRequest,
    Identity,
    Kind,
    Message,
    Reason,
    Refusal,
    encode_message,
    expect_body,
)
from tapestry_node import refusing_node
from tapestry_node.node import Node
from tapestry_node.node_state import NodeState
from tapestry_node.open_folder import OpenFolder
from tapestry_node.refusing_node import RefusingNode, opening
from tapestry_node.settings import Transport
from tapestry_node.status_file import StatusFile
from tests.support.commands import tapestry
from tests.support.federation import Base
from tests.support.message_samples import sample_bodies
from tests.support.node_folders import TRANSPORT, change, connect
from tests.support.record_canaries import CANARY, shown_in
from tests.support.superlink import SuperLink

HELLO = encode_message(HelloRequest(nonce="0" * 64))


@pytest.fixture
def folder(used: Path) -> Iterator[OpenFolder]:
    opened = OpenFolder.open(used)
    yield opened
    opened.close()


def fails(folder: OpenFolder, base: Base) -> TapestryError:
    """Return what a node ends with whose records are gone, named after a person."""
    settings = folder.settings.model_copy(update={"data": f"{CANARY}/data"})
    object.__setattr__(folder, "settings", settings)
    with pytest.raises(ConfigError) as found:
        Node(folder, workload=base.workload, replica=base.replica)
    assert CANARY in str(found.value)  # the operator is told
    return found.value


def test_a_greeting_is_answered_by_name_and_code_alone(
    folder: OpenFolder, base: Base
) -> None:
    fault = FolderFault.of(fails(folder, base))
    assert fault is FolderFault.FOLDER_MISSING
    reply = RefusingNode(folder, fault).handle(HELLO, "7")
    said = expect_body(reply, Identity)
    assert (said.refuses, said.rests, said.size) == (fault, True, folder.mirror.size)
    assert not shown_in(reply.body)
    assert set(json.loads(reply.body)) == set(Identity.model_fields)


def test_all_else_is_refused_whatever_it_is(folder: OpenFolder) -> None:
    node = RefusingNode(folder, FolderFault.INTERNAL)
    for kind, body in sample_bodies().items():
        if kind is Kind.HELLO:
            continue
        reply = node.handle(encode_message(body), "7")
        said = expect_body(reply, Refusal)
        assert said.reason is Reason.MAINTENANCE, kind
        assert not reply.attachments
    nonsense = Message(kind=Kind.COSIGN, body=CANARY.encode())
    reply = node.handle(nonsense, "7")
    assert expect_body(reply, Refusal).reason is Reason.PROTOCOL


def test_each_reply_is_receipted_before_it_leaves(
    folder: OpenFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = RefusingNode(folder, FolderFault.INTERNAL)
    before = len(list(folder.store.receipts()))
    node.handle(HELLO, "7")
    assert len(list(folder.store.receipts())) == before + 1

    def full(*_: object) -> None:
        raise ResourceError("full", code="file-unwritable")

    monkeypatch.setattr(NodeState, "record", full)
    with pytest.raises(ResourceError):
        node.handle(HELLO, "7")


def where(folder: Path) -> Transport:
    return Transport(
        superlink=TRANSPORT["superlink"],
        root_certificates=str(folder / "authority.pem"),
        auth_key=str(folder / "keys" / "transport"),
        poll_seconds="0.1",
    )


def test_without_a_superlink_it_ends_at_once_as_it_would_have(used: Path) -> None:
    error = ConfigError("no records", code="records-missing")
    with (
        pytest.raises(ConfigError) as found,
        opening(used, where=where(used), told=StatusFile(used)),
    ):
        raise error
    assert found.value is error
    OpenFolder.open(used).close()  # which holds it no longer


@pytest.mark.slow
def test_the_command_tells_both_ends_while_it_is_connected(
    used: Path, engine: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator reads the whole error, the SuperLink sees that a node is here."""
    node_id = connect(used, engine)
    change(used, {"data": f"{CANARY}/data"})
    seen: dict[str, str] = {}
    told = StatusFile.refusing

    def look(self: StatusFile, error: Exception) -> None:
        told(self, error)
        seen["link"] = engine.status(node_id)[0]
        seen["text"] = tapestry("node", "status", used).stdout
        seen["ready"] = str(tapestry("node", "status", used, "--ready").exit_code)

    monkeypatch.setattr(StatusFile, "refusing", look)
    monkeypatch.setattr(refusing_node, "SECONDS", 1.0)
    done = tapestry("node", "run", used)
    assert done.exit_code == 64
    assert done.stderr.endswith("[folder-missing]\n")
    assert seen["link"] == "online"
    assert "refusing    everything since " in seen["text"]
    assert f"{CANARY}/data" in seen["text"]
    assert "[folder-missing]" in seen["text"]
    assert seen["ready"] == "3"
