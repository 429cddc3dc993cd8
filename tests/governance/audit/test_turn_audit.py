"""An auditor follows a log whose witnesses changed, from the policy of the founding."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from tapestry.tlog.checkpoint import read_claim
from tapestry_governance.audit.bundle import write_manifest
from tapestry_governance.audit.verify import Audit, AuditVerdict, verify
from tapestry_governance.events.member_events import (
    Admission,
    KeyRotated,
    Proposal,
    Removal,
    RootReplacement,
)
from tests.support.audit_bundles import bundle_of, released
from tests.support.log_world import NAMES, World
from tests.support.proposals import new_coordinator, new_key

NEW = "pl"
LATER = timedelta(days=400)


@dataclass(frozen=True, kw_only=True)
class Turned:
    """A log with two turns, and who cosigned its checkpoints."""

    world: World
    founding: bytes
    first: bytes
    second: bytes
    newest: bytes
    policies: tuple[bytes, bytes]  # in force after each turn

    def audit(self, folder: Path, *turns: bytes, **given: bytes) -> Audit:
        newest = given.pop("newest", self.newest)
        bundle = bundle_of(self.world, folder, note=newest, turns=turns)
        (bundle.folder / "trust-policy.txt").write_bytes(self.founding)
        write_manifest(bundle.folder)
        return verify(bundle.folder, **given)


def turned(*, later: timedelta = timedelta(0)) -> Turned:
    world = World().found()
    founding = world.trust.encode()
    world.decide(world.invent(NEW))
    world.add(world.declaration(NEW), NEW, "node")
    first = world.note(witnesses=("de", "es", "fr", NEW))
    policy = world.folded.trust.encode()
    world.now += later
    world.decide(Removal(kind="remove", member="de"), "es", "fr", "id", NEW)
    world.add(world.declaration("fr"), "fr", "node")
    second = world.note(witnesses=("es", "fr", "id", NEW))
    world.add(world.declaration("es"), "es", "node")
    return Turned(
        world=world,
        founding=founding,
        first=first,
        second=second,
        newest=world.note(witnesses=("es", "fr", NEW)),
        policies=(policy, world.folded.trust.encode()),
    )


def last(audit: Audit) -> tuple[str, AuditVerdict, str | None]:
    return audit.steps[-1].name, audit.verdict, audit.steps[-1].code


def turns_of(audit: Audit) -> dict[str, int]:
    (step,) = [step for step in audit.steps if step.name == "turns"]
    return step.counts


def test_a_log_whose_members_changed_holds_by_the_policy_of_the_founding(
    tmp_path: Path,
) -> None:
    log = turned()
    audit = log.audit(tmp_path, log.first, log.second, trust=log.founding)
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]
    counts = turns_of(audit)
    assert counts["turns"] == 2
    assert counts["cosignatures"] == 3


def test_a_log_without_any_of_its_founders_holds_by_their_policy(
    tmp_path: Path,
) -> None:
    world = World().found()
    founding, turns, members = world.trust.encode(), list[bytes](), [*NAMES]
    for old, new in zip(NAMES, ("pl", "ro", "se", "ua"), strict=True):
        index = world.propose(world.invent(new), by=members[-1])
        world.carry(index, members)
        world.add(world.declaration(new), new, "node")
        members.append(new)
        turns.append(world.note(witnesses=members))
        members.remove(old)
        index = world.propose(Removal(kind="remove", member=old), by=new)
        world.carry(index, members)
        world.add(world.declaration(new), new, "node")
        turns.append(world.note(witnesses=members))
    world.add(world.declaration("ua"), "ua", "node")
    newest = world.note(witnesses=members)
    log = Turned(
        world=world, founding=founding, first=b"", second=b"", newest=newest,
        policies=(founding, founding),
    )  # fmt: skip
    audit = log.audit(tmp_path / "all", *turns, trust=founding)
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]
    assert turns_of(audit)["turns"] == 8
    assert set(audit.state.members) == {"pl", "ro", "se", "ua"}
    audit = log.audit(tmp_path / "none", trust=founding)
    assert last(audit)[1:] == (AuditVerdict.FAILS, "quorum-not-reached")


@pytest.mark.parametrize("late", [False, True])
def test_a_log_that_ends_with_a_turn_has_lines_of_both_sets(
    tmp_path: Path, late: bool
) -> None:
    """So it is for a member that was removed: its mirror ends there."""
    log = turned()
    del log.world.entries[-1]
    order = ("es", "fr", "id", NEW, "de")  # those of the new policy first
    newest = log.world.note(witnesses=order)
    turn = log.world.note(witnesses=order[:4]) if late else newest
    audit = log.audit(tmp_path / "both", log.first, turn, newest=newest)
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]
    assert turns_of(audit)["turns"] == 2
    few = log.world.note(witnesses=("es", "fr", NEW))  # three of the former five
    for number, (a, b) in enumerate(((few, few), (turn, few), (few, newest))):
        audit = log.audit(tmp_path / str(number), log.first, a, newest=b)
        assert last(audit)[2] == "quorum-not-reached"


@pytest.mark.parametrize("kept", [(), ("first",)])
def test_without_a_turn_the_newest_checkpoint_does_not_count(
    tmp_path: Path, kept: tuple[str, ...]
) -> None:
    log = turned()
    audit = log.audit(tmp_path, *(getattr(log, name) for name in kept))
    name, verdict, code = last(audit)
    assert verdict is AuditVerdict.FAILS
    assert (name, code) in {
        ("signatures", "quorum-not-reached"),
        ("turns", "quorum-not-reached"),
    }


@pytest.mark.parametrize(
    "witnesses",
    [
        ("es", "fr", NEW),  # three of the new five: no quorum of them
        ("es", "fr", "id"),  # the same, of the old alone
        ("fr", "id", NEW),  # two of the old four
        (),
    ],
)
def test_a_turn_that_one_set_did_not_cosign_ends_the_audit(
    tmp_path: Path, witnesses: tuple[str, ...]
) -> None:
    log = turned()
    world = World().found()
    world.decide(world.invent(NEW))
    world.add(world.declaration(NEW), NEW, "node")
    forged = world.note(witnesses=witnesses)
    audit = log.audit(tmp_path, forged, log.second)
    assert last(audit) == ("turns", AuditVerdict.FAILS, "quorum-not-reached")


def test_a_turn_of_another_history_is_a_fork(tmp_path: Path) -> None:
    log = turned()
    world = World().found()
    world.decide(world.invent(NEW))
    world.add(world.declaration("de"), "de", "node")
    forged = world.note(witnesses=(*NAMES, NEW))
    audit = log.audit(tmp_path, forged, log.second)
    assert last(audit) == ("turns", AuditVerdict.FAILS, "log-forked")


def test_an_auditor_may_begin_at_a_later_turn(tmp_path: Path) -> None:
    log = turned()
    for number, policy in enumerate(log.policies):
        audit = log.audit(tmp_path / str(number), log.first, log.second, trust=policy)
        assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]
        assert turns_of(audit).get("turns", 0) == 1 - number
    other = World(names=("aa", "bb", "cc")).trust.encode()
    audit = log.audit(tmp_path / "other", log.first, log.second, trust=other)
    assert last(audit) == ("turns", AuditVerdict.FAILS, "trust-policy-differs")


def test_keys_older_than_a_year_prove_nothing_alone(tmp_path: Path) -> None:
    log = turned(later=LATER)
    notes = (log.first, log.second)
    audit = log.audit(tmp_path / "old", *notes, trust=log.founding)
    assert last(audit) == ("age", AuditVerdict.INCOMPLETE, "trust-too-old")
    assert "--since" in audit.steps[-1].detail
    kept = log.audit(tmp_path / "kept", *notes, since=log.second)
    assert kept.verdict is AuditVerdict.HOLDS, kept.steps[-1]
    old = log.world.note(log.world.entries[:9], witnesses=NAMES[:3])
    bare = log.world.checkpoint(log.world.entries[:-1]).sign(log.world.log_key)
    for number, since in enumerate((log.first, old, bare)):
        audit = log.audit(tmp_path / f"since-{number}", *notes, since=since)
        if since == bare:  # new, and nobody vouches for it
            assert last(audit)[2] == "trust-too-old"
    pinned = log.audit(tmp_path / "pinned", *notes, trust=log.policies[1])
    assert pinned.verdict is AuditVerdict.HOLDS, pinned.steps[-1]


def test_a_log_over_a_year_old_needs_a_newer_view_also_without_a_turn(
    tmp_path: Path,
) -> None:
    world = World().found()
    first = world.note()
    world.now += LATER
    world.add(world.declaration("fr"), "fr", "node")
    bundle = bundle_of(world, tmp_path).folder
    assert last(verify(bundle)) == ("age", AuditVerdict.INCOMPLETE, "trust-too-old")
    assert last(verify(bundle, since=first))[2] == "trust-too-old"
    assert verify(bundle, since=world.note()).verdict is AuditVerdict.HOLDS


def forged(real: World) -> World:
    """Let real members in by their public requests, and act for them by other keys."""
    world = World(names=("aa", "bb", "cc", "dd")).adopt()
    voters = list(world.names)

    def decide(proposal: Proposal) -> None:
        world.carry(world.propose(proposal, by=voters[-1]), voters)

    for name in NAMES:
        theirs = real.acceptance(name)
        decide(
            Admission(
                kind="admit", request=theirs.request, possession=theirs.possession
            )
        )
        root = world.keys[name, "root"] = new_key(f"{name}.example/again")
        decide(RootReplacement(kind="root", member=name, key=str(root.verify_key)))
        voters.append(name)
    for name in world.names:
        voters.remove(name)
        decide(Removal(kind="remove", member=name))
    return world


def test_a_pinned_policy_must_have_cosigned_what_follows(tmp_path: Path) -> None:
    """A forger that holds none of the real keys makes the policy that is trusted."""
    real = World().found()
    world = forged(real)
    evil, held = world.trust.encode(), real.trust.encode()
    world.rotate("de", "node")
    assert held in {each.policy.encode() for each in world.folded.trusted}
    for name in NAMES:
        world.rotate(name, "witness", seed="evil")
        world.keys[name, "witness"] = world.keys[name, "witness'"]
    world.rotate("de", "community")
    turn = world.note(witnesses=(*NAMES, *world.names))
    note = world.note(witnesses=NAMES)
    bundle = bundle_of(world, tmp_path, note=note, turns=[turn]).folder
    (bundle / "trust-policy.txt").write_bytes(evil)
    write_manifest(bundle)
    assert last(verify(bundle, trust=held)) == (
        "turns",
        AuditVerdict.FAILS,
        "quorum-not-reached",
    )


@pytest.mark.parametrize("change", ["renamed", "no turn", "junk"])
def test_each_file_of_a_turn_is_one(tmp_path: Path, change: str) -> None:
    log = turned()
    notes = [log.first, log.second]
    if change == "no turn":
        size = read_claim(log.first).size - 1
        notes.append(log.world.note(log.world.entries[:size], witnesses=NAMES[:3]))
    bundle = bundle_of(log.world, tmp_path, note=log.newest, turns=notes).folder
    (bundle / "trust-policy.txt").write_bytes(log.founding)
    place = bundle / "turns" / str(read_claim(log.second).size)
    if change == "renamed":
        place.rename(place.with_name("999999999"))
    if change == "junk":
        place.write_bytes(place.read_bytes().replace(b"tapestry", b"tapestri", 1))
    write_manifest(bundle)
    for trust in (None, log.policies[1]):
        found = last(verify(bundle, trust=trust))
        assert (found[0], found[1]) == ("turns", AuditVerdict.FAILS)


def test_a_witness_key_that_was_rotated_counts_no_more(tmp_path: Path) -> None:
    world = World().found()
    founding, old = world.trust.encode(), world.keys["fr", "witness"]
    body: KeyRotated = world.rotation("fr", "witness")
    world.add(body, "fr", "root")
    world.add(world.declaration("es"), "es", "node")
    lines = [world.checkpoint().cosign(old, time=int(world.now.timestamp()))]
    turn = world.note(witnesses=("de", "es", "id"))
    log = Turned(
        world=world, founding=founding, first=turn, second=b"", newest=turn,
        policies=(founding, founding),
    )  # fmt: skip
    audit = log.audit(tmp_path / "new", turn, trust=founding)
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]
    bad = world.note(witnesses=("de", "es")) + lines[0]
    audit = log.audit(tmp_path / "old", bad, newest=bad)
    assert last(audit) == ("turns", AuditVerdict.FAILS, "quorum-not-reached")


def test_a_stolen_log_key_signs_no_more_and_what_it_proved_still_holds(
    tmp_path: Path,
) -> None:  # [19]
    world, base = released(tmp_path)
    founding, stolen = world.trust.encode(), world.log_key
    world.decide(new_coordinator(world))
    world.add(world.declaration("fr"), "fr", "node")
    by_thief = world.note()
    alone = world.note(witnesses=())
    world.log_key = new_key(stolen.name)
    turn = world.note()

    def audit(place: str, note: bytes) -> Audit:
        bundle = bundle_of(
            world,
            tmp_path / place,
            artifacts={"base-2": base},
            note=note,
            turns=[note],
        ).folder
        (bundle / "trust-policy.txt").write_bytes(founding)
        write_manifest(bundle)
        return verify(bundle, trust=founding)

    found = audit("new", turn)  # the release's proof is by the key that was stolen
    assert found.verdict is AuditVerdict.HOLDS, found.steps[-1]
    assert stolen.verify_key.keyid in (base / "tapestry/trust-policy.txt").read_text()
    for place, note, code in (
        ("thief", by_thief, "log-signature-missing"),
        ("alone", alone, "signature-missing"),
    ):
        assert last(audit(place, note)) == ("turns", AuditVerdict.FAILS, code)
