"""The log as a member reads it: a node's mirror, or a bundle."""

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapestry.errors import (
    ConfigError,
    IncompleteError,
    PolicyError,
    TapestryError,
    VerificationError,
)
from tapestry.tlog.proof import Proof
from tapestry_governance.audit.bundle import write_manifest
from tapestry_governance.founding_files import OpenedCharter
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.member_view import founded_log, open_view, view_of
from tests.support.audit_bundles import bundle_of
from tests.support.log_world import NAMES, World
from tests.support.proposals import new_coordinator, new_key
from tests.support.refusals import refused


@pytest.fixture
def world() -> World:
    return World().found()


def node_of(world: World, folder: Path) -> Path:
    """Write what a node's folder has of the log."""
    folder.mkdir()
    (folder / "node.toml").write_text(f'genesis = "{world.genesis}"\n')
    (folder / "trust-policy.txt").write_bytes(world.trust.encode())
    mirror = LogMirror.open(
        folder / "view.db", trust=world.trust, genesis=world.genesis
    )
    mirror.extend(0, world.entries, world.note())
    mirror.close()
    return folder


def accept(world: World, folder: Path) -> None:
    mirror = LogMirror.open(
        folder / "view.db", trust=world.trust, genesis=world.genesis
    )
    mirror.accept_checkpoint(world.note(), world.now)
    mirror.close()


def test_a_mirror_and_a_bundle_show_the_same_log(world: World, tmp_path: Path) -> None:
    folder = node_of(world, tmp_path / "fr")
    with refused(IncompleteError, "checkpoint-missing"):
        open_view(node=folder, bundle=None)
    accept(world, folder)
    bundle_of(world, tmp_path)
    mirrored = open_view(node=folder, bundle=None)
    bundled = open_view(node=None, bundle=tmp_path / "bundle")
    assert mirrored.entries == bundled.entries == tuple(world.entries)
    assert mirrored.seen == bundled.seen == world.seen()
    assert mirrored.genesis == world.genesis
    assert mirrored.trust == bundled.trust == world.trust
    assert mirrored.state.root == bundled.state.root


def test_entries_that_are_not_cosigned_yet_are_no_part_of_it(
    world: World, tmp_path: Path
) -> None:
    folder = node_of(world, tmp_path / "fr")
    accept(world, folder)
    size = len(world.entries)
    world.change_policy(max_attempt=7)
    mirror = LogMirror.open(
        folder / "view.db", trust=world.trust, genesis=world.genesis
    )
    mirror.extend(size, world.entries[size:], world.note())
    mirror.close()
    assert len(open_view(node=folder, bundle=None).entries) == size
    accept(world, folder)
    view = open_view(node=folder, bundle=None)
    assert view.logged.policy.version == 1
    assert view.state.policy.version == 2  # as the next entry finds it


def test_an_entry_is_proven(world: World) -> None:
    view = view_of(world.entries, note=world.note(), founding=world.trust)
    proof = Proof.parse(view.proof(4))
    proof.verify(world.entries[4], world.trust)
    with refused(ConfigError, "entry-missing"):
        view.proof(len(world.entries))


def test_one_copy_of_a_log_is_named(tmp_path: Path) -> None:
    for node, bundle in ((None, None), (tmp_path, tmp_path)):
        with refused(ConfigError, "usage"):
            open_view(node=node, bundle=bundle)
    with refused(ConfigError, "file-missing"):
        open_view(node=tmp_path, bundle=None)
    (tmp_path / "node.toml").write_text("name = 'fr'\n")
    with refused(IncompleteError, "mirror-empty"):
        open_view(node=tmp_path, bundle=None)
    with pytest.raises(TapestryError):
        open_view(node=None, bundle=tmp_path)
    with refused(IncompleteError, "log-empty"):
        view_of((), note=b"", founding=World().trust)


def test_an_entry_beyond_the_checkpoint_has_the_checkpoint_alone(world: World) -> None:
    note = world.note(world.entries[:7])
    view = view_of(world.entries, note=note, founding=world.trust)
    assert view.proof(7) == view.proof(8) == note
    Proof.parse(view.proof(6))


def charter_of(world: World) -> OpenedCharter:
    """The charter of a world, as its file is read."""
    state = world.folded
    requests: Any = {n: SimpleNamespace(request=world.request(n)) for n in NAMES}
    return OpenedCharter(
        entry=world.entries[0],
        federation=state.federation,
        body=state.charter,
        requests=requests,
    )


def test_a_charter_leads_to_who_leads_the_log_that_it_founded(
    world: World, tmp_path: Path
) -> None:
    charter, trust = charter_of(world), world.trust.encode()
    bundle_of(world, tmp_path)
    before = founded_log(tmp_path / "bundle", charter, since=None, now=world.now).lead
    assert before.log == charter.body.log
    world.decide(new_coordinator(world))
    world.log_key, later = new_key(world.log_key.name), tmp_path / "later"
    later.mkdir()
    bundle_of(world, later, turns=[world.note()])
    (later / "bundle" / "trust-policy.txt").write_bytes(trust)
    write_manifest(later / "bundle")
    after = founded_log(later / "bundle", charter, since=None, now=world.now).lead
    assert after.log == str(world.log_key.verify_key)


def test_a_log_of_the_same_members_with_another_charter_is_refused(
    world: World, tmp_path: Path
) -> None:
    other = World()
    other.now += timedelta(days=1)
    bundle_of(other.found(), tmp_path)
    bundle, now = tmp_path / "bundle", other.now
    state = founded_log(bundle, charter_of(other), since=None, now=now)
    assert state.genesis == other.genesis
    with refused(VerificationError, "genesis-differs", match="of this federation"):
        founded_log(bundle, charter_of(world), since=None, now=now)


def test_a_log_as_it_was_before_a_vote_shows_no_newcomer_who_leads_it(
    world: World, tmp_path: Path
) -> None:
    bundle_of(world, tmp_path)
    bundle, charter = tmp_path / "bundle", charter_of(world)
    age = timedelta(seconds=world.folded.policy.max_checkpoint_age)
    state = founded_log(bundle, charter, since=None, now=world.now + age)
    assert state.genesis == world.genesis
    for days, code in ((2, "checkpoint-too-old"), (-2, "checkpoint-from-future")):
        with refused(PolicyError, code):
            now = world.now + timedelta(days=days)
            founded_log(bundle, charter, since=None, now=now)


def test_after_a_year_a_checkpoint_that_was_kept_is_needed(
    world: World, tmp_path: Path
) -> None:
    charter = charter_of(world)
    world.now += timedelta(days=300)
    kept = world.note()
    world.now += timedelta(days=100)
    world.add(world.declaration("fr"), "fr", "node")
    bundle_of(world, tmp_path)
    with refused(IncompleteError, "trust-too-old"):
        founded_log(tmp_path / "bundle", charter, since=None, now=world.now)
    state = founded_log(tmp_path / "bundle", charter, since=kept, now=world.now)
    assert state.size == len(world.entries)
