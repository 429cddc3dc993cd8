"""A node signs with the key that the log expects, and then forgets the former one."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry.keys import SigningKey, VerifyKey
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.founding import generate_member_key
from tapestry_governance.key_turn import place_key
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.node_keys import KeyRing
from tests.support.key_crashes import NAME, OTHERS, PURPOSES, lay, next_of, take_in
from tests.support.log_world import World
from tests.support.refusals import refused


@pytest.fixture
def world() -> World:
    return World().grow()


@pytest.fixture
def mirror(world: World, tmp_path: Path) -> Iterator[LogMirror]:
    mirror = LogMirror.open(
        tmp_path / "view.db", trust=world.trust, genesis=world.genesis
    )
    lay(world, tmp_path)
    yield mirror
    mirror.close()


def spelled(ring: KeyRing, purpose: str) -> str:
    return str(ring.keys[purpose].verify_key)


def test_without_a_new_key_nothing_changes(
    world: World, mirror: LogMirror, tmp_path: Path
) -> None:
    ring = KeyRing.read(tmp_path, NAME)
    before = {purpose: spelled(ring, purpose) for purpose in PURPOSES}
    ring.follow(mirror)  # an empty one
    take_in(world, mirror)
    ring.follow(mirror)
    assert {purpose: spelled(ring, purpose) for purpose in PURPOSES} == before
    assert ring.other_node_key() is None
    assert len(ring.witnesses) == 1


@pytest.mark.parametrize("purpose", ["node", "community"])
def test_an_entry_is_signed_by_what_the_node_had_accepted(
    world: World, mirror: LogMirror, tmp_path: Path, purpose: str
) -> None:
    world.rotate(NAME, purpose)
    old, new = world.keys[NAME, purpose], world.keys[NAME, f"{purpose}'"]
    next_of(world, tmp_path, purpose)
    ring = KeyRing.read(tmp_path, NAME)
    mirror.extend(0, world.entries, world.note(witnesses=()))
    ring.follow(mirror)
    assert spelled(ring, purpose) == str(old.verify_key)  # it has accepted nothing
    mirror.accept_checkpoint(world.note(witnesses=OTHERS), world.now)
    ring.follow(mirror)
    assert spelled(ring, purpose) == str(new.verify_key)
    keys = tmp_path / "keys"  # no entry has turned it yet: both are there
    assert SigningKey.load(keys / f"{purpose}.key").verify_key == old.verify_key
    assert KeyRing.read(tmp_path, NAME).coming.keys() == {purpose}
    world.keys[NAME, purpose] = new
    world.add(world.declaration("de"), "de", "node")
    take_in(world, mirror)
    ring.follow(mirror)
    assert SigningKey.load(keys / f"{purpose}.key").verify_key == new.verify_key
    assert not (keys / f"{purpose}.next").exists()
    assert spelled(ring, purpose) == str(new.verify_key)
    assert ring.coming == {}


def test_a_checkpoint_is_cosigned_by_what_is_stored(
    world: World, mirror: LogMirror, tmp_path: Path
) -> None:
    """And the former key stays until a quorum has cosigned the turn."""
    world.rotate(NAME, "witness")
    old, new = world.keys[NAME, "witness"], world.keys[NAME, "witness'"]
    next_of(world, tmp_path, "witness")
    ring = KeyRing.read(tmp_path, NAME)
    take_in(world, mirror)
    ring.follow(mirror)
    assert spelled(ring, "witness") == str(old.verify_key)
    assert {key.keyid for key in ring.witnesses} == {
        old.verify_key.keyid,
        new.verify_key.keyid,
    }
    world.add(world.declaration("de"), "de", "node")
    mirror.extend(mirror.size, world.entries[mirror.size :], world.note(witnesses=()))
    ring.follow(mirror)
    assert spelled(ring, "witness") == str(new.verify_key)
    path = tmp_path / "keys" / "witness.key"
    assert SigningKey.load(path).verify_key == old.verify_key
    mirror.accept_checkpoint(world.note(witnesses=OTHERS), world.now)
    ring.follow(mirror)
    assert SigningKey.load(path).verify_key == new.verify_key
    assert [key.keyid for key in ring.witnesses] == [new.verify_key.keyid]


def test_a_round_that_is_open_keeps_its_key_unless_that_is_compromised(
    world: World, mirror: LogMirror, tmp_path: Path
) -> None:
    world.add(RoundOpened(manifest=world.manifest(3)))
    world.rotate(NAME, "node", seed="one")
    next_of(world, tmp_path, "node")
    ring = KeyRing.read(tmp_path, NAME)
    take_in(world, mirror)
    ring.follow(mirror)
    assert spelled(ring, "node") == str(world.keys[NAME, "node"].verify_key)
    assert ring.other_node_key() is not None
    (tmp_path / "keys" / "node.next").unlink()
    world.rotate(NAME, "node", seed="two", reason="compromised")
    next_of(world, tmp_path, "node")
    take_in(world, mirror)
    ring.follow(mirror)
    assert spelled(ring, "node") == str(world.keys[NAME, "node'"].verify_key)


def test_a_new_root_key_takes_the_place_of_the_old_one(
    world: World, mirror: LogMirror, tmp_path: Path
) -> None:
    world.rotate(NAME, "root")
    next_of(world, tmp_path, "root")
    world.add(world.declaration("de"), "de", "node")
    ring = KeyRing.read(tmp_path, NAME)
    take_in(world, mirror)
    ring.follow(mirror)
    found = SigningKey.load(tmp_path / "keys" / "root.key").verify_key
    assert found == world.keys[NAME, "root'"].verify_key


def test_a_key_that_no_entry_names_waits_for_ever(
    world: World, mirror: LogMirror, tmp_path: Path
) -> None:
    world.rotation(NAME, "node")
    next_of(world, tmp_path, "node")
    ring = KeyRing.read(tmp_path, NAME)
    take_in(world, mirror)
    ring.follow(mirror)
    assert spelled(ring, "node") == str(world.keys[NAME, "node"].verify_key)
    assert (tmp_path / "keys" / "node.next").exists()


def test_a_lost_key_is_not_missed_where_a_new_one_waits(
    world: World, tmp_path: Path
) -> None:
    lay(world, tmp_path)
    path = tmp_path / "keys" / "node.key"
    path.unlink()
    with refused(ConfigError, "file-unreadable"):
        KeyRing.read(tmp_path, NAME)
    world.rotation(NAME, "node")
    next_of(world, tmp_path, "node")
    ring = KeyRing.read(tmp_path, NAME)
    assert spelled(ring, "node") == str(world.keys[NAME, "node'"].verify_key)
    assert set(ring.known(world.folded)) == {"witness", "community"}


def test_a_former_key_that_waits_is_no_new_one(world: World, tmp_path: Path) -> None:
    """Of an old copy of the keys both are former ones: the log names neither."""
    lay(world, tmp_path)
    world.rotate(NAME, "node", seed="one")
    next_of(world, tmp_path, "node")
    ring = KeyRing.read(tmp_path, NAME)
    assert "node" not in ring.known(world.folded)  # it is not in force yet
    world.add(world.declaration("de"), "de", "node")
    assert ring.as_of(world.folded)["node"] == ring.coming["node"]
    world.rotate(NAME, "node", seed="two")
    world.add(world.declaration("es"), "es", "node")
    assert spelled(ring, "node") == str(ring.known(world.folded)["node"].verify_key)


def test_a_witness_key_that_is_not_here_is_the_members_own_as_well(
    world: World, tmp_path: Path
) -> None:
    lay(world, tmp_path)
    here = KeyRing.read(tmp_path, NAME)
    lost = [world.keys[NAME, "witness"]]
    for seed in ("one", "two"):
        world.rotate(NAME, "witness", seed=seed)
        world.add(world.declaration("de"), "de", "node")
        lost.append(world.keys[NAME, "witness'"])
    (tmp_path / "keys" / "witness.key").unlink()
    place_key(generate_member_key(NAME, "witness"), tmp_path / "keys" / "witness.key")
    found = KeyRing.read(tmp_path, NAME).witnesses_ever(world.folded)
    assert found >= {key.verify_key.keyid for key in lost}
    assert not found & {
        VerifyKey.parse(member.witness).keyid
        for name, member in world.folded.members.items()
        if name != NAME
    }
    assert here.witnesses == [lost[0].verify_key]


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_each_key_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.key_crashes", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
