"""Adapters that nodes send: what the log refuses leaves the one before as it was."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import RuleError, VerificationError
from tapestry.protocol.messages import Kind, Message
from tapestry_coordinator import adapter_collector
from tapestry_coordinator import run as driver
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.envelope import Author, open_entry, sign_entry
from tapestry_governance.events.model_events import AdapterPublished
from tests.coordinator.conftest import Found, opened_run
from tests.support.federation import Federation
from tests.support.refusals import refused


@pytest.fixture
def federation(found: Found) -> Federation:
    """One whose institutions have published an adapter each."""
    federation = found(coordinator={"adapters": True})
    federation.run()
    return federation


@pytest.fixture
def run(federation: Federation) -> Iterator[driver.Run]:
    with opened_run(federation) as run:
        yield run


def _publication(federation: Federation, name: str) -> Message:
    sent = [e for e in federation.wire.replies(Kind.PUBLISH_ADAPTER) if e.node == name]
    assert sent[-1].reply is not None
    return sent[-1].reply


def _second(federation: Federation, *, version: int) -> Message:
    """Publish the same files once more, under another version, not paid for."""
    node, first = federation.nodes["fr"], _publication(federation, "fr")
    said = open_entry(bytes(first.attachments[1])).event
    assert isinstance(said.body, AdapterPublished)
    body = said.body.model_copy(update={"version": version})
    author = Author(federation="simulated", actor="fr", role="community")
    event = author.event(body, now=node.clock(), seen=node.mirror.seen)
    entry = sign_entry(event, node.keys["community"])
    attachments = [first.attachments[0], entry, *first.attachments[2:]]
    return dataclasses.replace(first, attachments=attachments)


def _files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("version", "code"), [(1, "adapter-version-not-next"), (2, "adapter-not-accounted")]
)
def test_a_version_that_the_log_refuses_leaves_the_one_before_as_it_was(
    federation: Federation, run: driver.Run, version: int, code: str
) -> None:
    adapters = federation.coordinator / "adapters"
    before = _files(adapters)
    with refused(RuleError, code):
        adapter_collector.keep_adapter(
            run.context, "fr", _second(federation, version=version)
        )
    assert _files(adapters) == before
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_a_version_with_other_files_than_it_names_leaves_the_one_before(
    federation: Federation, run: driver.Run
) -> None:
    adapters = federation.coordinator / "adapters"
    before = _files(adapters)
    first = _publication(federation, "fr")
    garbled = list(first.attachments)
    garbled[2] = bytes(garbled[2]) + b" "
    with refused(VerificationError, "manifest-file-changed"):
        adapter_collector.keep_adapter(
            run.context, "fr", dataclasses.replace(first, attachments=garbled)
        )
    assert _files(adapters) == before


def test_a_publication_that_is_known_is_written_again(
    federation: Federation, run: driver.Run
) -> None:
    """As after a crash between the log and the files."""
    adapters = federation.coordinator / "adapters"
    before, size = _files(adapters), run.context.log.size
    (adapters / "fr" / "README.md").write_text("damaged")
    assert (
        adapter_collector.keep_adapter(
            run.context, "fr", _publication(federation, "fr")
        )
        == "fr"
    )
    assert _files(adapters) == before
    assert run.context.log.size == size
