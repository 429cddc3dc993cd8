"""The coordinator is lost, and the log goes on from a member's mirror, by vote."""

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from tapestry.errors import IncompleteError, VerificationError
from tapestry.keys import SigningKey
from tapestry.protocol.messages import Kind
from tapestry.storage.sqlite_database import copy_database
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.merkle import Tree, leaf_hash
from tapestry_coordinator import service
from tapestry_coordinator.coordinator_backup import back_up, restore
from tapestry_coordinator.log_reader import read_log
from tapestry_coordinator.restored_log import hear_members
from tapestry_coordinator.superlink.outcome import read_outcome
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.member_events import PauseProposal, Removal
from tapestry_governance.founding import fingerprint
from tapestry_governance.log.writer import Log
from tapestry_node.mirror_bundle import collect_bundle
from tests.scenarios.conftest import Found
from tests.scenarios.test_crash import nth
from tests.scenarios.test_restores import LATER, backs_up, put_back
from tests.scenarios.test_survivors import (
    OTHERS,
    goes_on_without_the_victim,
    noiseless,
    refusals,
    reveals,
)
from tests.support.commands import Result, tapestry
from tests.support.federation import NAMES, Federation, lost
from tests.support.founding_place import ok as ok_of
from tests.support.founding_place import refuses
from tests.support.newcomers import NEW, invited, take_in
from tests.support.recoveries import (
    VOTERS,
    begin_again,
    lose,
    node,
    ok,
    propose,
    recover,
    renew,
    replace,
    vote,
)
from tests.support.refusals import refused

pytestmark = pytest.mark.slow


def sign(entries: Sequence[bytes], key: SigningKey) -> bytes:
    root = Tree(map(leaf_hash, entries)).root(len(entries))
    checkpoint = Checkpoint(origin=key.name, size=len(entries), root=root)
    return checkpoint.sign(key)


def offer(
    federation: Federation, name: str, entries: Sequence[bytes], note: bytes
) -> None:
    """Ask a member's mirror to take a checkpoint."""
    mirror = federation.nodes[name].mirror
    mirror.extend(mirror.size, list(entries[mirror.size :]), note)


def tend(federation: Federation) -> None:
    """Let the service work for two passes between runs."""
    calls = count(1)
    folder, wire = federation.coordinator, federation.wire
    service.tend_log(folder, wire, until=lambda: next(calls) > 2)


def holds(federation: Federation) -> None:
    federation.bundle()
    audit = federation.audit()  # by the founding trust policy
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]


def test_a_lost_coordinator_is_replaced_from_a_members_mirror(found: Found) -> None:
    federation = found()
    federation.run()
    old = lose(federation)
    said = recover(federation, "fi")
    assert "releases/base-1: no run begins with it" in said
    size = len(federation.entries())
    assert recover(federation, "fi", "sw").count("was there already") == 1
    assert len(federation.entries()) == size
    ballot = propose(federation)
    assert "2 of 3 yes" in vote(federation, ballot, "fi", "fr")
    with refused(IncompleteError, "coordinator-not-named"):
        federation.cosign()
    assert "the log names the keys of this folder" in vote(federation, ballot, "id")
    federation.cosign()
    turns = federation.coordinator / "log" / "public" / "turns"
    assert [path.name for path in turns.iterdir()] == [str(size + 4)]
    begin_again(federation, old, "second")
    shutil.rmtree(old)
    federation.run()
    assert [each.run_id for each in federation.closed()] == ["run", "second"]
    assert len(set(federation.digests().values())) == 1
    holds(federation)


def test_after_it_all_goes_on_as_before(found: Found) -> None:
    federation = found()
    federation.cosign()
    federation.kill("sw")
    replace(federation)
    federation.cosign()
    federation.start("sw")  # it was away, and steps over the turn
    federation.cosign()
    federation.cosign()
    assert federation.view("sw").seen == federation.view("fi").seen
    federation.decide(Removal(kind="remove", member="sw"), "fi", "fr", "id")
    federation.cosign()
    assert "sw" not in federation.view("fr").state.members
    folder, place = federation.coordinator, federation.directory / "backup"
    back_up(folder, place)
    restored = federation.directory / "restored"
    restore(place, restored)
    shutil.copytree(folder / "keys", restored / "keys")
    assert read_log(restored)[1] == federation.entries()


def joins(federation: Federation, charter: Path, *words: object) -> Result:
    """Let the newcomer's operator type the command."""
    typed = ("--fingerprint", fingerprint(federation.genesis))
    return tapestry("node", "join", node(federation, NEW), charter, *typed, *words)


def test_a_later_member_joins_by_the_invitation_of_who_leads_now(
    found: Found, tmp_path: Path
) -> None:
    """The charter names the coordinator that is gone; the log, its successor."""
    federation = found()
    federation.cosign()
    federation.cosign()
    before = collect_bundle(node(federation, "fi"), tmp_path / "before").folder
    old = replace(federation)
    federation.cosign()
    federation.cosign()  # members learn that the turn is cosigned
    after = collect_bundle(node(federation, "fi"), tmp_path / "after").folder
    asked, charter = invited(federation), old / "simulated.charter"
    refuses(joins(federation, charter), 2, "invitation-differs")
    refuses(joins(federation, charter, "--bundle", before), 2, "invitation-differs")
    faults = (
        (("--since", charter), 64, "usage"),
        (("--bundle", old), 3, "manifest-missing"),
        (("--bundle", tmp_path / "none"), 64, "folder-missing"),
        (("--bundle", after, "--since", charter), 1, "note-malformed"),
    )
    for words, status, code in faults:
        refuses(joins(federation, charter, *words), status, code)
    assert not (node(federation, NEW) / "trust-policy.txt").exists()
    said = ok_of(joins(federation, charter, "--bundle", after)).stdout
    assert "led by localhost:443, as the members voted" in said
    take_in(federation, asked, *VOTERS)
    assert NEW in federation.view("fi").logged.members
    assert federation.view(NEW).state.lead.log == str(federation.log_key().verify_key)


@pytest.mark.parametrize("forged", ["invitation", "log", "old"])
def test_no_other_invites_to_a_federation_whose_coordinator_was_replaced(
    found: Found, tmp_path: Path, forged: str
) -> None:
    """Neither by new keys, nor by a log of its own, nor by keys of the one before."""
    federation = found()
    federation.cosign()
    old = replace(federation)
    federation.cosign()
    federation.cosign()
    bundle = collect_bundle(node(federation, "fi"), tmp_path / "bundle").folder
    status, code = 2, "invitation-differs"
    mine, good = federation.coordinator, (federation.coordinator).with_name("good")
    mine.rename(good)
    if forged == "old":
        shutil.copytree(old, mine)
    else:
        renew(federation, old, mine)
    if forged == "log":  # as if members had voted: their lines are of another log
        other = found()
        other.cosign()
        shutil.rmtree(other.coordinator)
        shutil.copytree(mine, other.coordinator)
        recover(other, "fi")
        vote(other, propose(other), *VOTERS)
        other.cosign()
        other.cosign()
        bundle = collect_bundle(node(other, "fi"), tmp_path / "other").folder
        status, code = 1, "trust-policy-differs"
    invited(federation)
    charter = old / "simulated.charter"
    refuses(joins(federation, charter, "--bundle", bundle), status, code)
    assert not (node(federation, NEW) / "trust-policy.txt").exists()
    assert "genesis" not in (node(federation, NEW) / "node.toml").read_text()


def test_with_its_own_keys_a_coordinator_needs_no_vote(found: Found) -> None:
    federation = found()
    federation.run()
    folder = federation.coordinator
    old = lose(federation)
    shutil.rmtree(folder / "keys")
    shutil.copytree(old / "keys", folder / "keys")
    said = recover(federation, "id")
    assert "propose" not in said
    assert f"tapestry coordinator run {folder}" in said
    with refused(IncompleteError, "restored-unheard"):
        federation.cosign()
    hear_members(folder, federation.wire)
    federation.cosign()  # the same size again
    begin_again(federation, old, "second")
    federation.run()
    assert len(federation.closed()) == 2
    holds(federation)


def test_a_round_that_was_open_is_aborted(found: Found) -> None:
    federation = found()
    federation.run_until_killed(lambda _, message: message.kind is Kind.UNMASK)
    old = replace(federation)
    tend(federation)
    (aborted,) = federation.aborted()
    assert (aborted.reason, aborted.survivors) == ("coordinator_lost", ())
    begin_again(federation, old, "second")
    federation.run()
    assert [each.run_id for each in federation.closed()] == ["second"]
    holds(federation)


def cut(found: Found, kind: Kind, count: int) -> Federation:
    """Lose the coordinator within a round without noise, after some consents."""
    federation = noiseless(found)
    federation.run_until_killed(nth(kind, count))
    return federation


@pytest.mark.parametrize(
    ("kind", "consented"),
    [(Kind.UNMASK, OTHERS), (Kind.CHECK_CONSISTENCY, OTHERS[:1])],
    ids=["revealed", "consented"],
)
def test_a_round_without_noise_ends_and_whose_sum_may_be_known_stays_marked(
    found: Found,
    caplog: pytest.LogCaptureFixture,
    kind: Kind,
    consented: tuple[str, ...],
) -> None:
    """The new log does not know the survivors; each member knows what it signed."""
    federation = cut(found, kind, len(consented) + 1)
    shown = reveals(federation)
    assert shown == [*consented] * (kind is Kind.UNMASK)
    old = replace(federation)
    tend(federation)
    (aborted,) = federation.aborted()
    assert (aborted.reason, aborted.survivors) == ("coordinator_lost", ())
    assert federation.view("sw").state.open_round is None  # a quorum cosigned it
    for each in federation.wire.replies(Kind.CHECK_CONSISTENCY):
        assert federation.nodes[each.node].handle(each.request).kind is Kind.REFUSAL
    for name in NAMES:
        federation.restart(name)
    begin_again(federation, old, "second")
    goes_on_without_the_victim(federation)
    assert refusals(caplog) == {*consented}
    assert reveals(federation) == shown
    holds(federation)


@pytest.mark.parametrize("run_id", ["run", "second"])
def test_after_such_a_round_the_same_nodes_go_on_from_its_base(
    found: Found, run_id: str
) -> None:
    """Also in a run that was planned under the name of the one that is lost."""
    federation = cut(found, Kind.UNMASK, 4)
    old = replace(federation)
    begin_again(federation, old, run_id)
    federation.run()
    assert [each.reason for each in federation.aborted()] == ["coordinator_lost"]
    assert [each.included for each in federation.closed()] == [NAMES] * 2
    holds(federation)


def test_a_member_that_has_forgotten_such_a_round_opens_no_other_sum(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    federation = noiseless(found, rounds=3)
    place = backs_up(federation, Kind.ADVERTISE_KEYS)
    federation.run_until_killed(nth(Kind.UNMASK, 4))
    put_back(federation, place)
    old = replace(federation)
    federation.now = LATER
    tend(federation)
    begin_again(federation, old, "second")
    goes_on_without_the_victim(federation)
    assert refusals(caplog) == {*OTHERS} - {"fr"}
    said = (line for line in caplog.messages if "fr: refused check_consist" in line)
    assert "open another sum on this base, and has forgotten whose" in next(said)


def test_under_its_own_keys_a_coordinator_ends_no_such_round(found: Found) -> None:
    """It could leave out whose sum it knows; members have to name another."""
    federation = cut(found, Kind.UNMASK, 4)
    folder, size = federation.coordinator, len(federation.entries())
    (folder / "runs" / "run").rename(federation.directory / "lost")
    with refused(IncompleteError, "round-end-unknown", match="members vote on them"):
        tend(federation)
    place = folder / "runs" / "run"
    shutil.copytree(federation.directory / "lost" / "held-out", place / "held-out")
    shutil.copy(federation.directory / "lost" / "run.toml", place)
    with refused(IncompleteError, "round-end-unknown"):
        service.finish_run(folder, federation.wire, "run")
    assert read_outcome(place) is None
    assert len(federation.entries()) == size
    old = lose(federation)
    shutil.rmtree(folder / "keys")
    shutil.copytree(old / "keys", folder / "keys")
    trust = node(federation, "fr") / "trust-policy.txt"
    mirror = node(federation, "fi") / "view.db"
    words = ("coordinator", "recover", folder, "--from", mirror, "--trust", trust)
    refuses(tapestry(*words), 3, "round-end-unknown")
    assert not (folder / "log").exists()


def test_too_few_votes_or_another_key_name_no_coordinator(found: Found) -> None:
    federation = found()
    federation.cosign()
    first = lose(federation)
    recover(federation, "fi")
    ballot = propose(federation)
    vote(federation, ballot, "fi", "fr")
    folder = federation.coordinator
    with refused(IncompleteError, "coordinator-not-named"):
        service.tend_log(folder, federation.wire, until=lambda: True)
    # A proposal by another invitation than the folder's.
    other = folder.with_name("other")
    renew(federation, first, other)
    made = federation.directory / "other.proposal"
    words = ("--node", node(federation, "id"), "-o", made)
    ok("governance", "propose", "coordinator", other / "simulated.invite", *words)
    done = tapestry("coordinator", "submit", folder, made)
    assert done.exit_code == 2
    assert done.stderr.endswith("[own-key-differs]\n")
    # Members take no checkpoint by a key that the log does not name.
    for key in (folder, other):
        signed = sign(read_log(folder)[1], SigningKey.load(key / "keys" / "log.key"))
        with refused(VerificationError, "signature-missing"):
            offer(federation, "sw", read_log(folder)[1], signed)
    assert federation.nodes["sw"].mirror.size < len(read_log(folder)[1])


def test_without_a_quorum_of_the_old_witnesses_nothing_is_published(
    found: Found,
) -> None:
    federation = found()
    federation.cosign()
    replace(federation)
    public = federation.coordinator / "log" / "public"
    before = (public / "checkpoint").read_bytes()
    for name in ("fi", "fr"):
        federation.wire.on(name, Kind.COSIGN, lost)
    service.cosign_once(federation.coordinator, federation.wire)
    assert (public / "checkpoint").read_bytes() == before
    assert not (public / "turns").exists()
    federation.cosign()
    assert (public / "checkpoint").read_bytes() != before


def test_a_coordinator_that_was_replaced_is_refused_when_it_comes_back(
    found: Found,
) -> None:
    federation = found()
    federation.run()
    old = replace(federation)
    federation.cosign()
    federation.cosign()
    accepted = federation.view("fi").note
    entries = federation.entries()
    service.cosign_once(old, federation.wire)  # it gets no cosignature
    old_key = SigningKey.load(old / "keys" / "log.key")
    with refused(VerificationError, "signature-missing"):
        offer(federation, "fi", entries, sign(entries, old_key))
    assert federation.view("fi").note == accepted
    with (
        Log.open(old / "log", key=old_key) as log,
        refused(VerificationError, "signature-missing"),
    ):
        log.check(accepted)


def test_a_mirror_behind_a_checkpoint_that_was_kept_is_refused(
    found: Found, tmp_path: Path
) -> None:
    federation = found()
    federation.cosign()
    federation.cosign()
    behind, kept = tmp_path / "behind.db", tmp_path / "kept"
    copy_database(node(federation, "fi") / "view.db", behind)
    federation.run()
    federation.cosign()
    kept.write_bytes(federation.view("fr").note)
    lose(federation)
    folder, trust = federation.coordinator, node(federation, "fr") / "trust-policy.txt"
    words = ("coordinator", "recover", folder, "--from", behind, "--trust", trust)
    done = tapestry(*words, "--checkpoint", kept)
    assert done.exit_code == 3
    assert done.stderr.endswith("[mirror-behind]\n")
    assert not (folder / "log").exists()
    ok(*words, "--from", node(federation, "sw") / "view.db", "--checkpoint", kept)
    assert len(federation.entries()) == read_claim(kept.read_bytes()).size


def test_a_member_that_saw_more_cannot_propose_to_an_older_log(
    found: Found, tmp_path: Path
) -> None:
    """No checkpoint was given; the proposal itself tells of one."""
    federation = found()
    federation.cosign()
    federation.cosign()
    behind = tmp_path / "behind.db"
    copy_database(node(federation, "fi") / "view.db", behind)
    federation.decide(PauseProposal(kind="pause"), "fi", "fr")
    federation.cosign()
    lose(federation)
    folder, trust = federation.coordinator, node(federation, "fr") / "trust-policy.txt"
    ok("coordinator", "recover", folder, "--from", behind, "--trust", trust)
    made = federation.directory / "coordinator.proposal"
    words = ("--node", node(federation, "fr"), "-o", made)
    ok("governance", "propose", "coordinator", folder / "simulated.invite", *words)
    done = tapestry("coordinator", "submit", folder, made)
    assert done.exit_code == 2
    assert done.stderr.endswith("[seen-size-invalid]\n")


def test_a_mirror_that_was_changed_is_refused(found: Found, tmp_path: Path) -> None:
    federation = found()
    federation.cosign()
    federation.cosign()
    lose(federation)
    folder, trust = federation.coordinator, node(federation, "fr") / "trust-policy.txt"
    changed = tmp_path / "changed.db"
    copy_database(node(federation, "fi") / "view.db", changed)
    with closing(sqlite3.connect(changed)) as database, database:
        query = "SELECT bytes FROM entry WHERE idx = 7"
        entry = bytearray(database.execute(query).fetchone()[0])
        entry[-9] ^= 1
        database.execute("UPDATE entry SET bytes = ? WHERE idx = 7", (bytes(entry),))
    words = ("coordinator", "recover", folder, "--trust", trust, "--from", changed)
    done = tapestry(*words, "--from", node(federation, "sw") / "view.db")
    assert done.exit_code in {1, 2}, done.stderr
    assert not (folder / "log").exists()
