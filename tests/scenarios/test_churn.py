"""Years of a federation in minutes: members, keys, a root, the coordinator change.

Four members; a fifth is admitted, each kind of key is rotated, a root is lost and
replaced, one member is removed. Then the coordinator's machine is lost, and another one
with new keys goes on from a member's mirror, by vote; a sixth joins by its invitation,
and one member leaves. Four runs lie in between. No node starts again. An auditor who
holds nothing but the trust policy of the founding follows it all, and each forged
variant is refused.
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
    KeyRotated,
    MemberLeft,
    PauseProposal,
    Removal,
    RootReplacement,
    VoteCast,
)
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.founding import fingerprint
from tapestry_governance.key_turn import Purpose
from tapestry_node.member_export import export
from tapestry_node.mirror_bundle import collect_bundle
from tapestry_node.submission import submit
from tests.scenarios.conftest import base
from tests.support.federation import NAMES, Base, Federation
from tests.support.newcomers import NEW, admit, invited, take_in, turns
from tests.support.recoveries import begin_again, ok, replace
from tests.support.refusals import refused
from tests.support.rotations import rotate

__all__ = ["base"]
pytestmark = pytest.mark.slow

GONE, LOST = "sw", "id"  # the member that is removed, and the one without a root key
LATER = "ro"  # the member that joins when the coordinator was replaced
ROTATED: dict[Purpose, str] = {
    "community": "fi",
    "node": "fr",
    "witness": "fr",
    "root": "fi",
    "transport": "id",
}


def sign(
    federation: Federation, name: str, body: Body, *, root: SigningKey | None = None
) -> bytes:
    """Sign an entry as a steward would, by the log as fr knows it."""
    author = Author(federation="simulated", actor=name, role="root")
    seen = federation.nodes["fr"].mirror.seen
    event = author.event(body, now=federation.moment(), seen=seen)
    return sign_entry(event, root or federation.root(name))


def replace_root(federation: Federation) -> None:
    """Give a member that lost its root key another one, by the others' votes."""
    path = federation.directory / "nodes" / LOST / "keys" / "root.key"
    found = SigningKey.generate(SigningKey.load(path).name)
    key = str(found.verify_key)
    replacement = RootReplacement(kind="root", member=LOST, key=key)
    federation.decide(replacement, "fi", "fr", NEW)
    path.unlink()
    found.save(path)


def join(federation: Federation, charter: Path) -> None:
    """Take in another institution, whose operator has a bundle by a member."""
    asked = invited(federation, LATER)
    bundle = collect_bundle(federation.nodes[NEW].directory, charter.parent / "bundle")
    words = (
        "--bundle",
        bundle.folder,
        "--fingerprint",
        fingerprint(federation.genesis),
    )
    ok("node", "join", federation.directory / "nodes" / LATER, charter, *words)
    take_in(federation, asked, "fi", "fr", NEW)


@pytest.fixture(scope="module")
def federation(
    base: Base, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Federation]:
    made = Federation(tmp_path_factory.mktemp("churn") / "federation", base)
    made.run()
    admit(made, "fi", "fr", "id")
    everybody = dict(made.nodes)
    for purpose, name in ROTATED.items():
        rotate(made, name, purpose)
        for _ in range(3):
            made.cosign()
    made.begin_another_run("second")  # from the given base, which all hold
    made.run()
    made.approve()
    replace_root(made)
    made.decide(Removal(kind="remove", member=GONE), "fi", LOST, NEW)
    folder = made.coordinator / "releases" / "base-2"
    made.begin_another_run("third", base=str(folder.resolve()))
    made.run()
    made.cosign()
    old = replace(made, mirror=NEW)
    for _ in range(2):
        made.cosign()
    join(made, old / "simulated.charter")
    made.submit(LOST, sign(made, LOST, MemberLeft()))
    begin_again(made, old, "fourth")
    made.run()
    made.cosign()
    assert {name: made.nodes[name] for name in everybody} == everybody
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
        sorted({*NAMES, NEW, LATER} - {GONE, LOST}),
    ]
    closed = federation.closed()
    assert [each.outcome for each in closed] == ["applied"] * 4
    assert [list(each.included) for each in closed] == names
    state = federation.view("fr").logged
    assert set(state.members) == {*NAMES, NEW, LATER} - {GONE, LOST}
    assert state.lead.log == str(federation.log_key().verify_key)
    assert [each.log == state.lead.log for each in state.former_leads] == [False]
    rotated = federation.said(KeyRotated)
    assert [each.purpose for each in rotated] == list(ROTATED)


def test_an_auditor_with_the_policy_of_the_founding_follows_all_of_it(
    federation: Federation, tmp_path: Path
) -> None:
    # Admitted, a witness's key, removed, the log's key, admitted, left.
    assert len(turns(federation)) == 6
    federation.bundle()
    mirrors = [
        collect_bundle(federation.nodes[name].directory, tmp_path / name).folder
        for name in ("fr", NEW, LATER)
    ]
    for place in (federation.directory / "bundle", *mirrors):
        audit = verify(place, trust=trust(federation))
        assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]
        (step,) = [step for step in audit.steps if step.name == "turns"]
        assert step.counts["turns"] == 6
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
    assert made.releases == ["base-1", "base-2"]  # which were approved
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
        "new alone": (sizes[2], ("fi", "id", NEW)),
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
