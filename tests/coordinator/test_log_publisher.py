"""The coordinator's access to the log: it orders entries, witnesses cosign."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import InconsistentLog, ProtocolError, QuorumError, RuleError
from tapestry.protocol.messages import Kind, Message
from tapestry.protocol.stages import RoundStage
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry_coordinator import log_publisher as module
from tapestry_coordinator.grid import LocalGrid
from tapestry_coordinator.log_publisher import LogPublisher, event_of
from tapestry_governance.events.privacy_events import DataDeclared
from tapestry_governance.events.round_events import RoundAborted, RoundOpened
from tapestry_governance.log.outbox_heads import OutboxHead, read_heads
from tapestry_governance.log.writer import Log
from tapestry_governance.rules import replay
from tapestry_governance.rules.replay import apply_all
from tapestry_governance.witness.witness_server import serving
from tests.support.log_world import NAMES, World
from tests.support.outside_witness import make_witness, opened, trust_of
from tests.support.ports import free_port
from tests.support.refusals import refused


class Witness:
    """A node that cosigns any checkpoint, and sends its petitions."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.petitions: list[bytes] = []
        self.seen: list[Message] = []
        self.head: Callable[[Checkpoint], bytes] = self.sign_head

    def sign_head(self, checkpoint: Checkpoint, *, by: str | None = None) -> bytes:
        """Sign the head of an outbox in which nothing waits."""
        head = OutboxHead(checkpoint=checkpoint, count=0, waiting={})
        return head.sign(self.world.keys[by or self.name, "node"])

    def handle(self, message: Message) -> Message:
        assert message.kind is Kind.COSIGN
        self.seen.append(message)
        checkpoint = read_claim(str(decode_json(message.body)["checkpoint"]).encode())
        key = self.world.keys[self.name, "witness"]
        line = checkpoint.cosign(key, time=int(self.world.now.timestamp()))
        return Message(
            kind=Kind.COSIGNATURE,
            body=canonical_json(
                {"lines": [line.decode()], "head": self.head(checkpoint).decode()}
            ),
            attachments=self.petitions,
        )


Make = Callable[..., LogPublisher]


@pytest.fixture
def world() -> World:
    return World().found()


@pytest.fixture
def witnesses(world: World) -> dict[str, Witness]:
    return {name: Witness(world, name) for name in NAMES}


@pytest.fixture
def publisher(
    world: World, witnesses: dict[str, Witness], tmp_path: Path
) -> Iterator[LogPublisher]:
    with Log.create(tmp_path / "log", key=world.log_key) as log:
        log.append(world.entries)
        grid = LocalGrid({name: each.handle for name, each in witnesses.items()})
        yield LogPublisher(
            log,
            trust=world.trust,
            key=world.coordinator_key,
            grid=grid,
            deadline=5,
        )


def test_a_log_without_a_charter_is_no_federation(world: World, tmp_path: Path) -> None:
    with (
        Log.create(tmp_path / "log", key=world.log_key) as log,
        refused(ProtocolError, "charter-missing"),
    ):
        LogPublisher(
            log,
            trust=world.trust,
            key=world.coordinator_key,
            grid=LocalGrid({}),
            deadline=1,
        )


def test_a_quorum_makes_a_checkpoint_public(
    world: World, publisher: LogPublisher
) -> None:
    with refused(QuorumError, "checkpoint-missing"):
        _ = publisher.checkpoint
    note = publisher.publish(NAMES[:3])
    assert publisher.checkpoint == note
    assert world.trust.open(note).checkpoint.size == len(world.entries)


def test_a_log_is_cosigned_by_those_who_did_as_it_is(
    world: World, publisher: LogPublisher
) -> None:
    publisher.record_mirror_size(NAMES[0], len(world.entries), None)
    assert not publisher.is_cosigned(NAMES[:1])
    publisher.publish(NAMES[:3])
    assert publisher.is_cosigned(NAMES[:3])
    assert not publisher.is_cosigned(NAMES)
    publisher.append_event(RoundOpened(manifest=world.manifest()))
    assert not publisher.is_cosigned(NAMES[:3])


def test_too_few_cosignatures_publish_nothing(publisher: LogPublisher) -> None:
    with refused(QuorumError, "quorum-not-reached", match="1 cosig"):
        publisher.publish(NAMES[:1])
    with refused(QuorumError, "checkpoint-missing"):
        _ = publisher.checkpoint


def with_witness(
    world: World, witnesses: dict[str, Witness], folder: Path, *, quorum: int, port: int
) -> LogPublisher:
    """A publisher whose trust policy has an outside witness; it makes its folder."""
    key = make_witness(folder / "archive", log=world.log_key.verify_key)
    members = [world.keys[name, "witness"] for name in NAMES]
    trust = trust_of(
        key,
        log=world.log_key.verify_key,
        url=f"http://127.0.0.1:{port}",
        members=members,
        quorum=quorum,
    )
    log = Log.create(folder / "log", key=world.log_key)
    log.append(world.entries)
    handlers = {name: each.handle for name, each in witnesses.items()}
    return LogPublisher(
        log,
        trust=trust,
        key=world.coordinator_key,
        grid=LocalGrid(handlers),
        deadline=5,
    )


@pytest.fixture
def port() -> int:
    return free_port()


def test_what_needs_an_outside_witness_is_published_with_its_line(
    world: World, witnesses: dict[str, Witness], tmp_path: Path, port: int
) -> None:
    publisher = with_witness(world, witnesses, tmp_path, quorum=1, port=port)
    with closing(publisher.log):
        with refused(QuorumError, "quorum-not-reached"):
            publisher.publish(NAMES)
        with (
            opened(tmp_path / "archive") as witness,
            serving(witness, ("127.0.0.1", port)),
        ):
            note = publisher.publish(NAMES)
            assert b" archive/witness " in note
            with refused(QuorumError, "quorum-not-reached"):
                publisher.append_event(RoundOpened(manifest=world.manifest()))
                publisher.publish(NAMES[:1])
            assert witness.cosigned(world.log_key.name).size == len(world.entries)


def test_an_outside_witness_that_is_not_needed_is_asked_when_nothing_waits(
    world: World, witnesses: dict[str, Witness], tmp_path: Path, port: int
) -> None:
    publisher = with_witness(world, witnesses, tmp_path, quorum=0, port=port)
    with closing(publisher.log):
        publisher.publish(NAMES, unhurried=True)  # it is away, and stops nothing
        with (
            opened(tmp_path / "archive") as witness,
            serving(witness, ("127.0.0.1", port)),
        ):
            publisher.publish(NAMES)
            assert witness.cosigned(world.log_key.name).size == 0
            assert b" archive/witness " in publisher.publish(NAMES, unhurried=True)


@pytest.mark.parametrize(
    "reply",
    [
        Message(kind=Kind.REFUSAL, body=b'{"reason":"internal"}'),
        Message(kind=Kind.COSIGNATURE),
        Message(kind=Kind.COSIGNATURE, body=b"[]"),
        Message(kind=Kind.COSIGNATURE, body=b"\xff"),
        Message(kind=Kind.COSIGNATURE, body=b'{"lines":["x"]}'),
        Message(kind=Kind.COSIGNATURE, body=b'{"lines":1}'),
    ],
    ids=["refusal", "empty", "list", "bytes", "text", "number"],
)
def test_a_malformed_reply_of_one_witness_stops_no_quorum(
    publisher: LogPublisher, witnesses: dict[str, Witness], reply: Message
) -> None:
    grid = publisher.grid
    assert isinstance(grid, LocalGrid)
    grid.handlers["de"] = lambda _: reply
    assert publisher.publish(NAMES)
    assert all(witnesses[name].seen for name in NAMES[1:])


_HEADS: dict[str, Callable[[Witness, Checkpoint], bytes]] = {
    "of another member": lambda w, cp: w.sign_head(cp, by="es"),
    "of an older checkpoint": lambda w, _: w.sign_head(w.world.checkpoint([b"{}"])),
    "with another line": lambda w, cp: (
        w.sign_head(cp) + cp.cosign(w.world.keys["es", "witness"], time=1)
    ),
    "that is a checkpoint": lambda w, _: w.world.note(),
    "that is none": lambda _w, _: b"none",
}


@pytest.mark.parametrize("kind", _HEADS)
def test_a_cosignature_without_its_members_head_is_not_taken(
    publisher: LogPublisher, witnesses: dict[str, Witness], kind: str
) -> None:
    """Else its coordinator is blamed for a head that it does not publish."""
    witness = witnesses["de"]
    witness.head = partial(_HEADS[kind], witness)
    line = f" {publisher.in_force.witnesses[0].key.name} ".encode()
    assert line not in publisher.publish(NAMES)
    assert sorted(read_heads(publisher.log.public)) == ["es", "fr", "id"]
    witness.head = witness.sign_head
    assert line in publisher.publish(NAMES)
    assert sorted(read_heads(publisher.log.public)) == sorted(NAMES)


def test_heads_of_those_that_are_away_stay_also_for_the_next_process(
    world: World, publisher: LogPublisher
) -> None:
    publisher.publish(NAMES)
    before = read_heads(publisher.log.public)
    publisher.add(world.entry(world.declaration("de"), "de", "node"))
    again = LogPublisher(
        publisher.log,
        trust=world.trust,
        key=world.coordinator_key,
        grid=publisher.grid,
        deadline=1,
    )
    again.publish(["de", "es", "fr"])
    after = read_heads(publisher.log.public)
    assert after["id"] == before["id"]
    assert after["de"] != before["de"]


def test_the_line_of_another_witness_counts_once(
    publisher: LogPublisher, witnesses: dict[str, Witness]
) -> None:
    grid = publisher.grid
    assert isinstance(grid, LocalGrid)
    for name in NAMES:
        grid.handlers[name] = witnesses["de"].handle
    with refused(QuorumError, "quorum-not-reached"):
        publisher.publish(NAMES)


def test_a_node_gets_only_what_it_lacks(
    publisher: LogPublisher, witnesses: dict[str, Witness]
) -> None:
    publisher.record_mirror_size("de", 3, None)
    publisher.record_mirror_size("es", 99, None)
    publisher.publish(NAMES)
    starts = {
        name: decode_json(w.seen[-1].body)["start"] for name, w in witnesses.items()
    }
    counts = {name: len(w.seen[-1].attachments) for name, w in witnesses.items()}
    assert starts == {"de": 3, "es": 9, "fr": 0, "id": 0}
    assert counts == {"de": 6, "es": 0, "fr": 9, "id": 9}
    publisher.publish(NAMES)
    assert {decode_json(w.seen[-1].body)["start"] for w in witnesses.values()} == {9}


def test_entries_that_nodes_send_are_logged_and_cosigned(
    world: World, publisher: LogPublisher, witnesses: dict[str, Witness]
) -> None:
    declared = world.declaration("de").model_copy(update={"records": 2000})
    entry = world.entry(declared, "de", "node")
    witnesses["de"].petitions = [entry]
    note = publisher.publish(NAMES)
    assert publisher.log.find(entry) == len(world.entries)
    assert read_claim(note).size == len(world.entries) + 1
    body = event_of(publisher.log.entries(9, 10)[0])
    assert isinstance(body, DataDeclared)
    assert body.records == 2000


@pytest.mark.parametrize("petition", [b"", b"{}", b"\xff" * 100])
def test_a_petition_that_is_no_entry_is_dropped(
    publisher: LogPublisher, witnesses: dict[str, Witness], petition: bytes
) -> None:
    witnesses["de"].petitions = [petition] * 3
    assert read_claim(publisher.publish(NAMES)).size == 9


def test_a_node_that_sends_entries_without_end_does_not_delay_the_others(
    world: World, publisher: LogPublisher, witnesses: dict[str, Witness]
) -> None:
    honest = witnesses["de"].handle

    def endless(message: Message) -> Message:
        declared = world.declaration("de")
        records = len(witnesses["de"].seen) + 1
        changed = declared.model_copy(update={"records": 1000 + records})
        witnesses["de"].petitions = [world.entry(changed, "de", "node")]
        return honest(message)

    grid = publisher.grid
    assert isinstance(grid, LocalGrid)
    grid.handlers["de"] = endless
    assert publisher.publish(NAMES)
    assert len(witnesses["es"].seen) < 20


def _declarations(world: World, count: int) -> list[bytes]:
    plain = world.declaration("de")
    bodies = [plain.model_copy(update={"version": 2 + i}) for i in range(count)]
    return [world.entry(body, "de", "node") for body in bodies]


def test_a_pass_takes_a_few_entries_of_each_node(
    world: World,
    publisher: LogPublisher,
    witnesses: dict[str, Witness],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others come with the next checkpoint; nothing is lost."""
    monkeypatch.setattr(replay, "MAX_DECLARATIONS", 100)
    entries = _declarations(world, 20)
    witnesses["de"].petitions = entries
    sizes = [read_claim(publisher.publish(NAMES)).size - 9 for _ in range(3)]
    assert sizes == [12, 20, 20]
    assert publisher.log.entries(9, 29) == entries


def test_a_refused_entry_is_not_checked_again_and_delays_no_other(
    world: World,
    publisher: LogPublisher,
    witnesses: dict[str, Witness],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[bytes] = []

    def count(state: Any, entries: Any) -> Any:
        tried.extend(entries)
        return apply_all(state, entries)

    monkeypatch.setattr(module, "apply_all", count)
    junk = [b"%d" % i for i in range(3)]
    (good,) = _declarations(world, 1)
    witnesses["de"].petitions = [*junk, *junk, good]
    for _ in range(3):
        publisher.publish(NAMES)
    assert tried == [*junk, good]
    assert publisher.log.find(good) == 9
    assert caplog.text.count("dropping an entry of node de: ") == 3


def test_an_entry_that_breaks_a_rule_is_not_appended(
    world: World, publisher: LogPublisher
) -> None:
    manifest = world.manifest()
    aborted = RoundAborted(
        run_id="run",
        round_number=1,
        attempt=1,
        stage=RoundStage.SHARE_KEYS,
        reason="quorum",
        survivors=(),
    )
    before = publisher.log.size
    with refused(RuleError, "round-not-open", match="'run', 1, 1"):
        publisher.append_event(aborted)
    assert publisher.log.size == before
    index = publisher.append_event(RoundOpened(manifest=manifest))
    assert index == before
    assert publisher.state.open_round is not None
    publisher.append_event(aborted)
    assert publisher.state.open_round is None


def test_an_entry_that_is_there_keeps_its_place(
    world: World, publisher: LogPublisher
) -> None:
    assert [publisher.add(entry) for entry in world.entries] == list(range(9))
    assert publisher.log.size == 9


def test_a_member_who_saw_another_log_stops_the_coordinator(
    world: World, publisher: LogPublisher
) -> None:
    publisher.publish(NAMES)
    publisher.record_mirror_size("de", 9, world.note())
    other = World(rules={"max_attempt": 2})
    other.add(other.charter())
    with refused(InconsistentLog, "log-forked"):
        publisher.record_mirror_size("de", 1, other.note())
    longer = [*world.entries, world.entry(world.declaration("de"), "de", "node")]
    with refused(InconsistentLog, "log-restored", match="10 .* 9"):
        publisher.record_mirror_size("de", 10, world.note(longer))
