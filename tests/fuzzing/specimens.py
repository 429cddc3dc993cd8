"""Folders as the product leaves them, made once; each case damages a copy.

::

    demo/        releases/, adapters/, bundle/ of two small matrices
    bundle/      a federation's, with releases, sums and evidence
    idle/        a node's folder before its first round; each record has a canary
    used/        one that took part in a round
    coordinator/ of that round
    base/        the tiny model
    begun/       a demo that was begun
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tapestry.artifacts.manifest import write as write_manifest
from tapestry.artifacts.model_writer import write_model
from tapestry_demo.demo_folder import Record
from tests.support.adapter_folders import make_demo
from tests.support.federation import NAMES, Base, Federation

CANARY = "quorvibandelthuzpemmoxarvigtelunesk"  # a word that no message has by chance
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
    federation.coordinator.rename(folder / "coordinator")
    (federation.directory / "bundle").rename(folder / "bundle")
    shutil.rmtree(federation.directory)
    write_model(folder / "base", base.workload.given, card=None)
    write_manifest(folder / "base")
    (folder / "begun").mkdir()
    Record(engine="inprocess", base="tiny", done=["prepare"]).write(folder / "begun")
    return Specimens(folder=folder, secrets=frozenset(_secrets(folder)))


def _secrets(folder: Path) -> set[str]:
    """Collect the canary and both ends of each private key: long and random alone."""
    found = {CANARY}
    for path in folder.glob("*/keys/*.key"):
        key = path.read_text().strip().split("+", 4)[-1]
        assert len(key) >= 2 * KEY_PART - 8, path.name
        found |= {key[:KEY_PART], key[-KEY_PART:]}
    return found
