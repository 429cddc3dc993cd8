"""A federation that lets an archive witness its log: nothing is public without it."""

from pathlib import Path

import pytest

from tapestry.errors import QuorumError
from tapestry.keys import Algorithm, SigningKey
from tapestry.protocol.messages import Kind
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_coordinator.run_status import read_status
from tapestry_governance.audit.verify import Audit, AuditStep, AuditVerdict
from tapestry_governance.witness import witness_folder
from tapestry_governance.witness.witness_server import serving
from tests.support.commands import tapestry
from tests.support.cosigning import without_line
from tests.support.federation import Federation, lost
from tests.support.federation_fixtures import Found
from tests.support.founding_place import NAMES, Place, ok, refuses
from tests.support.outside_witness import NAME, opened
from tests.support.ports import free_port
from tests.support.recoveries import begin_again, replace

pytestmark = pytest.mark.slow
LINE = f"{NAME}/witness"
ORIGIN = "simulated.example/log"


@pytest.fixture
def port() -> int:
    return free_port()


def founded_with(found: Found, folder: Path, *, port: int, quorum: int) -> Federation:
    """Found a federation whose policy names a witness; the witness trusts its log."""
    key = witness_folder.init(folder, NAME)
    url = f"http://127.0.0.1:{port}"
    named = {"name": NAME, "key": str(key), "url": url}
    policy = {"witnesses": (named,), "outside_quorum": quorum}
    federation = found(policy=policy)
    trust = (federation.coordinator / "trust-policy.txt").read_bytes()
    witness_folder.init(folder, NAME, trust=trust)
    return federation


def step_of(audit: Audit, name: str) -> AuditStep:
    return next(each for each in audit.steps if each.name == name)


def cosigning_twin(path: Path) -> str:
    """The seed of a key of the coordinator, as the key of a witness."""
    seed = SigningKey.load(path).seed
    twin = SigningKey(name=LINE, algorithm=Algorithm.COSIGNATURE, seed=seed)
    return str(twin.verify_key)


def test_a_round_needs_the_line_of_the_outside_witness_and_so_does_an_audit(
    found: Found, tmp_path: Path, port: int
) -> None:
    federation = founded_with(found, tmp_path / "archive", port=port, quorum=1)
    with pytest.raises(QuorumError):
        federation.run()
    assert federation.cosigned() == []
    with (
        opened(tmp_path / "archive") as witness,
        serving(witness, ("127.0.0.1", port)),
    ):
        federation.run()
        status = read_status(federation.coordinator)
        assert witness.cosigned(ORIGIN).size == status.entries
    assert [closed.outcome for closed in federation.closed()] == ["applied"]
    assert (len(status.cosigners), status.outside) == (4, (LINE,))
    federation.bundle()
    audit = federation.audit()
    assert audit.verdict is AuditVerdict.HOLDS
    assert "3 of 4 members and 1 of 1 outside" in step_of(audit, "trust").detail
    shown = federation.coordinator / "log" / "public" / "checkpoint"
    shown.write_bytes(without_line(shown.read_bytes(), LINE))
    federation.bundle("another")
    audit = federation.audit("another")
    assert audit.verdict is not AuditVerdict.HOLDS
    assert step_of(audit, "signatures").code == "quorum-not-reached"


def test_one_that_is_only_listed_stops_nothing_and_its_line_is_kept(
    found: Found, tmp_path: Path, port: int
) -> None:
    federation = founded_with(found, tmp_path / "archive", port=port, quorum=0)
    federation.run()
    assert read_status(federation.coordinator).outside == ()
    federation.begin_another_run("second")
    with (
        opened(tmp_path / "archive") as witness,
        serving(witness, ("127.0.0.1", port)),
    ):
        federation.run()
        assert 0 < witness.cosigned(ORIGIN).size <= len(federation.entries())
    assert len(federation.closed()) == 2


def learns_log_key(federation: Federation, folder: Path) -> None:
    """Give a witness the key that the log names now, by the file that was written."""
    trust = federation.coordinator / "witness-policy.txt"
    ok(tapestry("witness", "init", folder, "--name", NAME, "--trust", trust))


@pytest.mark.parametrize("missing", ["witness", "members"])
def test_the_turn_to_another_coordinator_needs_members_and_the_witness(
    found: Found, tmp_path: Path, port: int, missing: str
) -> None:
    """It carries over by name; neither all members nor the witness are enough."""
    archive = tmp_path / "archive"
    federation = founded_with(found, archive, port=port, quorum=1)
    with opened(archive) as witness, serving(witness, ("127.0.0.1", port)):
        for _ in range(2):
            federation.cosign()
    old = replace(federation)
    public = federation.coordinator / "log" / "public"
    before = (public / "checkpoint").read_bytes()
    if missing == "members":
        learns_log_key(federation, archive)
        for name in ("fi", "fr"):
            federation.wire.on(name, Kind.COSIGN, lost)
    with opened(archive) as witness, serving(witness, ("127.0.0.1", port)):
        federation.cosign()
    assert (public / "checkpoint").read_bytes() == before
    assert not (public / "turns").exists()
    if missing == "witness":
        learns_log_key(federation, archive)
    begin_again(federation, old, "second")
    with opened(archive) as witness, serving(witness, ("127.0.0.1", port)):
        federation.run()
        federation.cosign()
    assert [closed.outcome for closed in federation.closed()] == ["applied"]
    assert read_status(federation.coordinator).outside == (LINE,)
    check_turn(federation)


def check_turn(federation: Federation) -> None:
    """Audit by the policy of the founding, then without the witness's line."""
    federation.bundle()
    audit = federation.audit()
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]
    assert "of 4 members and 1 of 1 outside" in step_of(audit, "trust").detail
    assert [w.name for w in audit.state.trust.witnesses if w.url] == [LINE]
    public = federation.coordinator / "log" / "public"
    (turn,) = (public / "turns").iterdir()
    turn.write_bytes(without_line(turn.read_bytes(), LINE))
    federation.bundle("another")
    audit = federation.audit("another")
    assert (audit.verdict, audit.steps[-1].name) == (AuditVerdict.FAILS, "turns")
    assert audit.steps[-1].code == "quorum-not-reached"


def test_a_founding_with_a_witness_goes_from_its_key_to_the_trust_policies_of_all(
    with_requests: Place, tmp_path: Path
) -> None:
    """By the commands, from the witness's key to the trust policies of all."""
    place = with_requests.copy(tmp_path / "place")
    folder, url = tmp_path / "archive", "https://archive.example/witness"
    init = ("witness", "init", folder, "--name", NAME, "--url", url)
    (line,) = [
        row.removeprefix("policy  ")
        for row in ok(tapestry(*init)).stdout.splitlines()
        if row.startswith("policy  ")
    ]
    draft = place.coordinator / "policy.toml"
    text = draft.read_text("utf-8")
    assert text.count("witnesses = []\n") == text.count("outside_quorum = 0\n") == 1
    text = text.replace("witnesses = []", line)
    draft.write_text(text.replace("outside_quorum = 0", "outside_quorum = 1"))
    ok(place.write_charter())
    for name in NAMES:
        shown = ok(place.accept(name)).stdout
        assert f"policy       witnesses name {NAME} key {NAME}/witness+" in shown
    ok(place.open())
    trust = place.coordinator / "trust-policy.txt"
    assert TrustPolicy.parse(trust.read_bytes()).quorum == "all"
    for name in NAMES:
        kept = place.node(name) / "trust-policy.txt"
        assert kept.read_bytes() == trust.read_bytes()
    ok(tapestry(*init, "--trust", trust))


def test_the_coordinators_own_key_is_no_outside_witness(
    with_requests: Place, tmp_path: Path
) -> None:
    place = with_requests.copy(tmp_path / "place")
    draft = place.coordinator / "policy.toml"
    text = draft.read_text("utf-8")
    for key in ("log.key", "author.key"):
        twin = cosigning_twin(place.coordinator / "keys" / key)
        named = f'{{ name = "archive", key = "{twin}", url = "https://a.example" }}'
        line = f"witnesses = [{named}]"
        draft.write_text(text.replace("witnesses = []", line))
        refuses(place.write_charter(), 2, "key-taken")
