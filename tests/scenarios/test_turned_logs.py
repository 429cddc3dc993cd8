"""An auditor follows a log whose witnesses changed, from the policy of the founding."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from tapestry_governance.audit.verify import Audit, AuditVerdict, verify
from tapestry_governance.events.member_events import KeyRotated, Removal
from tests.support.audit_bundles import bundle_of
from tests.support.log_world import NAMES, World

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
        from tapestry_governance.audit.bundle import write_manifest

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
    assert (counts["turns"], counts["oldest_trust_days"]) == (2, 0)
    assert counts["cosignatures"] == 3


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
    assert last(audit) == ("turns", AuditVerdict.INCOMPLETE, "trust-too-old")
    assert "--since" in audit.steps[-1].detail
    kept = log.audit(tmp_path / "kept", *notes, since=log.second)
    assert kept.verdict is AuditVerdict.HOLDS, kept.steps[-1]
    assert turns_of(kept)["oldest_trust_days"] == 400
    pinned = log.audit(tmp_path / "pinned", *notes, trust=log.policies[1])
    assert pinned.verdict is AuditVerdict.HOLDS, pinned.steps[-1]


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
