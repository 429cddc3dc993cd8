"""Heads of outboxes: one spelling, one signer, and what they say of a coordinator."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.encoding import canonical_json
from tapestry.errors import (
    InconsistentLog,
    ProtocolError,
    TapestryError,
    VerificationError,
)
from tapestry.tlog import note as notes
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.merkle import leaf_hash
from tapestry_governance.audit.verify import AuditVerdict, verify
from tapestry_governance.events.member_events import (
    MemberLeft,
    PauseProposal,
    ProposalMade,
)
from tapestry_governance.log.outbox_heads import (
    MAX_WAITING,
    OVERDUE,
    HeadReport,
    OutboxHead,
    decode_heads,
    encode_heads,
    open_head,
    overdue,
    read_heads,
)
from tapestry_governance.rules.ballots import voters_digest
from tests.support.audit_bundles import bundle_of
from tests.support.log_world import NAMES, World
from tests.support.refusals import refused

AT = Checkpoint(origin="tapestry.example/gov", size=41, root=b"\x01" * 32)
TEXT = """\
Tapestry outbox v1
tapestry.example/gov
41
AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
2
38 AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=
"""


@pytest.fixture
def world() -> World:
    return World().found()


def head_of(
    world: World,
    name: str,
    *,
    size: int | None = None,
    waiting: Mapping[bytes, int] | None = None,
    key: str = "",
    entries: list[bytes] | None = None,
) -> bytes:
    """Sign the head of a member's outbox at some size of the log."""
    entries = (entries or world.entries)[:size]
    head = OutboxHead(
        checkpoint=world.checkpoint(entries),
        count=len(waiting or {}),
        waiting=waiting or {},
    )
    return head.sign(world.keys[key or name, "node"])


def report(world: World, heads: Mapping[str, bytes]) -> HeadReport:
    """Check heads; each size of the log had a cosigned checkpoint."""
    sizes = range(1, len(world.entries) + 1)
    return HeadReport.of(heads, state=world.folded, sizes=sizes)


@given(
    st.integers(0, 41),
    st.dictionaries(st.binary(min_size=32, max_size=32), st.integers(0, 41)),
)
def test_a_head_is_printed_as_it_was_read(more: int, waiting: dict[bytes, int]) -> None:
    named = dict(list(waiting.items())[:MAX_WAITING])
    head = OutboxHead(checkpoint=AT, count=len(named) + more, waiting=named)
    assert OutboxHead.parse(str(head)) == head
    assert str(OutboxHead.parse(str(head))) == str(head)


def test_a_head_has_this_spelling() -> None:
    head = OutboxHead(checkpoint=AT, count=2, waiting={b"\x02" * 32: 38})
    assert str(head) == TEXT
    with refused(ProtocolError, "checkpoint-malformed"):
        Checkpoint.parse(TEXT)


ROW = TEXT.splitlines(keepends=True)[-1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT.replace("v1", "v2"),
        TEXT.removesuffix("\n"),
        TEXT + "\n",
        TEXT.replace("\n2\n", "\n0\n"),  # it names more than wait
        TEXT.replace("\n2\n", "\n02\n"),
        TEXT.replace("\n38 ", "\n42 "),  # since beyond the checkpoint
        TEXT.replace("\n38 ", "\n38  "),
        TEXT.replace("AgIC", "AgI"),
        TEXT + ROW,  # twice
        TEXT.replace(ROW, "38 AgI=\n"),
        TEXT.replace("\n2\n", "\n99\n").replace(ROW, "")
        + "".join(f"{n} {'A' * 42}{c}=\n" for n, c in enumerate("AEIMQUYcgkosw048B")),
    ],
)
def test_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        OutboxHead.parse(text)


def test_a_head_counts_under_its_members_signature_alone(world: World) -> None:
    key = world.keys["fr", "node"].verify_key
    head = head_of(world, "fr")
    assert open_head(head, [key]).checkpoint == world.checkpoint()
    with refused(VerificationError, "signature-missing"):
        open_head(head_of(world, "de"), [key])
    with refused(VerificationError, "signature-invalid"):
        open_head(head.replace(b"\n0\n", b"\n1\n"), [key])
    with refused(ProtocolError, "outbox-head-malformed", match="2 signatures"):
        open_head(
            head + str(notes.parse(head_of(world, "de")).signatures[0]).encode(), [key]
        )
    with refused(ProtocolError, "outbox-head-malformed", match="the limit is"):
        open_head(head + b"x" * 4096, [key])


def test_what_waits_through_many_checkpoints_is_overdue(world: World) -> None:
    world.run_round(1)
    size, leaf = len(world.entries), leaf_hash(b"withheld")
    since = size - OVERDUE
    fresh = {name: head_of(world, name) for name in NAMES}
    fresh["fr"] = head_of(world, "fr", waiting={leaf: since + 1})
    assert report(world, fresh).warnings == []
    found = report(world, {"fr": head_of(world, "fr", waiting={leaf: since})})
    assert found.withheld == {"fr": since}
    said = f"fr submits an entry since entry {since}, which the log lacks"
    assert found.warnings[0] == said
    none = HeadReport.of(
        {"fr": head_of(world, "fr", waiting={leaf: 0})},
        state=world.folded,
        sizes=[size],
    )
    assert none.withheld == {}  # one checkpoint alone
    assert overdue({leaf: 0}, size=size, sizes=range(size)) == {leaf: 0}


def test_what_was_logged_since_is_not_overdue(world: World) -> None:
    world.run_round(1)
    head = head_of(world, "fr", waiting={leaf_hash(world.entries[-1]): 0})
    assert report(world, {"fr": head}).withheld == {}


def test_a_head_that_is_rolled_back_or_left_out_shows(world: World) -> None:
    heads = {name: head_of(world, name) for name in NAMES}
    size = len(world.entries)
    world.run_round(1)
    old = report(world, heads)
    assert old.stale == dict.fromkeys(NAMES, size)
    assert old.missing == ()
    heads = {name: head_of(world, name) for name in NAMES[1:]}
    found = report(world, heads)
    assert (found.stale, found.missing) == ({NAMES[0]: 0}, NAMES[:1])
    said = f"no head of {NAMES[0]} is there: it is away, or shut out"
    assert found.warnings == [said]


def test_none_is_missed_before_a_few_checkpoints(world: World) -> None:
    sizes = range(1, OVERDUE)
    found = HeadReport.of({}, state=world.folded, sizes=sizes)
    assert (found.stale, found.missing, found.warnings) == ({}, NAMES, [])


def test_who_left_owes_no_head(world: World) -> None:
    old = head_of(world, "id")
    world.add(MemberLeft(), "id", "root")
    others = ("de", "es", "fr")
    for name in (*others, *others, *others):
        world.add(world.declaration(name), name, "node")
    heads = {name: head_of(world, name) for name in others}
    found = report(world, heads | {"id": old})
    assert (found.stale, found.missing) == ({}, ())


_FORGED: dict[str, tuple[Callable[[World], bytes], type[TapestryError], str]] = {
    "by another member": (
        lambda w: head_of(w, "fr", key="de"),
        VerificationError,
        "signature-missing",
    ),
    "over another log": (
        lambda w: head_of(w, "fr", entries=[*w.entries[:-1], b"{}"]),
        InconsistentLog,
        "log-forked",
    ),
    "beyond the log": (
        lambda w: head_of(w, "fr", entries=[*w.entries, b"{}"]),
        VerificationError,
        "outbox-head-beyond",
    ),
    "that is a checkpoint": (
        lambda w: w.note(),
        ProtocolError,
        "outbox-head-malformed",
    ),
}


@pytest.mark.parametrize("kind", _FORGED)
def test_a_forged_head_condemns_the_file(world: World, kind: str) -> None:
    forge, error, code = _FORGED[kind]
    with refused(error, code, match="fr"):
        report(world, {"fr": forge(world)})


def test_a_head_of_a_stranger_is_refused(world: World) -> None:
    with refused(VerificationError, "outbox-head-unknown", match="'xx'"):
        report(world, {"xx": head_of(world, "fr")})


def test_a_former_node_key_signed_in_its_time_alone(world: World) -> None:
    old = head_of(world, "fr")
    former = world.keys["fr", "node"]
    world.rotate("fr", "node")
    world.add(world.declaration("de"), "de", "node")
    assert former.verify_key not in world.settled.roster.node_keys.values()
    assert report(world, {"fr": old}).heads["fr"].count == 0
    with refused(VerificationError, "signature-missing"):
        report(world, {"fr": head_of(world, "fr", key="fr")})


def test_the_file_has_one_spelling(world: World, tmp_path: Path) -> None:
    heads = {name: head_of(world, name) for name in NAMES}
    assert decode_heads(encode_heads(heads)) == heads
    for odd in (b"[]", b'{"fr":1}', b'{"fr": ""}', b"", b'{"%s":""}' % (b"a" * 64)):
        with pytest.raises(ProtocolError):
            decode_heads(odd)
    assert read_heads(tmp_path) == {}
    (tmp_path / "outbox.json").write_bytes(canonical_json({"fr": "x"}))
    assert read_heads(tmp_path) == {"fr": b"x"}
    (tmp_path / "outbox.json").write_bytes(b"")
    with pytest.raises(ProtocolError, match=r"outbox\.json"):
        read_heads(tmp_path)


@pytest.mark.parametrize("by", ["one", "two"])
def test_one_member_alone_ages_no_head_in_an_audit(
    world: World, tmp_path: Path, by: str
) -> None:
    """It names one size after the other, as if each were of a checkpoint."""
    heads = {name: head_of(world, name) for name in NAMES}
    world.add(world.declaration("id"), "id", "node")
    for _ in range(OVERDUE):
        seen = world.seen()
        authors = ("fr",) if by == "one" else ("fr", "de")
        for name in authors:
            body = ProposalMade(
                roster=voters_digest(world.settled.active),
                proposal=PauseProposal(kind="pause"),
            )
            index = world.append(world.entry(body, name, "root", seen=seen))
            world.vote(index, name, vote="no")
    audit = verify(
        bundle_of(world, tmp_path, heads=heads).folder, trust=world.trust.encode()
    )
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]
    (step,) = (each for each in audit.steps if each.name == "outbox")
    assert step.counts is not None
    assert step.counts["stale"] == (0 if by == "one" else len(NAMES))
