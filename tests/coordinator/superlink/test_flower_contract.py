"""Every part of Flower that we rely on, by name: the internal ones change monthly.

When this fails after an upgrade of flwr, the two ``flower.py`` and the engine have to
be read again; nothing else in the repository knows Flower.
"""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import (
    HEARTBEAT_MIN_INTERVAL,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
)
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import (
    control_pb2,
    fab_pb2,
    fleet_pb2,
    heartbeat_pb2,
    message_pb2,
    node_pb2,
    runtime_pb2,
)
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from tapestry_coordinator.superlink import config_files, supervisor
from tapestry_node import flower as node_side
from tapestry_node import superlink_faults

ROOT = Path(__file__).parents[3]
NODE = ROOT / "node/tapestry_node/flower.py"
COORDINATOR = ROOT / "coordinator/tapestry_coordinator/flower.py"
CONTROL = ROOT / "coordinator/tapestry_coordinator/superlink/control_client.py"

PROTOBUF_UTILS = "flwr.supercore.inflatable.inflatable_protobuf_utils"
PUBLIC = {
    "flwr.app.ConfigRecord",
    "flwr.app.Context",
    "flwr.app.Message",
    "flwr.app.RecordDict",
    "flwr.serverapp.ServerApp",
}
INTERNAL_NODE: dict[str, list[str]] = {  # and the parameters that we pass
    "flwr.app.message.remove_content_from_message": ["message"],
    "flwr.common.serde.message_from_proto": ["message_proto"],
    "flwr.common.serde.message_to_proto": ["message"],
    "flwr.proto.fleet_pb2.ActivateNodeRequest": [],
    "flwr.proto.fleet_pb2.DeactivateNodeRequest": [],
    "flwr.proto.fleet_pb2.PullMessagesRequest": [],
    "flwr.proto.fleet_pb2.PushMessagesRequest": [],
    "flwr.proto.fleet_pb2.PushMessagesResponse": [],
    "flwr.proto.heartbeat_pb2.SendNodeHeartbeatRequest": [],
    "flwr.proto.message_pb2.ConfirmMessageReceivedRequest": [],
    "flwr.proto.message_pb2.ObjectTree": [],
    "flwr.proto.message_pb2.PushObjectRequest": [],
    "flwr.proto.node_pb2.Node": [],
    "flwr.supercore.inflatable.inflatable_object.get_all_nested_objects": ["obj"],
    "flwr.supercore.inflatable.inflatable_object.get_object_tree": ["obj"],
    "flwr.supercore.inflatable.inflatable_object.iterate_object_tree": ["tree"],
    "flwr.supercore.inflatable.inflatable_object.no_object_id_recompute": [],
    f"{PROTOBUF_UTILS}.make_pull_object_fn_protobuf": [
        "pull_object_protobuf",
        "node",
        "run_id",
    ],
    f"{PROTOBUF_UTILS}.make_push_object_fn_protobuf": [
        "push_object_protobuf",
        "node",
        "run_id",
        "session_id",
    ],
    "flwr.supercore.inflatable.inflatable_utils.inflate_object_from_contents": [
        "object_id",
        "object_contents",
    ],
    "flwr.supercore.inflatable.inflatable_utils.pull_objects": [
        "object_ids",
        "pull_object_fn",
        "max_time",
        "initial_backoff",
        "backoff_cap",
        "max_tries_per_object",
    ],
    "flwr.supercore.inflatable.inflatable_utils.push_objects": [
        "objects",
        "push_object_fn",
        "object_ids_to_push",
    ],
    "flwr.supercore.primitives.asymmetric.public_key_to_bytes": ["public_key"],
    "flwr.supercore.protobuf.client.ProtobufCall": [],
    "flwr.supercore.protobuf.client.ProtobufRequestContext": ["request"],
    "flwr.supercore.runtime_version_compatibility.RuntimeVersionMetadata": [],
    "flwr.supernode.fleet_http_client.FleetHttpClient": [],
    "flwr.supernode.node_auth_http_interceptor.NodeAuthHttpInterceptor": [
        "private_key",
        "public_key",
    ],
}
INTERNAL_COORDINATOR: dict[str, list[str]] = {
    "flwr.cli.build.build_fab_from_disk": ["app"],
    "flwr.supercore.inflatable.inflatable_utils.ObjectPullError": [
        "object_id",
        "reason",
    ],
    "flwr.proto.runtime_pb2.PullAppMessagesRequest": [],
    "flwr.proto.runtime_pb2.PushAppMessagesRequest": [],
    "flwr.supercore.run.RunNotRunningException": [],
    "flwr.superlink.cli.flwr_serverapp.flwr_serverapp": [],
    "flwr.superlink.grid.http_grid.HttpGrid": [],
}
INTERNAL_CONTROL: dict[str, list[str]] = {
    "flwr.cli.build.build_fab_from_disk": ["app"],
    "flwr.proto.control_pb2.ListNodesRequest": [],
    "flwr.proto.control_pb2.ListRunsRequest": [],
    "flwr.proto.control_pb2.RegisterNodeRequest": [],
    "flwr.proto.control_pb2.StartRunRequest": [],
    "flwr.proto.control_pb2.StopRunRequest": [],
    "flwr.proto.control_pb2.UnregisterNodeRequest": [],
    "flwr.proto.fab_pb2.Fab": [],
    "flwr.supercore.control.ControlHttpClient": ["base_url", "verify"],
    "flwr.supercore.primitives.asymmetric.public_key_to_bytes": ["public_key"],
}
INTERNAL = INTERNAL_NODE | INTERNAL_COORDINATOR | INTERNAL_CONTROL
FIELDS = {
    control_pb2.ListNodesResponse: {"nodes_info"},
    control_pb2.ListRunsRequest: {"run_id"},
    control_pb2.ListRunsResponse: {"run_dict"},
    control_pb2.RegisterNodeRequest: {"public_key", "name"},
    control_pb2.StartRunRequest: {"fab"},
    control_pb2.StartRunResponse: {"run_id"},
    control_pb2.StopRunRequest: {"run_id"},
    control_pb2.UnregisterNodeRequest: {"node_id"},
    fab_pb2.Fab: {"hash_str", "content"},
    fleet_pb2.ActivateNodeRequest: {"public_key", "heartbeat_interval"},
    fleet_pb2.ActivateNodeResponse: {"node_id"},
    fleet_pb2.DeactivateNodeRequest: {"node_id"},
    fleet_pb2.PullMessagesRequest: {"node"},
    fleet_pb2.PullMessagesResponse: {"messages_list", "message_object_trees"},
    fleet_pb2.PushMessagesRequest: {
        "node",
        "messages_list",
        "message_object_trees",
        "clientapp_runtime_list",
    },
    fleet_pb2.PushMessagesResponse: {"objects_to_push", "session_id"},
    heartbeat_pb2.SendNodeHeartbeatRequest: {"node", "heartbeat_interval"},
    message_pb2.ConfirmMessageReceivedRequest: {"node", "run_id", "message_object_id"},
    message_pb2.ObjectTree: {"object_id", "children"},
    message_pb2.PushObjectRequest: {
        "node",
        "run_id",
        "object_id",
        "object_content",
        "session_id",
    },
    node_pb2.NodeInfo: {
        "node_id",
        "last_activated_at",
        "public_key",
        "unregistered_at",
    },
    runtime_pb2.PullAppMessagesRequest: {"message_ids"},
    runtime_pb2.PullAppMessagesResponse: {"messages_list", "message_object_trees"},
    runtime_pb2.PushAppMessagesRequest: {"messages_list", "message_object_trees"},
    runtime_pb2.PushAppMessagesResponse: {
        "message_ids",
        "objects_to_push",
        "session_id",
    },
}


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        f"{part.module}.{alias.name}"
        for part in ast.walk(tree)
        if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("flwr")
        for alias in part.names
    }


def find(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def source(name: str) -> str:
    found = find(name)
    return inspect.getsource(inspect.getmodule(found) or sys.modules[__name__])


def test_this_page_names_all_that_is_imported() -> None:
    found = imported(NODE) | imported(COORDINATOR) | imported(CONTROL)
    assert found == PUBLIC | set(INTERNAL)


@pytest.mark.parametrize("name", sorted(INTERNAL))
def test_internal_parts_exist_and_take_what_we_pass(name: str) -> None:
    found = find(name)
    wanted = INTERNAL[name]
    if wanted:
        assert callable(found)
        assert set(wanted) <= set(inspect.signature(found).parameters)


@pytest.mark.parametrize("message", FIELDS, ids=lambda kind: kind.__name__)
def test_protocol_messages_have_the_fields(message: type) -> None:
    names = {field.name for field in message.DESCRIPTOR.fields}  # type: ignore[attr-defined]
    assert FIELDS[message] <= names


@pytest.mark.parametrize(
    "call",
    [
        "ActivateNode",
        "DeactivateNode",
        "SendNodeHeartbeat",
        "PullMessages",
        "PushMessages",
        "PullObject",
        "PushObject",
        "ConfirmMessageReceived",
    ],
)
def test_the_plain_client_has_the_calls(call: str) -> None:
    client = find("flwr.supernode.fleet_http_client.FleetHttpClient")
    assert list(inspect.signature(getattr(client, call)).parameters) == [
        "self",
        "request",
    ]


@pytest.mark.parametrize(
    "call",
    [
        "PullMessages",
        "PushMessages",
        "PullObject",
        "PushObject",
        "ConfirmMessageReceived",
    ],
)
def test_the_client_of_a_grid_has_the_calls(call: str) -> None:
    client = find("flwr.supercore.runtime.RuntimeHttpClient")
    assert list(inspect.signature(getattr(client, call)).parameters) == [
        "self",
        "request",
    ]


@pytest.mark.parametrize(
    "call",
    [
        *("RegisterNode", "ListNodes", "UnregisterNode"),
        *("StartRun", "ListRuns", "StopRun"),
    ],
)
def test_the_control_client_has_the_calls(call: str) -> None:
    client = find("flwr.supercore.control.ControlHttpClient")
    assert list(inspect.signature(getattr(client, call)).parameters) == [
        "self",
        "request",
    ]


def test_the_plain_client_is_made_from_an_address_and_certificates() -> None:
    client = find("flwr.supernode.fleet_http_client.FleetHttpClient")
    make = inspect.signature(client.from_server_address)  # type: ignore[attr-defined]
    assert {"server_address", "insecure", "root_certificates", "interceptors"} <= set(
        make.parameters
    )
    retries = make.parameters["retry_invoker"].default
    assert retries is None, "Flower's retries send SIGINT on status 401"


@pytest.mark.parametrize(
    "name", sorted(name for name in INTERNAL_NODE if ".proto." not in name)
)
def test_nothing_that_a_node_uses_ends_or_signals_its_process(name: str) -> None:
    text = source(name)
    assert not re.search(r"flwr_exit|os\.kill|raise_signal|sys\.exit|os\._exit", text)


def test_flowers_own_connection_does_which_is_why_we_avoid_it() -> None:
    text = source("flwr.supernode.fleet_http_connection.http_request_response")
    assert "flwr_exit(" in text
    assert "os.kill(" in text
    assert "http_request_response" not in imported(NODE)


def test_our_heartbeat_is_one_that_a_superlink_accepts() -> None:
    assert node_side.HEARTBEAT_SECONDS >= HEARTBEAT_MIN_INTERVAL


def test_the_clocks_may_be_apart_as_far_as_we_say() -> None:
    assert superlink_faults.SIGNED_AT == TIMESTAMP_HEADER
    assert superlink_faults.MOST_AHEAD == SYSTEM_TIME_TOLERANCE
    assert superlink_faults.MOST_BEHIND == TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.mark.usefixtures("identity")
def test_a_superlink_keeps_the_content_of_a_message_that_it_is_sent() -> None:
    """So a small message is whole in the requests that announce and look for it."""
    records = {"message": ConfigRecord({"kind": "hello", "body": b"\x00\xff"})}
    message = Message(RecordDict(dict(records)), 17, "query")
    message.metadata.__dict__["_message_id"] = message.object_id
    again = message_from_proto(message_to_proto(message))
    assert again.metadata.message_id == message.object_id
    assert again.content.object_id == message.content.object_id
    assert dict(again.content["message"]) == dict(records["message"])
    fleet = find("flwr.superlink.servicer.fleet.fleet_handlers.pull_messages")
    runtime = find("flwr.superlink.servicer.runtime.runtime_handlers.pull_messages")
    for handler in (fleet, runtime):
        assert "message_to_proto(msg)" in inspect.getsource(handler)  # type: ignore[arg-type]


@pytest.mark.usefixtures("identity")
def test_a_superlink_takes_a_message_of_one_object() -> None:
    """It checks the object by its digest, and asks for no part that is not named."""
    message = Message(
        RecordDict({"message": ConfigRecord({"body": b"{}"})}), 17, "query"
    )
    store = InMemoryObjectStore()
    tree = message_pb2.ObjectTree(object_id=message.object_id)
    assert store.preregister(1, tree) == [message.object_id]
    store.put(message.object_id, message.deflate())
    assert store.get_object_tree(message.object_id) == tree
    store.delete(message.object_id)
    store.delete(message.object_id)  # a second time it is nothing
    assert len(store) == 0


def test_the_grid_has_its_client_before_our_code_runs() -> None:
    """``limit_hellos`` puts a hook into it."""
    runtime = importlib.import_module("flwr.superlink.runtime.run_serverapp")
    text = inspect.getsource(runtime.run_serverapp)
    call = text.index("grid._runtime_client.PullTaskInput(")
    assert call < text.index("run_(\n")
    assert "self._client = RuntimeHttpClient" in inspect.getsource(HttpGrid)
    client = find("flwr.supercore.protobuf.client.ProtobufClient")
    assert "self._client = httpx.Client(" in inspect.getsource(client)  # type: ignore[arg-type]


def test_bundles_are_unpacked_by_the_function_that_we_guard() -> None:
    runtime = importlib.import_module("flwr.superlink.runtime.run_serverapp")
    text = inspect.getsource(runtime.run_serverapp)
    call = text.index("install_from_fab(fab.content, skip_prompt=True)")
    assert call < text.index("run_(\n")
    assert callable(vars(runtime)["install_from_fab"])


def test_every_program_that_flower_would_start_has_a_stand_in() -> None:
    commands = importlib.import_module("flwr.supercore.constant").TASK_TYPE_TO_COMMAND
    assert set(commands.values()) == {"flwr-serverapp", *config_files.UNWANTED}
    executor = importlib.import_module(
        "flwr.supercore.superexec.executor.subprocess_executor"
    )
    assert "TASK_TYPE_TO_COMMAND[spec.task_type]," in inspect.getsource(executor)


def test_a_message_knows_its_only_child_by_a_digest_of_the_content() -> None:
    content = RecordDict({"message": ConfigRecord({"body": b"{}"})})
    request = Message.__new__(Message)
    request.__dict__.update(_content=content, _error=None, _metadata=None)
    assert list(request.children or {}) == [content.object_id]


def test_records_of_bytes_survive_flower() -> None:
    records = RecordDict({"a": ConfigRecord({"k": "text", "b": b"\x00\xff", "e": b""})})
    inflated = ConfigRecord.inflate(records["a"].deflate(), {})
    assert dict(inflated) == {"k": "text", "b": b"\x00\xff", "e": b""}
    assert [type(value) for value in inflated.values()] == [str, bytes, bytes]


def test_the_programs_take_our_flags() -> None:
    text = Path(supervisor.__file__).read_text(encoding="utf-8")
    flags = set(re.findall(r'"(--[a-z-]+)"', text))
    module = importlib.import_module("flwr.superlink.cli.flower_superlink")
    known = set(module._parse_args_run_superlink()._option_string_actions)
    assert flags <= known


@pytest.mark.parametrize(
    ("variable", "module"),
    [
        ("FLWR_HOME", "flwr.common.constant"),
        ("FLWR_TELEMETRY_ENABLED", "flwr.supercore.telemetry"),
        ("FLWR_DISABLE_UPDATE_CHECK", "flwr.supercore.constant"),
        ("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "flwr.common.constant"),
    ],
)
def test_flower_still_reads_the_variables_we_set(variable: str, module: str) -> None:
    assert variable in inspect.getsource(importlib.import_module(module))
    assert variable in inspect.getsource(supervisor)


def test_an_auditor_does_not_load_flower() -> None:
    code = (
        "import sys, tapestry.protocol.framing, tapestry_coordinator.superlink.tls, "
        "tapestry_coordinator.superlink.supervisor, "
        "tapestry_coordinator.superlink.outcome; "
        "sys.exit('flwr' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
