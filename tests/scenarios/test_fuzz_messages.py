"""Mutated messages of every kind, against a live node and a live coordinator.

Before each true request to one node, several mutated ones reach it; the true one must
work as if they had never come. A reply of that node to the coordinator is mutated in
the same way; the run goes on, with the others at least. In CI the seed is fixed and the
cases are few; ``FUZZ_MESSAGES=20000`` is a night's, and ``FUZZ_SEED`` another seed.
"""

import os
import sqlite3
import tracemalloc
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tapestry.encoding import digest, digest_all
from tapestry.protocol.messages import (
    Kind,
    Message,
    Reason,
    Refusal,
    decode_body,
    expect_body,
)
from tapestry_coordinator.settings import RunSettings
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.log.mirror import MAX_EVIDENCE
from tapestry_node.round.gate_check import FOLDER as GATE
from tests.fuzzing.draws import Draw
from tests.scenarios.conftest import Found
from tests.support.federation import NAMES, Deliver, Federation
from tests.support.message_mutations import Mutated, mutate
from tests.support.settings_files import change_settings

SEED = int(os.environ.get("FUZZ_SEED", "11"))
CASES = int(os.environ.get("FUZZ_MESSAGES", "250"))
PLAN = {"rounds": 2, "release_every": 1, "adapters": True}
REQUESTS = {
    *(Kind.HELLO, Kind.COSIGN, Kind.ADVERTISE_KEYS, Kind.SHARE_KEYS),
    *(Kind.COLLECT_MASKED_INPUTS, Kind.CHECK_CONSISTENCY, Kind.UNMASK),
    *(Kind.SHOW_HELD_OUT, Kind.APPLY_RESULT, Kind.CHECK_CHUNK, Kind.PUBLISH_ADAPTER),
}
ROW = 1000  # bytes of the database for one receipt, with its index and journal
MEMORY = 128 << 20


def _rows(path: Path, *, without: set[str]) -> str:
    """Digest all rows of a database but those of some tables."""
    with closing(sqlite3.connect(path)) as database:
        tables = database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        )
        parts = [
            repr((name, row)).encode()
            for (name,) in tables.fetchall()
            if name not in without
            for row in database.execute(f'SELECT * FROM "{name}"')  # noqa: S608
            if not (name == "entries" and b'"type":"submitted"' in row[1])
        ]
    return digest_all(sorted(parts))


def _state(federation: Federation, name: str) -> tuple[Any, ...]:
    """Return all that a node keeps, but receipts and evidence against the log.

    The newest checkpoint that it has accepted is left out as well: a quorum signed it,
    and what came with it is refused all the same. So are the gate's public data, which
    the log names by digest, and which entries went with a cosignature: a request to
    cosign that comes again gets what waits by then.
    """
    node = federation.nodes[name]
    folder = federation.directory / "nodes" / name
    files = [
        (path.relative_to(folder).as_posix(), digest(path.read_bytes()))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".db" not in path.name and path.suffix != ".lock"
        if path.relative_to(folder).parts[0] != GATE
    ]
    rows = [
        _rows(path, without={"egress", "evidence", "accepted"})
        for path in sorted(folder.glob("*.db"))
    ]
    session = node.session
    inside = None if session is None else (id(session), id(session.done))
    return files, rows, node.replica.digest, inside


class Besieged:
    """A node that gets mutated requests before each true one."""

    def __init__(self, federation: Federation, foreign: list[Message], each: int):
        self.federation, self.foreign, self.each = federation, foreign, each
        self.sent: Counter[str] = Counter()
        self.taken: list[str] = []
        self.seen: list[Message] = []
        self.draws = self.consents = 0
        federation.wire.before = self.attack

    def attack(self, name: str, true: Message) -> None:
        if name == "fr":
            for _ in range(self.each):
                self.draws += 1
                others = [e.request for e in self.federation.wire.log[-40:]]
                self.send(
                    mutate(
                        Draw(SEED, self.draws),
                        true,
                        [*self.seen, *self.foreign, *others],
                    ),
                    true,
                )
            self.seen.append(true)

    def send(self, mutated: Mutated, true: Message) -> None:
        message = mutated.message
        if _same(message, true):
            return
        node = self.federation.nodes["fr"]
        before = _state(self.federation, "fr")
        tracemalloc.start()
        reply = node.handle(message)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.sent[message.kind.value] += 1
        said = f"draw {self.draws}, before {true.kind}: {mutated.how}"
        decode_body(reply)
        assert peak < MEMORY, said
        if reply.kind is Kind.REFUSAL:
            reason = expect_body(reply, Refusal).reason
            assert reason is not Reason.INTERNAL, said
        elif mutated.only_checkpoint:
            return  # another set of signatures of the same quorum: as good as the true
        elif message.kind is Kind.CHECK_CONSISTENCY:
            self.consents += 1  # to roots of others, which it compares at the next step
            assert self.consents <= PLAN["rounds"], said
            return
        assert _state(self.federation, "fr") == before, said


def _same(one: Message, other: Message) -> bool:
    def parts(message: Message) -> tuple[Any, ...]:
        return message.kind, message.body, [bytes(a) for a in message.attachments]

    return parts(one) == parts(other)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def foreign(found: Found) -> list[Message]:
    """True requests of another federation, with other keys and another run."""
    other = found(coordinator=PLAN)
    other.run()
    return [e.request for e in other.wire.log if e.node == "fr"]


@pytest.mark.slow
def test_a_node_answers_mutated_requests_with_one_code_and_keeps_nothing(
    found: Found, foreign: list[Message]
) -> None:
    federation = found(coordinator=PLAN)
    folder = federation.directory / "nodes" / "fr"
    requests = len(foreign)
    besieged = Besieged(federation, foreign, max(1, CASES // requests))
    federation.run()
    sent = besieged.sent.total()
    assert {kind.value for kind in REQUESTS} <= besieged.sent.keys()
    assert sent > CASES // 2
    assert [c.included for c in federation.closed()] == [NAMES, NAMES]
    assert federation.digests() == dict.fromkeys(
        NAMES, federation.closed()[-1].base_after
    )
    assert len(federation.nodes["fr"].mirror.evidence()) <= MAX_EVIDENCE
    honest = _size(federation.directory / "nodes" / "fi")
    evidence = sum(
        len(each.note) + len(each.update)
        for each in federation.nodes["fr"].mirror.evidence()
    )
    assert _size(folder) < honest + 2 * evidence + sent * ROW + (4 << 20)
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_an_offer_that_comes_again_gets_the_same_keys_and_resets_nothing(
    found: Found,
) -> None:
    federation = found()
    node, answers = federation.nodes["fr"], []

    def repeat(name: str, request: Message) -> None:
        offers = federation.wire.replies(Kind.ADVERTISE_KEYS)
        if name == "fr" and request.kind is Kind.CHECK_CONSISTENCY:
            (offer,) = [each for each in offers if each.node == "fr"]
            answers.append((offer.reply, node.handle(offer.request)))

    federation.wire.before = repeat
    federation.run()
    ((first, again),) = answers
    assert first == again
    assert federation.closed()[0].included == NAMES


def _replies(federation: Federation) -> list[Message]:
    return [e.reply for e in federation.wire.log[-60:] if e.reply is not None]


@pytest.mark.slow
def test_a_coordinator_goes_on_after_mutated_replies(found: Found) -> None:
    """One reply of one node is mutated in each round, at each kind in turn."""
    kinds = sorted(REQUESTS - {Kind.PUBLISH_ADAPTER}, key=lambda kind: kind.value)
    rounds = max(len(kinds), CASES // 50)
    federation = found(
        coordinator={"rounds": rounds, "release_every": 1000},
        policy={"epsilon_cap": "1000"},
        institution={"policy": {"epsilon_limit": "1000"}, "adapter": {"epsilon": "4"}},
    )
    path = federation.run_folder / "run.toml"
    sizes, peaks = [_size(federation.coordinator)], []
    tracemalloc.start()
    for number in range(rounds):
        tracemalloc.reset_peak()
        draw, kind = Draw(SEED, 1, number), kinds[number % len(kinds)]

        def lying(
            _: str, request: Message, deliver: Deliver, draw: Draw = draw
        ) -> Message:
            return mutate(draw, deliver(request), _replies(federation)).message

        federation.wire.faults.clear()
        if number > 0:  # the first round is honest, to compare with
            federation.wire.on("fr", kind, lying)
        change_settings(path, RunSettings, {"rounds": number + 1})
        federation.run()
        closed = federation.closed()
        assert len(closed) == number + 1, (number, kind)
        assert set(closed[-1].included) >= set(NAMES) - {"fr"}
        del federation.wire.log[:-60]
        sizes.append(_size(federation.coordinator))
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert max(peaks) < peaks[0] + MEMORY
    assert not federation.aborted()
    grown = max(after - before for before, after in pairwise(sizes))
    assert grown < 8 << 20, "a round keeps what it needs and no more"
    for name in set(NAMES) - {"fr"}:
        assert federation.digests()[name] == federation.closed()[-1].base_after
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS
