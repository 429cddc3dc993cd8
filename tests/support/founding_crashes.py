"""Kill the commands of a founding before each durable step, and run them again.

Run as a process of its own, since it forks: ``python -m tests.support.founding_crashes
FOLDER COMMAND`` prints how many steps the command was killed before.
"""

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tapestry import encrypted_keys
from tapestry.encrypted_keys import is_encrypted, load_key
from tapestry.keys import SigningKey
from tapestry.storage import durable_files
from tapestry.workloads.workload_registry import open_workload
from tapestry_governance.founding_files import RequestFile
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.replay import apply_all
from tests.support.commands import Result, tapestry
from tests.support.founding_place import NAMES, PASSPHRASE, Place, ok

STEPS = ("fsync", "rename", "replace", "mkdir", "unlink")


def _derive(passphrase: str, salt: bytes, *, cost: int) -> bytes:
    """Take the place of scrypt, which costs half a second a try."""
    return hashlib.sha256(passphrase.encode() + salt + bytes([cost])).digest()


def _die_before(step: int) -> None:
    """Send this process SIGKILL before the n-th step that reaches the disk."""
    left = step

    def counted(act: Callable[..., object]) -> Callable[..., object]:
        def counting(*arguments: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*arguments, **named)

        return counting

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def _dies(act: Callable[[], Result], step: int) -> bool:
    """Act in a child that dies before a step; False if it did not get there."""
    child = os.fork()
    if child == 0:
        _die_before(step)
        os._exit(act().exit_code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _seeds(place: Place) -> dict[str, bytes]:
    """The seeds of all keys in folders that are not drafts."""
    return {
        path.relative_to(place.root).as_posix(): load_key(
            path, passphrase=PASSPHRASE if is_encrypted(path) else None
        ).seed
        for path in place.root.rglob("keys/*.key")
    }


def _key(place: Place) -> Result:
    words = ("governance", "key", place.root / "vault" / "root.key", "--name", "sueden")
    durable_files.make_folders(place.root / "vault")
    return tapestry(*words, "--passphrase-file", place.passphrase)


def _check_init(place: Place) -> None:
    assert len(list((place.coordinator / "keys").iterdir())) == 3
    assert place.invitation.exists()
    for name in ("coordinator.toml", "policy.toml", "tls/superlink.pem"):
        assert (place.coordinator / name).exists()


def _check_node(place: Place) -> None:
    assert len(list((place.node("sueden") / "keys").iterdir())) == 6
    sent = RequestFile.decode(place.request("sueden").read_bytes())
    key = SigningKey.load(place.node("sueden") / "keys" / "node.key")
    assert sent.request.node == str(key.verify_key)
    assert (place.data("sueden") / "corpus.toml").stat().st_size


def _check_joined(place: Place) -> None:
    text = (place.node("sueden") / "node.toml").read_text("utf-8")
    assert text.count("genesis = ") == 1
    assert (place.node("sueden") / "trust-policy.txt").exists()
    assert place.acceptance("sueden").exists()


def _check_log(place: Place) -> None:
    key = SigningKey.load(place.coordinator / "keys" / "log.key")
    state = apply_all(None, Log.read(place.coordinator / "log", key=key))
    assert state is not None
    assert state.is_founded
    assert len(list((place.coordinator / "enrolled").iterdir())) == len(NAMES)


def _check_charter(place: Place) -> None:
    ok(tapestry("governance", "show", place.charter))


def _check_key(place: Place) -> None:
    assert (place.root / "vault" / "root.pub").read_text("ascii").endswith("\n")


Step = tuple[Callable[[Place], Result], Callable[[Place], None]]
COMMANDS: dict[str, Step] = {
    "coordinator init": (lambda place: place.coordinator_init(), _check_init),
    "node init": (lambda place: place.node_init("sueden"), _check_node),
    "coordinator charter": (lambda place: place.write_charter(), _check_charter),
    "governance accept": (lambda place: place.accept("sueden"), _check_joined),
    "coordinator open": (lambda place: place.open(), _check_log),
    "governance key": (_key, _check_key),
}


def _prepare(place: Place, name: str) -> None:
    """Take a founding to where a command is next."""
    if name in {"coordinator init", "governance key"}:
        return
    ok(place.coordinator_init())
    if name == "node init":
        return
    for member in NAMES:
        ok(place.node_init(member))
    if name == "coordinator charter":
        return
    ok(place.write_charter())
    if name == "coordinator open":
        for member in NAMES:
            ok(place.accept(member))


def main(folder: Path, name: str) -> None:
    """Kill a command before each step, on a new copy each time; print how often."""
    encrypted_keys._derive = _derive  # noqa: SLF001  what it derives is tested elsewhere
    before = Place.make(folder / "before")
    _prepare(before, name)
    open_workload("language", "tiny")  # its imports, before any fork
    act, check = COMMANDS[name]
    step, died = 0, True
    while died:
        step += 1
        shutil.rmtree(folder / "work", ignore_errors=True)
        place = Place(before.copy(folder / "work").root)
        died = _dies(lambda: act(place), step)  # noqa: B023  called here
        survived = _seeds(place)
        if (place.coordinator / "log").exists():
            _check_log_is_whole(place)
        ok(act(place))
        check(place)
        assert survived.items() <= _seeds(place).items()
        assert not list(place.root.rglob("*.new*"))
    sys.stdout.write(f"{step - 1}\n")


def _check_log_is_whole(place: Place) -> None:
    key = SigningKey.load(place.coordinator / "keys" / "log.key")
    assert len(Log.read(place.coordinator / "log", key=key)) == 1 + len(NAMES)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
