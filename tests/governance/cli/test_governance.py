"""``tapestry governance``: a key under a passphrase, and an acceptance with it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tapestry.encrypted_keys import load_encrypted
from tapestry.keys import VerifyKey
from tapestry_governance.cli import governance
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import CharterAccepted
from tapestry_governance.founding_files import bind_charter
from tests.support.commands import Result, tapestry
from tests.support.founders import Founders
from tests.support.founding_place import PASSPHRASE, ok, refuses

NAMES = ("nordland", "ostrava", "sueden")


@pytest.fixture
def phrase(tmp_path: Path) -> Path:
    (tmp_path / "pass").mkdir()
    path = tmp_path / "pass" / "phrase"
    path.write_text(PASSPHRASE)
    path.chmod(0o600)
    return path


@pytest.fixture
def founders() -> Founders:
    return Founders.of(NAMES)


@pytest.fixture
def vault(tmp_path: Path, founders: Founders) -> Path:
    """Sueden's vault: its root key, open, its request, and the charter."""
    folder = tmp_path / "vault"
    folder.mkdir()
    sent = founders.requests()
    entry = founders.entry(sent)
    (folder / "rivers.charter").write_bytes(bind_charter(entry, sent).encode())
    (folder / "sueden.request").write_bytes(sent[2].encode())
    founders.keys["sueden"]["root"].save(folder / "root.key")
    return folder


def _accept(vault: Path, *more: object, typed: str | None = None) -> Result:
    return tapestry(
        *("governance", "accept", vault / "rivers.charter"),
        *("--key", vault / "root.key", "--request", vault / "sueden.request", *more),
        typed=typed,
    )


def _fingerprint(vault: Path) -> str:
    found = ok(tapestry("governance", "fingerprint", vault / "rivers.charter"))
    return found.stdout.strip()


def test_a_fingerprint_is_printed_for_programs_too(vault: Path) -> None:
    words = ("governance", "fingerprint", vault / "rivers.charter", "--json")
    assert json.loads(ok(tapestry(*words)).stdout) == {
        "fingerprint": _fingerprint(vault)
    }


def test_a_key_is_made_once_under_a_passphrase(tmp_path: Path, phrase: Path) -> None:
    file = tmp_path / "root.key"
    words = ("governance", "key", file, "--name", "sueden", "--passphrase-file", phrase)
    found = json.loads(ok(tapestry(*words, "--json")).stdout)
    public = (tmp_path / "root.pub").read_text("ascii")
    assert public == f"{found['key']}\n"
    key = load_encrypted(file, passphrase=PASSPHRASE)
    assert key.verify_key == VerifyKey.parse(found["key"])
    before = file.read_bytes()
    (tmp_path / "root.pub").unlink()  # as a crash would leave it
    ok(tapestry(*words))
    assert file.read_bytes() == before
    assert (tmp_path / "root.pub").read_text("ascii") == public
    other = [*words[:4], "ostrava", *words[5:]]
    refuses(tapestry(*other), 64, "file-exists")
    assert file.read_bytes() == before


def test_a_public_key_of_something_else_stays(tmp_path: Path, phrase: Path) -> None:
    words = ("governance", "key", tmp_path / "id", "--name", "sueden")
    public = tmp_path / "id.pub"
    public.write_text("ssh-ed25519 AAAA mine\n")
    said = refuses(tapestry(*words, "--passphrase-file", phrase), 64, "file-exists")
    assert str(public) in said
    assert not (tmp_path / "id").exists()
    public.unlink()
    ok(tapestry(*words, "--passphrase-file", phrase))
    ok(tapestry(*words, "--passphrase-file", phrase))
    public.write_text("ssh-ed25519 AAAA mine\n")
    refuses(tapestry(*words, "--passphrase-file", phrase), 64, "file-exists")
    assert public.read_text() == "ssh-ed25519 AAAA mine\n"


def test_a_key_file_that_a_crash_left_empty_is_made_again(
    tmp_path: Path, phrase: Path
) -> None:
    file = tmp_path / "root.key"
    file.touch(mode=0o600)
    words = ("governance", "key", file, "--name", "sueden", "--passphrase-file", phrase)
    ok(tapestry(*words))
    load_encrypted(file, passphrase=PASSPHRASE)


@pytest.mark.parametrize(
    ("file", "name", "code"),
    [
        ("root.pub", "sueden", "usage"),  # its public half would replace it
        ("root.key", "Süden", "name-invalid"),
        ("root.key", "a b", "name-invalid"),
    ],
)
def test_a_wrong_name_makes_no_key(
    tmp_path: Path, phrase: Path, file: str, name: str, code: str
) -> None:
    words = ("governance", "key", tmp_path / file, "--name", name)
    refuses(tapestry(*words, "--passphrase-file", phrase), 64, code)
    assert [path.name for path in tmp_path.iterdir()] == ["pass"]


def test_a_charter_is_shown_without_its_fingerprint(vault: Path) -> None:
    charter, right = vault / "rivers.charter", _fingerprint(vault)
    shown = ok(tapestry("governance", "show", charter)).stdout
    listed = ok(tapestry("governance", "show", charter, "--json")).stdout
    assert right[:4] not in shown
    assert right[:4] not in listed.upper().split()
    for name in NAMES:
        assert re.search(
            f"^member       {name}: 1200 records or more, de$", shown, re.M
        )
    authority = json.loads(listed)["charter"]["authority"]
    assert f"\nauthority    {authority}, of its certificate\n" in shown
    assert json.loads(listed)["federation"] == "rivers"
    assert set(json.loads(listed)["members"]) == set(NAMES)


def test_an_acceptance_names_the_readers(vault: Path) -> None:
    heard = ("--heard", "ostrava", "--heard", "nordland")
    said = ok(_accept(vault, "--fingerprint", _fingerprint(vault), *heard)).stdout
    assert "after tapestry node join" in said
    entry = (vault / "sueden.acceptance").read_bytes()
    body = open_entry(entry).event.body
    assert isinstance(body, CharterAccepted)
    assert body.readers == ("nordland", "ostrava")


def test_another_key_than_root_accepts_nothing(vault: Path, founders: Founders) -> None:
    (vault / "root.key").unlink()
    founders.keys["sueden"]["node"].save(vault / "root.key")
    refuses(_accept(vault), 64, "key-not-in-charter")
    assert not list(vault.glob("*.acceptance"))


def test_nobody_is_asked_without_a_terminal(vault: Path) -> None:
    refuses(_accept(vault), 64, "fingerprint-missing")
    refuses(_accept(vault, "--fingerprint", ""), 2, "fingerprint-differs")
    right = _fingerprint(vault)
    refuses(_accept(vault, "--fingerprint", right), 64, "readers-missing")
    assert not list(vault.glob("*.acceptance"))


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["{right}", "nordland, ostrava"], 0),
        (["{lower}", " ostrava nordland"], 0),
        (["{right}", "nordland"], 2),
        (["{right}", ""], 2),
        (["7KQX", "nordland, ostrava"], 2),
        (["{right}"], 3),  # the terminal was closed
        ([], 3),
    ],
    ids=str,
)
def test_a_person_types_what_was_heard(
    vault: Path, monkeypatch: pytest.MonkeyPatch, lines: Sequence[str], status: int
) -> None:
    monkeypatch.setattr(governance, "is_terminal", lambda: True)
    right = _fingerprint(vault)
    typed = [line.format(right=right, lower=right.lower()) for line in lines]
    result = _accept(vault, typed="".join(f"{line}\n" for line in typed))
    assert result.exit_code == status, result.stderr
    assert right not in result.stderr + result.stdout
    assert (vault / "sueden.acceptance").exists() == (status == 0)


def test_options_that_contradict_are_refused(vault: Path) -> None:
    charter = vault / "rivers.charter"
    key, request = ("--key", vault / "root.key"), ("--request", vault / "x")
    for options in (
        (),
        key,
        request,
        ("--node", vault, *key),
        ("--node", vault, *request),
    ):
        refuses(tapestry("governance", "accept", charter, *options), 64, "usage")
