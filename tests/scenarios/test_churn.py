"""Years of a federation in minutes: members, keys, a root and an address change.

Four members; a fifth is admitted, each kind of key is rotated, a root is lost and
replaced, one member is removed, the coordinator moves; three runs lie in between. Only
those whom a change concerns start again. An auditor who holds nothing but the trust
policy of the founding follows it all, and each forged variant is refused.

The move keeps the coordinator's keys: another log key takes another log folder, which
``tests/governance/audit/test_turn_audit.py`` has.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.encoding import digest
from tapestry.encrypted_keys import load_public
from tapestry.errors import RuleError
from tapestry.keys import SigningKey
from tapestry.tlog import note
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.audit.bundle import write_manifest
from tapestry_governance.audit.verify import AuditVerdict, verify
from tapestry_governance.ballot_paper import propose
from tapestry_governance.events.envelope import Author, sign_entry
from tapestry_governance.events.event_body import Body
from tapestry_governance.events.member_events import (
    Admission,
    CoordinatorReplacement,
    KeyRotated,
    PauseProposal,
    Removal,
    RootReplacement,
    VoteCast,
)
from tapestry_governance.events.possession import rotation_statement
from tapestry_governance.events.round_events import RoundOpened
from tapestry_node.member_export import export
from tapestry_node.mirror_bundle import collect_bundle
from tapestry_node.submission import submit
from tests.scenarios.conftest import base
from tests.scenarios.test_membership import NEW, ask, turns
from tests.support.federation import NAMES, Base, Federation
from tests.support.refusals import refused

__all__ = ["base"]
pytestmark = pytest.mark.slow

GONE, LOST = "sw", "id"  # the member that is removed, and the one without a root key
ROTATED = {"community": "fi", "node": "fr", "witness": "fr", "root": "fi"}


def sign(
    federation: Federation, name: str, body: Body, *, root: SigningKey | None = None
) -> bytes:
    """Sign an entry as a steward would, by the log as fr knows it."""
    author = Author(federation="simulated", actor=name, role="root")
    seen = federation.nodes["fr"].mirror.seen
    event = author.event(body, now=federation.moment(), seen=seen)
    return sign_entry(event, root or federation.root(name))


def rotate(federation: Federation, name: str, purpose: str) -> None:
    """Give a member a new key, by the log and then in its folder."""
    path = federation.directory / "nodes" / name / "keys" / f"{purpose}.key"
    old = SigningKey.load(path)
    new = SigningKey.generate(old.name, algorithm=old.verify_key.algorithm)
    key = str(new.verify_key)
    said = rotation_statement(purpose, key, name=name, federation="simulated")
    body = {
        "purpose": purpose,
        "key": key,
        "reason": "routine",
        "possession": new.sign(said).hex(),
    }
    entry = sign(federation, name, KeyRotated.model_validate(body))
    federation.submit(name, entry)
    federation.cosign()
    path.unlink()
    new.save(path)
    if purpose != "root":  # which no node holds
        federation.restart(name)
    federation.cosign()
    assert getattr(federation.view("fr").state.members[name], purpose) == key


def transport(federation: Federation, name: str) -> None:
    """Announce the digest of a new transport key."""
    key = "ab" * 32
    said = rotation_statement("transport", key, name=name, federation="simulated")
    by = SigningKey.load(federation.directory / "nodes" / name / "keys" / "node.key")
    body = {
        "purpose": "transport",
        "key": key,
        "reason": "routine",
        "possession": by.sign(said).hex(),
    }
    federation.submit(name, sign(federation, name, KeyRotated.model_validate(body)))
    federation.cosign()


def admit(federation: Federation) -> None:
    """Let a fifth institution in, and have it cosign."""
    asked = ask(federation, NEW)
    admission = Admission(
        kind="admit", request=asked.request, possession=asked.possession
    )
    federation.decide(admission, "fi", "fr", "id")
    federation.start(NEW)
    for _ in range(2):
        federation.cosign()


def replace_root(federation: Federation) -> None:
    """Give a member that lost its root key another one, by the others' votes."""
    path = federation.directory / "nodes" / LOST / "keys" / "root.key"
    found = SigningKey.generate(SigningKey.load(path).name)
    key = str(found.verify_key)
    replacement = RootReplacement(kind="root", member=LOST, key=key)
    federation.decide(replacement, "fi", "fr", NEW)
    path.unlink()
    found.save(path)


def move(federation: Federation) -> None:
    """Have the coordinator move to another address."""
    lead = federation.view("fr").state.lead
    moved = CoordinatorReplacement(
        kind="coordinator",
        name=lead.coordinator.name,
        key=lead.coordinator.key,
        log=lead.log,
        address="moved.example:443",
        authority=lead.authority,
    )
    federation.decide(moved, "fi", LOST, NEW)
    federation.cosign()


@pytest.fixture(scope="module")
def federation(
    base: Base, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Federation]:
    made = Federation(tmp_path_factory.mktemp("churn") / "federation", base)
    made.run()
    admit(made)
    bystanders = {name: made.nodes[name] for name in (LOST, GONE, NEW)}
    for purpose, name in ROTATED.items():
        rotate(made, name, purpose)
    transport(made, "id")
    made.begin_another_run("second")  # from the given base, which all hold
    made.run()
    made.approve()
    replace_root(made)
    made.decide(Removal(kind="remove", member=GONE), "fi", LOST, NEW)
    move(made)
    folder = made.coordinator / "releases" / "base-2"
    made.begin_another_run("third", base=str(folder.resolve()))
    made.run()
    made.cosign()
    assert {name: made.nodes[name] for name in bystanders} == bystanders
    yield made
    made.close()


def trust(federation: Federation) -> bytes:
    """The trust policy of the founding."""
    return (federation.coordinator / "trust-policy.txt").read_bytes()


def test_each_run_is_of_those_who_are_members(federation: Federation) -> None:
    opened: list[RoundOpened] = federation.said(RoundOpened)
    names = [[p.name for p in body.manifest.participants] for body in opened]
    assert names == [
        [*NAMES],
        sorted([*NAMES, NEW]),
        sorted({*NAMES, NEW} - {GONE}),
    ]
    closed = federation.closed()
    assert [each.outcome for each in closed] == ["applied"] * 3
    assert [list(each.included) for each in closed] == names
    state = federation.view("fr").logged
    assert set(state.members) == {*NAMES, NEW} - {GONE}
    assert state.lead.address == "moved.example:443"
    assert state.other_keys["id", "transport"] == "ab" * 32


def test_an_auditor_with_the_policy_of_the_founding_follows_all_of_it(
    federation: Federation, tmp_path: Path
) -> None:
    assert len(turns(federation)) == 3  # admitted, a witness's key, removed
    federation.bundle()
    mirrors = [
        collect_bundle(federation.nodes[name].directory, tmp_path / name).folder
        for name in ("fr", NEW)
    ]
    for place in (federation.directory / "bundle", *mirrors):
        audit = verify(place, trust=trust(federation))
        assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]
        (step,) = [step for step in audit.steps if step.name == "turns"]
        assert step.counts["turns"] == 3
        assert audit.state.trust != TrustPolicy.parse(trust(federation))


def test_a_removed_member_takes_along_what_it_owns(
    federation: Federation, tmp_path: Path
) -> None:
    node = federation.nodes[GONE]
    made = export(node.directory, tmp_path / "export")
    assert made.lacks == {}
    keys = json.loads((tmp_path / "export" / "public-keys.json").read_text())
    for purpose, key in keys.items():
        assert key == str(load_public(node.directory / "keys" / f"{purpose}.key"))
    assert made.releases[:2] == ["base-1", "base-2"]
    audit = verify(tmp_path / "export" / "bundle", trust=trust(federation))
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]


def test_a_vote_of_nobody_who_may_or_for_another_entry_is_refused(
    federation: Federation,
) -> None:
    view = federation.view("fr")
    pause = propose(
        view,
        PauseProposal(kind="pause"),
        root=federation.root("fr"),
        now=federation.moment(),
    )
    federation.submit("fr", pause)
    index = federation.entries().index(pause)
    vote = VoteCast(subject=index, entry=digest(pause), vote="yes", reasons=None)
    other = vote.model_copy(update={"entry": digest(b"another")})
    stranger = SigningKey.generate("xx/root")
    for entry, code in (
        (sign(federation, "xx", vote, root=stranger), "actor-unknown"),
        (sign(federation, GONE, vote), "actor-unknown"),
        (sign(federation, "fi", vote, root=stranger), "signature-missing"),
        (sign(federation, "fi", vote, root=federation.root("fr")), "signature-missing"),
        (sign(federation, "fi", other), "vote-subject-differs"),
    ):
        with refused(RuleError, code):
            submit(federation.nodes["fr"].directory, [entry])
    federation.submit("fi", sign(federation, "fi", vote))  # the control


@pytest.mark.parametrize("which", ["old alone", "new alone"])
def test_a_turn_that_one_set_alone_cosigned_is_refused(
    federation: Federation, tmp_path: Path, which: str
) -> None:
    """Of four and five a quorum is three and four."""
    sizes = turns(federation)
    size, names = {
        "old alone": (sizes[0], ("fi", "fr", "id")),
        "new alone": (sizes[-1], ("fi", "id", NEW)),
    }[which]
    bundle = collect_bundle(federation.nodes["fr"].directory, tmp_path / "bundle")
    place = bundle.folder / "turns" / str(size)
    found = note.parse(place.read_bytes())
    lines = [
        line
        for line in found.signatures
        if line.name in {"simulated.example/log", *(f"{n}/witness" for n in names)}
    ]
    assert len(lines) == 1 + len(names)
    place.write_bytes(note.Note(text=found.text, signatures=tuple(lines)).encode())
    write_manifest(bundle.folder)
    audit = verify(bundle.folder, trust=trust(federation))
    step = audit.steps[-1]
    assert (audit.verdict, step.name) == (AuditVerdict.FAILS, "turns")
    assert step.code == "quorum-not-reached"
