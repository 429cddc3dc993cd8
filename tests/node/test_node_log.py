"""What a node writes into its own log: its rules in full, of other errors the place."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ResourceError
from tapestry.protocol.messages import Kind, Message
from tapestry_node.adapters import adapter_trainer
from tests.support.federation import Base, Federation

RECORD = "Maria Rossi has the flu"


@pytest.fixture
def federation(base: Base, tmp_path: Path) -> Iterator[Federation]:
    found = Federation(
        tmp_path / "federation", base, coordinator={"adapters": True}, train=False
    )
    yield found
    found.close()


def fails(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error from LookupError(RECORD)

    return fail


@pytest.mark.parametrize("where", ["round", "adapter"])
@pytest.mark.parametrize("wanted", [False, True], ids=["quiet", "traceback"])
def test_an_error_of_others_is_told_by_type_and_place(
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
    wanted: bool,
) -> None:
    monkeypatch.setenv("TAPESTRY_TRACEBACK", "1" if wanted else "")
    error = ValueError(f"cannot convert {RECORD!r}")
    if where == "round":
        federation.poison["fr"] = fails(error)
    else:
        monkeypatch.setattr(adapter_trainer, "train", fails(error))
    with caplog.at_level(logging.DEBUG):
        federation.run()
    assert "fr: refused " in caplog.text
    module = {"round": "round.session", "adapter": "adapters.publication"}[where]
    assert f"internal error: ValueError in tapestry_node.{module}:" in caplog.text
    assert "TAPESTRY_TRACEBACK=1" in caplog.text
    assert ("Traceback (most recent call last):" in caplog.text) is wanted
    assert RECORD not in caplog.text


def test_an_error_of_ours_is_told_in_full_without_what_caused_it(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    federation.poison["fr"] = fails(ResourceError("the disk is full; make room"))
    with caplog.at_level(logging.DEBUG):
        federation.run()
    assert "the disk is full; make room" in caplog.text
    assert RECORD not in caplog.text


def test_an_error_that_quotes_a_request_is_not_told_either(
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = federation.nodes["fr"]
    monkeypatch.setattr(node.trainer, "declaration", fails(KeyError(RECORD)))
    with caplog.at_level(logging.DEBUG):
        node.handle(Message(kind=Kind.COSIGN, body=b"{"))
        federation.run()
    assert "internal error: KeyError in tapestry_node.node:" in caplog.text
    assert RECORD not in caplog.text
