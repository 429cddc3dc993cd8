"""The coordinator is lost, and the log goes on from a member's mirror, by vote."""

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from tapestry.errors import IncompleteError, RuleError, VerificationError
from tapestry.keys import SigningKey
from tapestry.protocol.messages import Kind
from tapestry.storage.sqlite_database import copy_database
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.merkle import Tree, leaf_hash
from tapestry_coordinator import coordinator_folder, service
from tapestry_coordinator.coordinator_backup import back_up, restore
from tapestry_coordinator.log_reader import read_log
from tapestry_coordinator.restored_log import hear_members
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.member_events import Admission, PauseProposal, Removal
from tapestry_governance.log.writer import Log
from tests.scenarios.conftest import Found
from tests.scenarios.test_membership import NEW, ask
from tests.support.commands import tapestry
from tests.support.federation import Federation, lost
from tests.support.refusals import refused

pytestmark = pytest.mark.slow


def ok(*words: object) -> str:
    done = tapestry(*words)
    assert done.exit_code == 0, done.stderr
    return str(done.stdout)


def lose(federation: Federation) -> Path:
    """Lose the coordinator's folder, make one with new keys; returns the old one."""
    folder = federation.coordinator
    old = folder.rename(folder.with_name("old"))
    renew(federation, old, folder)
    return old


def renew(federation: Federation, old: Path, folder: Path) -> None:
    coordinator_folder.init(
        folder,
        CoordinatorSettings.read(old / "coordinator.toml"),
        workload="language",
        base="tiny",
        policy=federation.view("fr").state.policy,
        passphrase=None,
    )


def node(federation: Federation, name: str) -> Path:
    return federation.directory / "nodes" / name


def recover(federation: Federation, *names: str) -> str:
    """Recover from the mirrors of members, whose nodes run."""
    words: list[object] = []
    for name in names:
        words += ["--from", node(federation, name) / "view.db"]
    trust = node(federation, "fr") / "trust-policy.txt"
    return ok(
        "coordinator", "recover", federation.coordinator, *words, "--trust", trust
    )


def propose(federation: Federation, *, by: str = "fr") -> Path:
    """Propose the keys of the new folder; returns the ballot."""
    folder = federation.coordinator
    made = federation.directory / "coordinator.proposal"
    invitation = folder / "simulated.invite"
    node_words = ("--node", node(federation, by), "-o", made)
    ok("governance", "propose", "coordinator", invitation, *node_words)
    said = ok("coordinator", "submit", folder, made)
    assert "0 of 3 yes" in said
    (ballot,) = folder.glob("coordinator-*.ballot")
    return ballot


def vote(federation: Federation, ballot: Path, *names: str) -> str:
    """Let members vote with the ballot and their root keys alone."""
    made: list[Path] = []
    for name in names:
        made.append(federation.directory / f"{name}.vote")
        key = node(federation, name) / "keys" / "root.key"
        said = ok("governance", "vote", ballot, "yes", "--key", key, "-o", made[-1])
        assert "not cosigned" in said
    return ok("coordinator", "submit", federation.coordinator, *made)


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


def twice() -> Callable[[], bool]:
    calls = count(1)
    return lambda: next(calls) > 2


def begin_again(federation: Federation, old: Path, run_id: str) -> None:
    """Give the new folder a plan for a run of its own, from the given base."""
    place = federation.coordinator / "runs" / run_id
    shutil.copytree(old / "runs" / "run" / "held-out", place / "held-out")
    plan = (old / "runs" / "run" / "run.toml").read_text()
    (place / "run.toml").write_text(plan.replace('"run"', f'"{run_id}"'))


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
    federation.bundle()
    audit = federation.audit()  # by the founding trust policy
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]


def test_after_it_all_goes_on_as_before(found: Found) -> None:
    federation = found()
    federation.cosign()
    federation.kill("sw")
    lose(federation)
    recover(federation, "fi")
    vote(federation, propose(federation), "fi", "fr", "id")
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


def test_a_later_member_joins_by_the_files_of_the_founding(found: Found) -> None:
    """The charter names the coordinator that is gone; the log, its successor."""
    federation = found()
    federation.cosign()
    old = lose(federation)
    recover(federation, "fi")
    vote(federation, propose(federation), "fi", "fr", "id")
    federation.cosign()
    shutil.copy(old / "simulated.charter", federation.coordinator)
    with refused(RuleError, "invitation-differs", match="log key"):
        ask(federation, NEW)
    shutil.rmtree(node(federation, NEW))
    shutil.rmtree(federation.directory / "more")
    shutil.copy(old / "simulated.invite", federation.coordinator)
    asked = ask(federation, NEW)
    admission = Admission(
        kind="admit", request=asked.request, possession=asked.possession
    )
    federation.decide(admission, "fi", "fr", "id")
    federation.start(NEW)
    for _ in range(2):
        federation.cosign()
    assert NEW in federation.view("fi").logged.members
    assert federation.view(NEW).state.lead.log == str(federation.log_key().verify_key)


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
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_a_round_that_was_open_is_aborted(found: Found) -> None:
    federation = found()
    federation.run_until_killed(lambda _, message: message.kind is Kind.UNMASK)
    old = lose(federation)
    recover(federation, "fi")
    vote(federation, propose(federation), "fi", "fr", "id")
    service.tend_log(federation.coordinator, federation.wire, until=twice())
    (aborted,) = federation.aborted()
    assert (aborted.reason, aborted.survivors) == ("coordinator_restarted", ())
    begin_again(federation, old, "second")
    federation.run()
    assert [each.run_id for each in federation.closed()] == ["second"]
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


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
    lose(federation)
    recover(federation, "fi")
    vote(federation, propose(federation), "fi", "fr", "id")
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
    old = lose(federation)
    recover(federation, "fi")
    vote(federation, propose(federation), "fi", "fr", "id")
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
