"""Adapters that nodes send: what the log refuses leaves the one before as it was."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import (
    ForeignFileError,
    IncompleteError,
    ProtocolError,
    RuleError,
    VerificationError,
)
from tapestry.protocol.messages import Kind, Message
from tapestry.protocol.stages import RoundStage
from tapestry_coordinator import adapter_shelf
from tapestry_coordinator import run as driver
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.envelope import Author, open_entry, sign_entry
from tapestry_governance.events.model_events import AdapterPublished
from tests.coordinator.conftest import Found, opened_run
from tests.support.federation import (
    Deliver,
    Fault,
    Federation,
    unanswered,
)
from tests.support.federation import lost as no_request
from tests.support.operated_adapters import LAW, adapter, trained
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
        adapter_shelf.keep_adapter(
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
        adapter_shelf.keep_adapter(
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
        adapter_shelf.keep_adapter(run.context, "fr", _publication(federation, "fr"))
        == "fr"
    )
    assert _files(adapters) == before
    assert run.context.log.size == size


def _beside(first: Message, change: Callable[[dict[str, bytes]], object]) -> Message:
    """Change what lies beside the manifest of a publication; its entries stay."""
    names = decode_json(first.body)["files"]
    files = dict(zip(names, map(bytes, first.attachments[2:]), strict=True))
    change(files)
    body = canonical_json({"files": sorted(files)})
    attachments = [*first.attachments[:2], *(files[name] for name in sorted(files))]
    return dataclasses.replace(first, body=body, attachments=attachments)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lost:
    """A federation in which ``fr`` has trained, and whose publication got lost."""

    federation: Federation
    publication: Message

    def files(self) -> dict[str, bytes]:
        return _files(self.federation.coordinator / "adapters")


@pytest.fixture
def lost(found: Found) -> Lost:
    federation = found(coordinator={"adapters": True})
    sent: list[Message] = []

    def lose(_name: str, request: Message, deliver: Deliver) -> None:
        sent.append(deliver(request))

    federation.wire.on("fr", Kind.PUBLISH_ADAPTER, lose)
    federation.run()
    made = Lost(federation=federation, publication=sent[-1])
    assert made.files()
    assert not any(name.startswith("fr/") for name in made.files())
    return made


@pytest.mark.parametrize(
    "change",
    [
        lambda files: files.update({"tapestry/accounted.entry": b"{}"}),
        lambda files: files.update({"tapestry/published.entry": b""}),
        lambda files: files.update(
            {"tapestry/accounted.entry": files["tapestry/published.entry"]}
        ),
        lambda files: files.pop("tapestry/published.entry"),
        lambda files: [
            files.pop(f"tapestry/{n}.entry") for n in ("accounted", "published")
        ],
    ],
    ids=["garbage", "empty", "swapped", "one left out", "both left out"],
)
def test_beside_an_adapter_lie_the_entries_that_the_log_takes(
    lost: Lost, change: Callable[[dict[str, bytes]], object]
) -> None:
    given = lost.publication
    with opened_run(lost.federation) as run:
        adapter_shelf.keep_adapter(run.context, "fr", _beside(given, change))
        kept = lost.files()
        assert kept["fr/tapestry/accounted.entry"] == bytes(given.attachments[0])
        assert kept["fr/tapestry/published.entry"] == bytes(given.attachments[1])
        run.context.publisher.publish(run.context.grid.nodes())
    lost.federation.bundle()
    assert lost.federation.audit().verdict is AuditVerdict.HOLDS


@pytest.mark.parametrize(
    "name", ["notes.md", "release.entry", "a/b.json", "Manifest.json"]
)
def test_what_has_no_place_beside_an_adapter_is_refused_before_the_log_has_it(
    lost: Lost, name: str
) -> None:
    with opened_run(lost.federation) as run:
        before, size = lost.files(), run.context.log.size
        more = _beside(
            lost.publication, lambda files: files.update({f"tapestry/{name}": b"x"})
        )
        with refused(ForeignFileError, "foreign-file"):
            adapter_shelf.keep_adapter(run.context, "fr", more)
        assert run.context.log.size == size
        assert lost.files() == before


def test_an_account_of_another_entry_is_refused_before_the_log_has_the_adapter(
    lost: Lost,
) -> None:
    """The true one may come by another way; the folder would not be the log's."""
    true, *rest = map(bytes, lost.publication.attachments)
    with opened_run(lost.federation) as run:
        run.context.publisher.add(true)
        size, (other,) = run.context.log.size, run.context.log.entries(1, 2)
        swapped = dataclasses.replace(lost.publication, attachments=[other, *rest])
        with refused(VerificationError, "own-entry-differs"):
            adapter_shelf.keep_adapter(run.context, "fr", swapped)
        assert run.context.log.size == size
        assert not any(name.startswith("fr/") for name in lost.files())


def test_a_version_that_was_superseded_does_not_come_back(
    federation: Federation, run: driver.Run
) -> None:
    """Its entries are in the log; its files are no longer those that the log names."""
    old = _publication(federation, "fr")
    newest = run.context.publisher.state
    entry = newest.adapters["fr"].model_copy(update={"version": 2})
    later = dataclasses.replace(
        newest,
        adapters=newest.adapters.set("fr", entry),
        published=newest.published.set("fr", 0),
    )
    run.context.publisher.logged = later
    before = _files(federation.coordinator / "adapters")
    with pytest.raises((VerificationError, IncompleteError)):
        adapter_shelf.keep_adapter(run.context, "fr", old)
    assert _files(federation.coordinator / "adapters") == before


@pytest.fixture
def waiting(settled: Federation) -> Federation:
    """One between runs, to which a member hands in an adapter that it trained."""
    trained(settled, LAW)
    adapter(settled, "publish", LAW)
    return settled


def asked(federation: Federation) -> int:
    """How often the member was asked for the files."""
    return sum(e.request.kind is Kind.PUBLISH_ADAPTER for e in federation.wire.log)


def kept(federation: Federation) -> bool:
    folder = (federation.coordinator / "adapters" / LAW).exists()
    assert folder is bool(federation.said(AdapterPublished))  # both or none
    return folder


@pytest.mark.slow
def test_an_adapter_that_is_handed_in_is_logged_with_its_files(
    waiting: Federation,
) -> None:
    waiting.cosign()
    assert kept(waiting)
    waiting.cosign()
    assert (asked(waiting), waiting.nodes["fr"].store.outbox()) == (1, [])
    waiting.bundle()
    assert waiting.audit().verdict is AuditVerdict.HOLDS


def garbled(_name: str, request: Message, deliver: Deliver) -> Message:
    """A file of the adapter is changed on its way."""
    reply = deliver(request)
    attachments = [*reply.attachments]
    attachments[2] = bytes(attachments[2]) + b" "
    return dataclasses.replace(reply, attachments=attachments)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [garbled, no_request, unanswered])
def test_without_its_files_the_log_does_not_name_it(
    waiting: Federation, fault: Fault
) -> None:
    waiting.wire.on("fr", Kind.PUBLISH_ADAPTER, fault)
    waiting.cosign()
    assert asked(waiting) == 1  # in all passes of one collection
    assert not kept(waiting)
    waiting.cosign()  # by a log that is opened anew
    assert kept(waiting)


@pytest.mark.slow
def test_files_are_not_fetched_while_a_round_is_open(settled: Federation) -> None:
    """No round waits for an adapter that is handed in after its opening."""
    trained(settled, LAW)
    settled.begin_another_run("second", rounds=1)
    settled.events.clear()
    stages: list[object] = []

    def look(_: str, message: Message) -> None:
        told = [e["round_stage"] for e in settled.events if "round_stage" in e]
        if message.kind is Kind.COSIGN and told == [RoundStage.OPEN]:
            adapter(settled, "publish", LAW)
        if message.kind is Kind.PUBLISH_ADAPTER:
            stages.append(told[-1])

    settled.wire.before = look
    settled.run()
    assert stages == [RoundStage.CLOSE]
    assert kept(settled)


def _asked(federation: Federation) -> int:
    kinds = [each.request.kind for each in federation.wire.log]
    return kinds.count(Kind.PUBLISH_ADAPTER)


def test_an_adapter_is_handed_in_by_its_own_node_alone(
    federation: Federation, run: driver.Run
) -> None:
    """Else a member makes another one train and pay, or has its adapter refused."""
    entry = bytes(_publication(federation, "fr").attachments[1])
    fetcher = adapter_shelf.AdapterFetcher(
        federation.coordinator,
        trust=run.context.trust,
        publisher=run.context.publisher,
        grid=federation.wire,
    )
    asked = _asked(federation)
    assert not fetcher.fetch("id", entry)
    assert _asked(federation) == asked
    with pytest.raises(ProtocolError, match="local_policy"):  # it has it no more
        fetcher.fetch("fr", entry)
    assert _asked(federation) == asked + 1


def test_a_member_that_says_nothing_is_not_asked_for_each_of_its_adapters(
    federation: Federation, run: driver.Run
) -> None:
    entry = bytes(_publication(federation, "fr").attachments[1])
    federation.wire.on("fr", Kind.PUBLISH_ADAPTER, unanswered, times=9)
    fetcher = adapter_shelf.AdapterFetcher(
        federation.coordinator,
        trust=run.context.trust,
        publisher=run.context.publisher,
        grid=federation.wire,
    )
    asked = _asked(federation)
    for _ in range(3):
        assert not fetcher.fetch("fr", entry)
    assert _asked(federation) - asked == 1
