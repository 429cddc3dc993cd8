"""The simulator: a whole federation in one process, on a wire that a test controls.

``Federation`` founds institutions in a folder, as ``tapestry demo`` does, with small
text of their own, and runs coordinator and nodes over ``Wire``. Everything else is the
product: keys, log, masks, ledgers, training. A fixture founds one and closes it::

    def test_a_round_closes_without_a_node_that_drops_out(found: Found) -> None:
        federation = found()  # four institutions, a run of one round
        federation.wire.on("fi", Kind.COLLECT_MASKED_INPUTS, lost)
        federation.run()
        (closed,) = federation.closed()
        assert [d.name for d in closed.dropped] == ["fi"]

Settings are those of ``tests.support.settings_files``; a test names what differs, and
None takes a key out::

    found(coordinator={"rounds": 3}, policy={"epsilon_cap": "0.5"})
    found(institutions={"fr": {"policy": {"max_steps": 1}}})
    found(train=True)  # on the records; otherwise updates are made up, which is faster

Faults are put on the wire, for the next request of a kind to a node:

| fault | effect |
|---|---|
| ``lost`` | the request never arrives |
| ``unanswered`` | the node does its work; the reply never arrives |
| ``replayed``, ``doubled`` | the request arrives twice; the last, first reply counts |
| ``corrupted("body")`` | a bit of the reply is flipped |
| ``changed(change)`` | the request arrives changed |
| ``answered(reply)`` | the coordinator gets another reply |

Processes end and start again: ``federation.restart("fr")`` loses what the node had not
written, ``federation.run_until_killed(when)`` ends the coordinator before a request,
and a later ``run()`` recovers. ``federation.begin_another_run("second")`` goes on with
the log in another folder. ``federation.poison["fr"]`` changes what a node trained,
and ``federation.now`` moves the nodes' clocks.

What happened is read from the log (``said``, ``closed``, ``aborted``, ``refusals``),
from the wire (``wire.replies``, ``uploads``) and from the nodes (``digests``), and
``bundle`` and ``audit`` do what an auditor does.

Tests of one layer use smaller worlds on the same plans (``tests.support.plans``):
``log_world`` has keys and a log without files, ``secagg_cohort`` the masked sum alone.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tapestry.encrypted_keys import load_key
from tapestry.evaluation.scorer import KnownScores
from tapestry.keys import SigningKey
from tapestry.model.replica import Replica
from tapestry.protocol.messages import Kind, Message
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.tlog.checkpoint import read_claim
from tapestry.vectors import FloatVector, IntegerVector
from tapestry.workloads.base import Workload
from tapestry_coordinator import run as driver
from tapestry_coordinator import run_folders, service
from tapestry_coordinator.settings import RunSettings
from tapestry_coordinator.spot_check_responder import EVIDENCE
from tapestry_coordinator.superlink.outcome import Outcome, write_outcome
from tapestry_demo import local_federation
from tapestry_demo.runners import submit_votes
from tapestry_governance.audit.bundle import add_sums, write_bundle
from tapestry_governance.audit.verify import Audit, verify
from tapestry_governance.ballot_paper import cast, make_paper, open_paper, propose
from tapestry_governance.events.envelope import Event, open_entry
from tapestry_governance.events.event_body import Body
from tapestry_governance.events.federation_events import Policy
from tapestry_governance.events.member_events import Proposal
from tapestry_governance.events.round_events import (
    ContributionCommitted,
    ContributionRefused,
    RoundAborted,
    RoundClosed,
)
from tapestry_governance.log.writer import Log
from tapestry_governance.member_view import MemberView, open_view
from tapestry_node import submission
from tapestry_node.node import Node
from tapestry_node.training.trainer import Trainer
from tests.support.settings_files import (
    change_settings,
    common_policy,
    coordinator_settings,
    merged,
    node_settings,
    run_settings,
)

Settings = Mapping[str, Any]
Deliver = Callable[[Message], Message]
Fault = Callable[[str, Message, Deliver], Message | None]
Data = Callable[[Path, str], Path]

NAMES = ("fi", "fr", "id", "sw")
RECORDS = 24
DECLARED = 20  # rounded down
_TEXT = {
    "fi": "talvi joki lumi metsä valo ranta kesä yö tuuli saari",
    "fr": "mer été forêt neige rivière lumière nuit pluie île vent",
    "id": "laut hujan hutan malam angin pulau cahaya sungai pagi awan",
    "sw": "bahari mvua msitu usiku upepo kisiwa mwanga mto asubuhi jua",
}


class Killed(BaseException):
    """The process is gone; nobody catches this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A given base, loaded once and shared by everybody of this process."""

    workload: Workload
    replica: Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and what came back; None for silence."""

    node: str
    request: Message
    reply: Message | None


@dataclass(slots=True)
class Wire:
    """A ``Grid`` that calls nodes of this process, with faults in between.

    Its names are those of connections. A node's connection has the node's name; a test
    adds others to ``handlers``.
    """

    handlers: dict[str, Deliver] = field(default_factory=dict)
    faults: dict[tuple[str, Kind], list[Fault]] = field(default_factory=dict)
    log: list[Exchange] = field(default_factory=list)
    before: Callable[[str, Message], None] = lambda _name, _message: None

    def nodes(self) -> list[str]:
        return sorted(self.handlers)

    def exchange(
        self, requests: Mapping[str, Message], *, deadline: float
    ) -> Iterator[tuple[str, Message]]:
        assert deadline > 0
        for name in sorted(requests):
            self.before(name, requests[name])
            reply = self._ask(name, requests[name])
            self.log.append(Exchange(node=name, request=requests[name], reply=reply))
            if reply is not None:
                yield name, reply

    def on(self, name: str, kind: Kind, fault: Fault, *, times: int = 1) -> None:
        """Let the next requests of a kind to a node meet a fault."""
        self.faults.setdefault((name, kind), []).extend([fault] * times)

    def replies(self, kind: Kind) -> list[Exchange]:
        """What nodes answered to requests of a kind."""
        return [e for e in self.log if e.request.kind is kind and e.reply is not None]

    def _ask(self, name: str, request: Message) -> Message | None:
        handler = self.handlers.get(name)
        if handler is None:
            return None
        waiting = self.faults.get((name, request.kind))
        if waiting:
            return waiting.pop(0)(name, request, handler)
        return handler(request)


def lost(_name: str, _request: Message, _deliver: Deliver) -> None:
    """The request never arrives."""


def unanswered(_name: str, request: Message, deliver: Deliver) -> None:
    """The node does its work; the reply never arrives."""
    deliver(request)


def replayed(_name: str, request: Message, deliver: Deliver) -> Message:
    """The request arrives twice; the second reply counts."""
    deliver(request)
    return deliver(request)


def doubled(_name: str, request: Message, deliver: Deliver) -> Message:
    """The request arrives twice; the first reply counts."""
    reply = deliver(request)
    deliver(request)
    return reply


def corrupted(place: str) -> Fault:
    """Flip a bit of the reply: in its ``body`` or its last ``attachment``."""

    def fault(_name: str, request: Message, deliver: Deliver) -> Message:
        reply = deliver(request)
        body, attachments = reply.body, [bytes(a) for a in reply.attachments]
        if place == "body":
            body = _flip(body)
        else:
            attachments[-1] = _flip(attachments[-1])
        return Message(kind=reply.kind, body=body, attachments=attachments)

    return fault


def answered(reply: Message) -> Fault:
    """A node of somebody's own making says this."""

    def fault(_name: str, request: Message, deliver: Deliver) -> Message:
        deliver(request)
        return reply

    return fault


def changed(change: Callable[[Message], Message]) -> Fault:
    """The coordinator, or the network, changes the request."""

    def fault(_name: str, request: Message, deliver: Deliver) -> Message:
        return deliver(change(request))

    return fault


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


class Federation:
    """Institutions, a coordinator and its log, in one folder."""

    def __init__(
        self,
        directory: Path,
        base: Base,
        *,
        coordinator: Settings | None = None,
        policy: Settings | None = None,
        institution: Settings | None = None,
        institutions: Mapping[str, Settings] | None = None,
        train: bool = False,
        data: Data | None = None,
    ) -> None:
        """Found it.

        Args:
            directory: An empty folder.
            base: The given base.
            coordinator: Settings of the run that differ from ``run_settings``.
            policy: Settings that differ in the federation's policy.
            institution: Settings that differ in everybody's ``node.toml``.
            institutions: Settings that differ in one institution's.
            train: Train on the records; otherwise updates are made up, which is
                faster and the same to everything outside the trainer.
            data: Writes an institution's data, as ``write_text`` does.
        """
        self.directory, self.base, self.train = directory, base, train
        self.wire = Wire()
        self.events: list[dict[str, Any]] = []  # that the coordinator told
        self.updates: dict[tuple[str, int], Any] = {}  # as trainers give them
        self.poison: dict[str, Callable[[Any], Any]] = {}
        self.now = timedelta()  # what nodes' clocks are ahead
        self.nodes: dict[str, Node] = {}
        self.scores: KnownScores = {}  # that nodes computed; not the coordinator's
        only = institutions or {}
        self.genesis = local_federation.found(
            directory,
            local_federation.Founding(
                coordinator=coordinator_settings(),
                run=RunSettings.model_validate(
                    merged(run_settings(), coordinator or {})
                ),
                policy=Policy.model_validate(
                    merged(common_policy(base.replica.manifest), policy or {})
                ),
                institutions=[
                    local_federation.Institution(
                        name=name,
                        data=(data or write_text)(directory / "text", name),
                        settings=merged(
                            merged(
                                node_settings(base.replica.digest), institution or {}
                            ),
                            only.get(name, {}),
                        ),
                    )
                    for name in NAMES
                ],
            ),
        )
        (directory / "held-out").rename(self.run_folder / "held-out")
        for name in NAMES:
            self.start(name)

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.directory / "coordinator"

    def start(self, name: str, *, base: Base | None = None) -> Node:
        """Open a node's folder and put the node on the wire."""
        given = base or self.base
        node = Node(
            self.directory / "nodes" / name,
            workload=given.workload,
            replica=given.replica,
            clock=lambda: datetime.now(UTC) + self.now,
            open_trainer=partial(RecordingTrainer, federation=self, name=name),
        )
        node.share_scores(self.scores)
        self.nodes[name] = node
        self.wire.handlers[name] = partial(node.handle, connection=name)
        return node

    def kill(self, name: str) -> None:
        """End a node's process: what is not on its disk is gone."""
        self.nodes.pop(name).close()
        del self.wire.handlers[name]

    def restart(self, name: str) -> Node:
        """Kill a node and start it again."""
        self.kill(name)
        return self.start(name)

    def run(self) -> None:
        """Let a new coordinator process finish the run."""
        base = RunSettings.read(self.run_folder / run_folders.PLAN).base
        goes_on = Path(base).is_absolute()  # from a release
        driver.main(
            self.coordinator,
            self.wire,
            workload=None if goes_on else self.base.workload,
            replica=None if goes_on else self.base.replica,
            notify=self.events.append,
        )

    def run_until_killed(self, when: Callable[[str, Message], bool]) -> None:
        """Let the coordinator die just before it sends a certain request."""

        def look(name: str, message: Message) -> None:
            if when(name, message):
                raise Killed

        self.wire.before = look
        with suppress(Killed):
            self.run()
            raise AssertionError("the coordinator was not killed")
        self.wire.before = lambda _name, _message: None

    def begin_another_run(self, run_id: str, **changes: object) -> Path:
        """End a run, and begin another one.

        Returns:
            The folder of the ended run.
        """
        ended = self.run_folder
        write_outcome(ended, Outcome())
        following = run_folders.run_folder(self.coordinator, run_id)
        for name in (run_folders.HELD_OUT, run_folders.PLAN):
            place = following / name
            place.parent.mkdir(exist_ok=True)
            copy = shutil.copytree if (ended / name).is_dir() else shutil.copy
            copy(ended / name, place)
        plan = {"run_id": run_id, **changes}
        change_settings(following / run_folders.PLAN, RunSettings, plan)
        return ended

    @property
    def run_folder(self) -> Path:
        """The folder of the run that has not ended."""
        run_id = run_folders.current(self.coordinator)
        return run_folders.run_folder(self.coordinator, run_id)

    def cosign(self) -> None:
        """Let the service take what waits, and have the log cosigned."""
        service.cosign_once(self.coordinator, self.wire)

    def approve(self) -> None:
        """Let all institutions approve the releases."""
        submit_votes(self.directory)
        self.cosign()

    def view(self, name: str) -> MemberView:
        """The log as a member's folder has it, up to what it accepted."""
        return open_view(node=self.directory / "nodes" / name, bundle=None)

    def root(self, name: str) -> SigningKey:
        """The root key of an institution."""
        path = self.directory / "nodes" / name / "keys" / "root.key"
        return load_key(path, passphrase=None)

    def decide(self, proposal: Proposal, *names: str, by: str = "fr") -> int:
        """Let a member propose and members vote yes, each through its own node."""
        entry = propose(self.view(by), proposal, root=self.root(by), now=self.moment())
        self.submit(by, entry)
        index = self.entries().index(entry)
        for name in names:
            paper = open_paper(make_paper(self.view(name), index))
            self.submit(
                name,
                cast(
                    paper, "yes", root=self.root(name), reasons=None, now=self.moment()
                ),
            )
        return index

    def submit(self, name: str, entry: bytes) -> None:
        """Hand an entry in through a member's node."""
        submission.submit(self.directory / "nodes" / name, [entry])
        self.cosign()

    def moment(self) -> datetime:
        """The time by the nodes' clocks."""
        return datetime.now(UTC) + self.now

    def close(self) -> None:
        """End all nodes."""
        for name in list(self.nodes):
            self.kill(name)

    def entries(self) -> list[bytes]:
        """Everything in the log."""
        with Log.open(self.coordinator / "log", key=self.log_key()) as log:
            return log.entries(0, log.size)

    def logged(self) -> list[Event]:
        """All events of the log."""
        return [open_entry(entry).event for entry in self.entries()]

    def said(self, kind: type[Body]) -> list[Any]:
        """All bodies of one type in the log."""
        return [e.body for e in self.logged() if isinstance(e.body, kind)]

    def closed(self) -> list[RoundClosed]:
        """All rounds that were closed."""
        return self.said(RoundClosed)

    def aborted(self) -> list[RoundAborted]:
        """All rounds that were aborted."""
        return self.said(RoundAborted)

    def refusals(self) -> dict[str, str]:
        """The reason that each node gave last, from the log."""
        return {
            event.actor: event.body.reason.value
            for event in self.logged()
            if isinstance(event.body, ContributionRefused)
        }

    def committed(self) -> Counter[tuple[str, int]]:
        """How often each node committed to an upload, by round."""
        return Counter(
            (event.actor, event.body.round_number)
            for event in self.logged()
            if isinstance(event.body, ContributionCommitted)
        )

    def uploads(self) -> Counter[tuple[str, int]]:
        """How many different uploads left each node, by round."""
        heads = set()
        for exchange in self.wire.log:
            reply = exchange.reply
            if reply is not None and reply.kind is Kind.MASKED_INPUT:
                body = open_entry(bytes(reply.attachments[1])).event.body
                assert isinstance(body, ContributionCommitted)
                heads.add((exchange.node, body.round_number, reply.body))
        return Counter((name, number) for name, number, _ in heads)

    def digests(self) -> dict[str, str]:
        """The base that each node holds now."""
        return {name: node.replica.digest for name, node in self.nodes.items()}

    def bundle(self, name: str = "bundle") -> Path:
        """Collect what an auditor gets, in a new folder."""
        folder = self.directory / name
        artifacts = {
            path.name: path
            for kind in ("releases", "adapters")
            for path in sorted((self.coordinator / kind).glob("*"))
        }
        write_bundle(
            folder,
            public=self.coordinator / "log" / "public",
            trust=(self.coordinator / "trust-policy.txt").read_bytes(),
            genesis=self.genesis,
            artifacts=artifacts,
        )
        evidence = (self.coordinator / EVIDENCE).glob("*")
        add_sums(folder, {int(path.name): path for path in evidence})
        return folder

    def audit(self, name: str = "bundle") -> Audit:
        """Verify a bundle."""
        trust = (self.coordinator / "trust-policy.txt").read_bytes()
        return verify(self.directory / name, trust=trust)

    def cosigned(self) -> list[Event]:
        """The events under the last checkpoint that a quorum cosigned."""
        with Log.open(self.coordinator / "log", key=self.log_key()) as log:
            note = log.latest()
        return self.logged()[: read_claim(note).size if note else 0]

    def log_key(self) -> Any:
        """The key that signs the log."""
        from tapestry.keys import SigningKey

        return SigningKey.load(self.coordinator / "keys" / "log.key")


class RecordingTrainer(Trainer):
    """Notes what a node really trained, and lets a test poison it."""

    def __init__(
        self, folder: Path, *, federation: Federation, name: str, **settings: Any
    ) -> None:
        super().__init__(folder, **settings)
        self._federation, self._name = federation, name

    def update(self, replica: Replica, manifest: RoundManifest, **rest: Any) -> Any:
        """Train, or make an update up, and hand out what the test makes of it."""
        name, federation = self._name, self._federation
        if federation.train:
            found = super().update(replica, manifest, **rest)
        else:
            found = _made_up(name, manifest)
        found = federation.poison.get(name, _same)(found)
        federation.updates[name, manifest.round_number] = found.copy()
        return found


def _made_up(name: str, manifest: RoundManifest) -> FloatVector | IntegerVector:
    generator = np.random.default_rng([manifest.round_number, *name.encode()])
    update = generator.standard_normal(manifest.length) / 64
    if manifest.privacy.noise == "shared":
        return (update * 2.0**manifest.scale_bits).astype(np.int64)
    return update.astype(np.float32)


def _same(update: FloatVector) -> FloatVector:
    return update


def write_text(folder: Path, name: str) -> Path:
    """Write an institution's private records and, above them, public text."""
    texts = sentences(name, RECORDS + 2)
    private = folder / name / "private"
    private.mkdir(parents=True)
    (private / "corpus.toml").write_text(
        f'language = "{name}"\nlicence = "CC0-1.0"\nunit = "record"\n'
    )
    write_lines(private / "text.jsonl", texts[:RECORDS])
    gate = folder.parent / "held-out"
    gate.mkdir(exist_ok=True)
    write_lines(gate / f"{name}.jsonl", texts[RECORDS:])
    return private


def sentences(name: str, count: int) -> list[str]:
    """Make up short texts in a language; the same on each call."""
    generator = np.random.default_rng(sum(name.encode()))
    return [
        " ".join(generator.choice(_TEXT[name].split(), size=5, replace=False))
        for _ in range(count)
    ]


def write_lines(path: Path, texts: Sequence[str]) -> None:
    """Write records as JSONL."""
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8")
