"""``coordinator init``, ``charter`` and ``open`` refuse before anything is written."""

import json
from pathlib import Path

import pytest

from tapestry_coordinator.coordinator_folder import init, write_charter
from tapestry_coordinator.settings import CoordinatorSettings
from tests.support.commands import tapestry
from tests.support.founders import Founders
from tests.support.founding_place import Place, broken, ok, refuses
from tests.support.log_world import World


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.make(tmp_path / "place")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--address", "rivers.example", "address"),
        ("--address", "rivers.example:port", "address"),
        ("--address", "a b:443", "address"),
        ("--address", "rivers.example:0", "address"),
        ("--address", "rivers.example:65536", "address"),
        ("--address", "rivers.example:99999", "address"),
        ("--address", "[::1]:00000", "address"),
        ("--federation", "Große", "federation"),
        ("--origin", "a+b", "origin"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_made(
    place: Place, option: str, value: str, said: str
) -> None:
    result = place.coordinator_init(option, value)
    assert f"{said}: " in refuses(result, 64, "setting-invalid")
    assert not place.coordinator.exists()


def test_a_passphrase_file_beside_the_key_is_refused(place: Place) -> None:
    beside = place.coordinator / "keys" / "phrase"
    result = place.coordinator_init("--passphrase-file", beside)
    refuses(result, 64, "passphrase-beside-key")
    assert not place.coordinator.exists()


def test_init_without_a_terminal_wants_a_file(place: Place) -> None:
    words = ("--federation", "rivers", "--address", "x.example:443", "--base", "tiny")
    result = tapestry("coordinator", "init", place.coordinator, *words)
    refuses(result, 64, "passphrase-missing")
    assert not place.coordinator.exists()


def test_an_unknown_base_is_refused(place: Place) -> None:
    result = place.coordinator_init(base="no-such-base")
    assert result.exit_code == 64
    assert "no-such-base" in result.stderr
    assert not place.coordinator.exists()


@pytest.mark.slow
def test_init_says_what_it_made_also_to_programs(place: Place) -> None:
    found = json.loads(ok(place.coordinator_init("--json")).stdout)
    assert found["invitation"] == str(place.invitation)
    assert found["policy"] == str(place.coordinator / "policy.toml")
    assert found["base"].startswith("sha256:")
    known = place.files()
    assert known["rivers/keys/authority.key"][0].startswith(b"tapestry-encrypted-key/1")
    certificate = place.coordinator / "tls" / "superlink.pem"
    before = certificate.read_bytes()
    phrase = ("--passphrase-file", place.passphrase)
    words = ("coordinator", "renew", place.coordinator, *phrase, "--json")
    assert json.loads(ok(tapestry(*words)).stdout) == {"certificate": str(certificate)}
    assert certificate.read_bytes() != before
    place.passphrase.unlink()
    ok(place.coordinator_init())  # needs it no more
    assert known.keys() - place.files().keys() == {"pass/phrase"}


def test_renew_with_a_wrong_passphrase_changes_nothing(place: Place) -> None:
    ok(place.coordinator_init())
    place.passphrase.write_text("correct horse batteries\n", "utf-8")
    before = place.files()
    phrase = ("--passphrase-file", place.passphrase)
    result = tapestry("coordinator", "renew", place.coordinator, *phrase)
    said = refuses(result, 64, "passphrase-wrong")
    assert "authority.key does not open with this passphrase" in said
    assert place.files() == before


@pytest.mark.parametrize("what", ["missing", "fifo", "folder", "garbage", "too large"])
@pytest.mark.parametrize("verb", ["charter", "open"])
def test_a_file_that_is_none_is_named(
    place: Place, prepared: Path, verb: str, what: str
) -> None:
    path = place.root / "sent"
    broken(path, what)
    words = ("coordinator", verb, prepared, path)
    status, code = {"missing": (64, "file-unreadable")}.get(what, (1, ""))
    result = tapestry(*words)
    said = result.stderr.strip()
    assert result.exit_code == status, said
    assert "sent" in said
    assert "\n" not in said
    assert said.endswith(f"{code}]")
    assert not (prepared / "log").exists()


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A coordinator's folder whose charter was written, without commands."""
    folder = tmp_path / "prepared"
    founders = Founders.of(("nordland", "ostrava", "sueden"))
    init(
        folder,
        CoordinatorSettings(
            federation="rivers", origin="rivers/log", address="rivers.example:443"
        ),
        workload="language",
        base="tiny",
        policy=World().policy(),
        passphrase=None,
    )
    paths = []
    for sent in founders.requests():
        paths.append(tmp_path / f"{sent.request.name}.request")
        paths[-1].write_bytes(sent.encode())
    write_charter(folder, paths)
    return folder


@pytest.mark.parametrize("verb", ["charter", "open"])
def test_a_folder_that_is_none_is_named(place: Place, verb: str) -> None:
    result = tapestry("coordinator", verb, place.coordinator, place.passphrase)
    assert "coordinator.toml" in refuses(result, 64, "file-missing")
