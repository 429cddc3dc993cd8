"""A node answers before its model is there, and ends if there will be none."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError
from tapestry.protocol.messages import HelloRequest, Kind, Message, encode_message
from tapestry.workloads.deferred_workload import DeferredWorkload
from tapestry.workloads.language import base_models
from tapestry.workloads.workload_registry import open_reader
from tapestry_node import model_loader
from tapestry_node.model_loader import ModelLoader
from tests.support.refusals import refused

HELLO = encode_message(HelloRequest(nonce="3" * 64))
ANSWERS = """
import sys
from pathlib import Path
from tapestry.protocol.messages import HelloRequest, decode_body, encode_message
from tapestry.workloads.workload_registry import defer_workload
from tapestry_node.node import Node
import tapestry_node.flower
node = Node(Path(sys.argv[1]), workload=defer_workload("language", "tiny"))
said = decode_body(node.handle(encode_message(HelloRequest(nonce="3" * 64)), "17"))
print(said.name, said.size, said.lacks)
sys.exit(any(m in sys.modules for m in ("torch", "transformers", "peft", "opacus")))
"""


class Base:
    """A base that builds its model when the test lets it, or fails to."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.found = base_models.find_base("tiny")
        self.name, self.given = self.found.name, self.found.given
        self.fault = fault
        self.began = threading.Event()

    def load(self) -> Any:
        self.began.set()
        if self.fault is not None:
            raise self.fault
        return self.found.load()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_loader, "_SOON", 0.05)


def deferred_of(base: Base) -> DeferredWorkload:
    reader = open_reader("language")
    assert reader is not None
    return DeferredWorkload(base, reader=reader)


def answer(message: Message, _: str) -> Message:
    return message


@pytest.mark.slow
def test_a_hello_is_answered_without_torch(idle: Path, used: Path) -> None:
    """``used`` took a round: without its snapshot it would lack the result."""
    base_models.base_folder("tiny")
    for folder in (idle, used):
        done = subprocess.run(
            [sys.executable, "-c", ANSWERS, str(folder)],
            check=False,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.split()[2] == "None"


def test_the_model_is_built_after_the_first_request_without_another() -> None:
    base, stop = Base(), threading.Event()
    deferred = deferred_of(base)
    with ModelLoader(deferred, stop=stop) as model:
        handle = model.watching(answer)
        assert not base.began.wait(0.3)
        assert handle(HELLO, "17").kind is Kind.HELLO
        assert base.began.wait(60)
    assert deferred.fault is None
    assert not stop.is_set()


def test_a_base_without_a_model_ends_the_node_with_the_reason() -> None:
    fault = ConfigError("no such architecture", code="model-type-unknown")
    base, stop = Base(fault), threading.Event()
    with (
        refused(ConfigError, "model-type-unknown", match="no such architecture"),
        ModelLoader(deferred_of(base), stop=stop) as model,
    ):
        model.watching(answer)(HELLO, "17")
        assert stop.wait(60)


def test_a_request_that_needs_the_model_ends_the_node_at_once() -> None:
    fault = ConfigError("no such architecture", code="model-type-unknown")
    deferred: Any = deferred_of(Base(fault))
    stop = threading.Event()

    def need(message: Message, _: str) -> Message:
        with refused(ConfigError, "model-type-unknown"):
            deferred.module  # noqa: B018 - a node refuses the request by this
        return message

    with (
        refused(ConfigError, "model-type-unknown"),
        ModelLoader(deferred, stop=stop) as model,
    ):
        model.watching(need)(HELLO, "17")
        assert stop.is_set()
    with refused(ConfigError, "model-type-unknown"):
        ModelLoader(deferred, stop=stop).__enter__()


def test_a_node_that_was_never_asked_ends_without_a_model() -> None:
    base = Base()
    with ModelLoader(deferred_of(base), stop=threading.Event()):
        pass
    assert not base.began.is_set()
