"""Folders as the product leaves them, made once; each case damages a copy.

::

    demo/        releases/, adapters/, bundle/ of two small matrices
    bundle/      a federation's, with releases, sums and evidence
    idle/        a node's folder before its first round; each record has a canary
    used/        one that took part in a round
    coordinator/ of that round
    base/        the tiny model
    begun/       a demo that was begun
    founding/    four parties; one founder has not accepted the charter yet
    opened/      the same with a log, before the first round
    backup/      of the node in used/
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tapestry.artifacts.manifest import write as write_manifest
from tapestry.artifacts.model_writer import write_model
from tapestry.encoding import encode_base64
from tapestry.encrypted_keys import load_key
from tapestry_demo.demo_folder import Record
from tapestry_node.status_file import StatusFile
from tests.support.adapter_folders import make_demo
from tests.support.commands import tapestry
from tests.support.federation import NAMES, Base, Federation
from tests.support.founding_place import NAMES as FOUNDERS
from tests.support.founding_place import PASSPHRASE, Place, asked, ok

CANARY = "quorvibandelthuzpemmoxarvigtelunesk"  # a word that no message has by chance
FINGERPRINT = "fingerprint"  # of the charter of founding/ and opened/
KEY_PART = 24  # characters of a key that are told by chance in no message
_TRANSPORT = {
    "superlink": "127.0.0.1:9092",
    "root_certificates": "authority.pem",
    "auth_key": "keys/transport",
    "poll_seconds": "0.1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimens:
    """The folders, and what none of their readers may print."""

    folder: Path
    secrets: frozenset[str]


def make_specimens(folder: Path, base: Base) -> Specimens:
    """Make all of them in an empty folder."""
    make_demo(folder / "demo")
    settings = {"transport": _TRANSPORT}
    federation = Federation(folder / "federation", base, institution=settings)
    node = federation.directory / "nodes" / NAMES[0]
    (node / "authority.pem").touch()
    (node / "keys" / "transport").touch(mode=0o600)
    ignored = shutil.ignore_patterns("*.db*", "*.lock")
    shutil.copytree(node, folder / "idle", ignore=ignored)
    rows = [json.dumps({"text": f"{CANARY} number {number}"}) for number in range(30)]
    (folder / "idle" / "data" / "text.jsonl").write_text("\n".join(rows))
    federation.run()
    federation.close()
    federation.bundle()
    node.rename(folder / "used")
    StatusFile(folder / "used", superlink="127.0.0.1:9092").starting()
    federation.coordinator.rename(folder / "coordinator")
    (federation.directory / "bundle").rename(folder / "bundle")
    shutil.rmtree(federation.directory)
    write_model(folder / "base", base.workload.given, card=None)
    write_manifest(folder / "base")
    (folder / "begun").mkdir()
    Record(engine="inprocess", base="tiny", done=["prepare"]).write(folder / "begun")
    ok(tapestry("node", "backup", folder / "used", "-o", folder / "backup"))
    (folder / FINGERPRINT).write_text(_found(folder))
    return Specimens(folder=folder, secrets=frozenset(_secrets(folder)))


def _found(folder: Path) -> str:
    """Found a federation by its commands; return the charter's fingerprint."""
    *accepted, last = FOUNDERS
    place = asked(folder / "founding")
    ok(place.write_charter())
    for name in accepted:
        ok(place.accept(name))
    opened = Place(shutil.copytree(place.root, folder / "opened"))
    ok(opened.accept(last))
    ok(opened.open())
    return place.fingerprint()


def _secrets(folder: Path) -> set[str]:
    """Collect canary, passphrase and both ends of each private key: random alone."""
    found = {CANARY, PASSPHRASE}
    for path in folder.glob("**/keys/*.key"):
        key = encode_base64(load_key(path, passphrase=PASSPHRASE).seed)
        written = path.read_text().split()[-1]  # of a locked key the box
        is_open = written.startswith("PRIVATE")
        found |= _ends(key) | _ends(written.split("+", 4)[-1] if is_open else written)
    for path in (*folder.glob("**/keys/transport"), *folder.glob("**/tls/*.key")):
        found |= _ends("".join(path.read_text().splitlines()[1:-1]))
    return found


def _ends(key: str) -> set[str]:
    """Return both ends of a key; an empty file has none."""
    assert not key or len(key) >= 2 * KEY_PART - 8
    return {key[:KEY_PART], key[-KEY_PART:]} - {""}
