"""Kill a node's process at every line in which new keys take their place.

Run as a process of its own, since it forks: ``python -m tests.support.key_crashes
DIRECTORY`` prints how many places it has killed at.
"""

import shutil
import sys
from pathlib import Path

from tapestry.keys import SigningKey
from tapestry.storage import durable_files
from tapestry_governance.key_turn import place_key
from tapestry_governance.log.mirror import LogMirror
from tapestry_node import node_keys
from tapestry_node.node_keys import KeyRing
from tests.support.kills import dies
from tests.support.log_world import World

NAME, OTHERS = "fr", ("de", "es", "id")
PURPOSES = ("node", "witness", "community")
_CODE = (str(node_keys.__file__), str(durable_files.__file__))


def lay(world: World, folder: Path) -> None:
    """Write a member's keys into its folder."""
    (folder / "keys").mkdir()
    for purpose in (*PURPOSES, "root"):
        world.keys[NAME, purpose].save(folder / "keys" / f"{purpose}.key")


def next_of(world: World, folder: Path, purpose: str) -> None:
    """Lay a new key beside the one in force."""
    place_key(world.keys[NAME, f"{purpose}'"], folder / "keys" / f"{purpose}.next")


def take_in(world: World, mirror: LogMirror) -> None:
    """Mirror the log, and accept it by the word of the others."""
    note = world.note(witnesses=OTHERS)
    mirror.extend(mirror.size, world.entries[mirror.size :], note)
    mirror.accept_checkpoint(note, world.now)


def _rotated(folder: Path) -> World:
    """Lay a folder whose new keys are all in force in the mirror."""
    world = World().grow()
    lay(world, folder)
    for purpose in PURPOSES:
        world.rotate(NAME, purpose)
        next_of(world, folder, purpose)
    world.add(world.declaration("de"), "de", "node")
    mirror = _open(world, folder)
    take_in(world, mirror)
    mirror.close()
    return world


def _open(world: World, folder: Path) -> LogMirror:
    return LogMirror.open(folder / "view.db", trust=world.trust, genesis=world.genesis)


def _follow(world: World, folder: Path) -> KeyRing:
    mirror = _open(world, folder)
    try:
        ring = KeyRing.read(folder, NAME)
        ring.follow(mirror)
        return ring
    finally:
        mirror.close()


def _check(world: World, folder: Path) -> None:
    """Require the old key or the new one under each name, and the new one to sign."""
    for purpose in PURPOSES:
        path = folder / "keys" / f"{purpose}.key"
        old, new = world.keys[NAME, purpose], world.keys[NAME, f"{purpose}'"]
        found = SigningKey.load(path).verify_key
        assert found in {old.verify_key, new.verify_key}
        assert (found == new.verify_key) is not path.with_suffix(".next").exists()
    ring = _follow(world, folder)
    for purpose in PURPOSES:
        new = world.keys[NAME, f"{purpose}'"]
        assert ring.keys[purpose].verify_key == new.verify_key
        path = folder / "keys" / f"{purpose}.key"
        assert SigningKey.load(path).verify_key == new.verify_key
        assert not path.with_suffix(".next").exists()


def main(directory: Path) -> None:
    """Kill at every line, each time on a fresh copy; print how often."""
    before, folder = directory / "before", directory / "folder"
    before.mkdir()
    world = _rotated(before)
    line, died = 0, True
    while died:
        line += 1
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        died = dies(lambda: _follow(world, folder), line, _CODE)
        _check(world, folder)
    sys.stdout.write(f"{line - 1}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
