"""Passphrases: typed twice or read from a file that lies elsewhere, and never shown."""

import getpass
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.cli import passphrases
from tapestry.cli.passphrases import ask, known_passphrase, new_passphrase
from tapestry.errors import ConfigError
from tests.support.refusals import refused

GOOD = "correct horse battery café"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    (tmp_path / "sueden" / "keys").mkdir(parents=True)
    return tmp_path / "sueden" / "keys" / "root.key"


def _file(place: Path, text: str | bytes = f"{GOOD}\n", mode: int = 0o600) -> Path:
    path = place / "phrase"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def _types(monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[str]:
    """Let a person type these at a terminal; returns what was asked."""
    typed: Iterator[str] = iter(lines)
    asked: list[str] = []

    def types(prompt: str) -> str:
        asked.append(prompt)
        return next(typed)

    monkeypatch.setattr(passphrases, "is_terminal", lambda: True)
    monkeypatch.setattr(getpass, "getpass", types)
    return asked


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\nsecond line\n"])
def test_a_file_holds_the_passphrase_in_its_first_line(
    tmp_path: Path, key: Path, end: str
) -> None:
    file = _file(tmp_path, GOOD + end)
    assert new_passphrase(key, file) == known_passphrase(key, file) == GOOD


def test_a_file_beside_the_key_is_refused_whatever_path_leads_there(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _file(key.parent)
    (tmp_path / "link").symlink_to(key.parent)
    (tmp_path / "phrase").symlink_to(file)
    monkeypatch.chdir(key.parent)
    for path in (
        *(file, tmp_path / "link" / "phrase", tmp_path / "phrase", Path("phrase")),
        key.parent / ".." / "keys" / "phrase",
    ):
        for read in (new_passphrase, known_passphrase):
            with refused(ConfigError, "passphrase-beside-key", match="elsewhere"):
                read(key, path)
    with refused(ConfigError, "passphrase-beside-key"):
        new_passphrase(Path("root.key"), file)


def test_a_file_in_the_folder_that_has_the_keys_is_refused(
    tmp_path: Path, key: Path
) -> None:
    below = key.parent.parent / "secrets" / "deep"
    below.mkdir(parents=True)
    (tmp_path / "vault").mkdir()
    (tmp_path / "link").symlink_to(key.parent.parent)
    for path, file in (
        (key, _file(key.parent.parent)),
        (key, _file(below)),
        (tmp_path / "link" / "keys" / "root.key", _file(below)),
    ):
        with refused(ConfigError, "passphrase-beside-key", match="elsewhere"):
            known_passphrase(path, file)
    key.parent.rmdir()
    key.parent.symlink_to(tmp_path / "vault")
    with refused(ConfigError, "passphrase-beside-key"):
        known_passphrase(key, _file(below))
    with refused(ConfigError, "passphrase-beside-key"):
        known_passphrase(key, _file(tmp_path / "vault"))
    assert known_passphrase(key, _file(tmp_path)) == GOOD


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610])
def test_a_file_that_is_open_to_others_is_refused(
    tmp_path: Path, key: Path, mode: int
) -> None:
    with refused(ConfigError, "key-file-not-private", match="chmod 600"):
        new_passphrase(key, _file(tmp_path, mode=mode))


@pytest.mark.parametrize("text", ["", "\n", b"\xff\xfe", "x" * 5000])
def test_a_file_without_a_passphrase_is_refused(
    tmp_path: Path, key: Path, text: str | bytes
) -> None:
    for read in (new_passphrase, known_passphrase):
        with refused(ConfigError, "passphrase-missing") as caught:
            read(key, _file(tmp_path, text))
        assert "xx" not in str(caught.value)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path, key: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name, code in (
        *(("missing", "file-unreadable"), ("fifo", "passphrase-missing")),
        ("", "passphrase-missing"),
    ):
        with refused(ConfigError, code):
            known_passphrase(key, tmp_path / name)


def test_a_short_passphrase_is_refused_and_not_told(tmp_path: Path, key: Path) -> None:
    with refused(ConfigError, "passphrase-too-short", match="11 char") as caught:
        new_passphrase(key, _file(tmp_path, "hush hushed"))
    assert "hush" not in str(caught.value)


def test_nobody_is_asked_where_there_is_no_terminal(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    for read in (new_passphrase, known_passphrase):
        with refused(ConfigError, "passphrase-missing", match="--passphrase-file"):
            read(key, None)


def test_a_person_types_a_new_passphrase_twice(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _types(monkeypatch, GOOD, GOOD)
    assert new_passphrase(key, None) == GOOD
    assert len(asked) == 2
    _types(monkeypatch, GOOD, f"{GOOD} ")
    with refused(ConfigError, "passphrases-differ") as caught:
        new_passphrase(key, None)
    assert "horse" not in str(caught.value)
    short = _types(monkeypatch, "short", "short")
    with refused(ConfigError, "passphrase-too-short"):
        new_passphrase(key, None)
    assert len(short) == 1  # it is not asked for again
    _types(monkeypatch, GOOD)
    assert known_passphrase(key, None) == GOOD


def test_a_question_is_answered_by_a_line_or_by_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    os.write(write, b" 7KQX M2PA \n")
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert ask("the fingerprint") == "7KQX M2PA"
        with pytest.raises(EOFError, match="nothing was typed"):
            ask("the fingerprint")
    assert capsys.readouterr().out == ""
