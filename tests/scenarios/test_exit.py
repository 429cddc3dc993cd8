"""An institution goes on alone: no coordinator, no network, nobody's help."""

import hashlib
import json
import shutil
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tapestry.keys import SigningKey
from tapestry_governance.audit.bundle import MANIFEST
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import MemberLeft
from tests.scenarios.conftest import Found
from tests.support.commands import tapestry
from tests.support.federation import Federation, sentences, write_lines

pytestmark = pytest.mark.slow

NAME = "fr"


@pytest.fixture
def alone(found: Found, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """A federation that trained and approved, 72 hours after its coordinator ended."""
    institutions = {name: {"adapter": {"publish": False}} for name in ("fi", "id")}
    federation = found(
        train=True, coordinator={"adapters": True}, institutions=institutions
    )
    federation.now = -timedelta(hours=72)  # commands read this machine's clock
    node = federation.directory / "nodes" / NAME
    write_lines(node / "held-out.jsonl", sentences(NAME, 60)[-6:])
    federation.run()
    federation.approve()
    federation.cosign()
    view = federation.view(NAME)
    times = [line.time for line in view.trust.open(view.note).cosignatures]
    assert max(times) < time.time() - 71 * 3600
    shutil.rmtree(federation.coordinator)
    federation.now += timedelta(hours=72)

    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError("this machine has no network")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    return federation


def test_a_member_leaves_and_uses_what_it_owns_without_coordinator_and_network(
    alone: Federation, tmp_path: Path
) -> None:
    node, place = alone.directory / "nodes" / NAME, tmp_path / "export"
    left = tapestry("node", "leave", node, "--confirm", NAME)
    assert left.exit_code == 0, left.stderr
    done = tapestry("node", "export", node, "-o", place)  # while the node runs
    assert done.exit_code == 0, done.stdout + done.stderr
    assert f"{place}: base-1, {NAME}-1; " in done.stdout
    alone.close()
    shutil.rmtree(alone.directory)

    for line in (place / MANIFEST).read_text().splitlines():
        hexdigest, name = line.split("  ")
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == hexdigest
    event = open_entry((place / f"{NAME}.left").read_bytes()).event
    assert (event.actor, event.body) == (NAME, MemberLeft())

    base, adapter = place / "releases" / "base-1", place / "adapters" / f"{NAME}-1"
    for words in (
        ("audit", "verify", place / "bundle"),
        ("audit", "trace", place / "bundle", "base-1"),
        ("audit", "statement", place / "bundle", NAME),
        ("release", "verify", base),
        ("adapter", "verify", adapter),
    ):
        said = tapestry(*words)
        assert said.exit_code == 0, (words, said.stdout, said.stderr)
    asked = tapestry(
        *("chat", "--base", base, "--adapter", adapter),
        *("--prompt", "la mer", "--max-tokens", 4, "--json"),
    )
    assert asked.exit_code == 0, asked.stderr
    assert set(json.loads(asked.stdout)["answers"]) == {"base", f"{NAME}-1"}


def test_an_export_that_was_changed_does_not_verify(
    alone: Federation, tmp_path: Path
) -> None:
    place = tmp_path / "export"
    tapestry("node", "export", alone.directory / "nodes" / NAME, "-o", place)
    proof = place / "releases" / "base-1" / "tapestry" / "release.tlog-proof"
    kept = proof.read_bytes()
    proof.write_bytes(kept.replace(b"index ", b"index 1", 1))
    assert tapestry("release", "verify", proof.parents[1]).exit_code == 1
    proof.write_bytes(kept)
    assert tapestry("release", "verify", proof.parents[1]).exit_code == 0
    stranger = SigningKey.generate("simulated.example/log")
    trust = tmp_path / "other.txt"
    held = (place / "bundle" / "trust-policy.txt").read_text().splitlines()
    held[0] = f"log {stranger.verify_key}"
    trust.write_text("\n".join(held) + "\n")
    said = tapestry("audit", "verify", place / "bundle", "--trust", trust)
    assert said.exit_code == 1
