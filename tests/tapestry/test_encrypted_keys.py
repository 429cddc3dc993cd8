"""Keys that a person holds: nothing opens them but the passphrase."""

import unicodedata
from pathlib import Path

import pytest

from tapestry import encrypted_keys
from tapestry.encoding import encode_base64
from tapestry.encrypted_keys import (
    is_encrypted,
    load_encrypted,
    read_public,
    save_encrypted,
)
from tapestry.errors import ConfigError
from tapestry.keys import Algorithm, SigningKey
from tests.support.refusals import refused

PASSPHRASE = "correct horse battery café"  # noqa: S105


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate("sueden/root")


@pytest.fixture(scope="module")
def stored(key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "root.key"
    save_encrypted(key, path, passphrase=PASSPHRASE)
    return path


@pytest.fixture
def path(stored: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "root.key"
    copy.write_bytes(stored.read_bytes())
    copy.chmod(0o600)
    return copy


@pytest.mark.slow
def test_a_key_opens_with_its_passphrase_in_any_normal_form(
    path: Path, key: SigningKey
) -> None:
    for form in ("NFC", "NFD"):
        typed = unicodedata.normalize(form, PASSPHRASE)
        opened = load_encrypted(path, passphrase=typed)
        assert (opened.seed, opened.verify_key) == (key.seed, key.verify_key)
    assert read_public(path) == key.verify_key


def test_the_file_is_private_and_holds_no_secret_in_the_clear(
    stored: Path, key: SigningKey, tmp_path: Path
) -> None:
    assert stored.stat().st_mode & 0o777 == 0o600
    text = stored.read_text("ascii")
    assert encode_base64(key.seed)[:-2] not in text
    assert key.seed.hex() not in text
    other = tmp_path / "again.key"
    save_encrypted(key, other, passphrase=PASSPHRASE)
    assert other.read_text().splitlines()[2:] != text.splitlines()[2:]  # a new salt


@pytest.mark.slow
def test_another_passphrase_opens_nothing(path: Path) -> None:
    for typed in ("correct horse battery cafe", PASSPHRASE + " ", ""):
        with refused(ConfigError, "passphrase-wrong"):
            load_encrypted(path, passphrase=typed)


def test_a_short_passphrase_and_an_existing_file_are_refused(
    path: Path, key: SigningKey, tmp_path: Path
) -> None:
    with refused(ConfigError, "passphrase-too-short", match="11 characters"):
        save_encrypted(key, tmp_path / "new.key", passphrase="a" * 11)
    before = path.read_bytes()
    with refused(ConfigError, "file-exists"):
        save_encrypted(key, path, passphrase=PASSPHRASE)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_no_change_of_a_line_goes_unnoticed(path: Path, key: SigningKey) -> None:
    text = path.read_text("ascii")
    lines = text.split("\n")
    other = SigningKey.generate("sueden/root")
    witness = SigningKey(
        name="sueden/root", algorithm=Algorithm.COSIGNATURE, seed=key.seed
    )
    salt = encode_base64(bytes(16))
    changes = {
        "passphrase-wrong": [
            [lines[0], str(other.verify_key), *lines[2:]],
            [lines[0], str(witness.verify_key), *lines[2:]],
            [*lines[:2], f"scrypt 17 8 1 {salt}", *lines[3:]],
            [*lines[:3], encode_base64(bytes(48)), ""],
        ],
        "key-file-invalid": [
            ["tapestry-encrypted-key/2", *lines[1:]],
            [*lines[:2], lines[2].replace("17", "16", 1), *lines[3:]],  # cheaper
            [*lines[:2], lines[2].replace("17", "30", 1), *lines[3:]],  # 1 TiB
            [*lines[:2], lines[2].replace("17", "+17", 1), *lines[3:]],
            [*lines[:2], lines[2] + " ", *lines[3:]],
            [*lines[:3], lines[3][:-4], ""],
            lines[:4],
            [*lines, ""],
            ["", *lines],
        ],
    }
    for code, cases in changes.items():
        for case in cases:
            path.write_text("\n".join(case))
            with refused(ConfigError, code):
                load_encrypted(path, passphrase=PASSPHRASE)


def test_a_file_says_whether_it_is_encrypted(path: Path, tmp_path: Path) -> None:
    plain = tmp_path / "node.key"
    SigningKey.generate("sueden/node").save(plain)
    assert (is_encrypted(path), is_encrypted(plain)) == (True, False)
    with refused(ConfigError, "key-file-invalid"):
        SigningKey.load(path)
    with refused(ConfigError, "key-file-invalid"):
        load_encrypted(plain, passphrase=PASSPHRASE)
    path.chmod(0o644)
    with refused(ConfigError, "key-file-not-private"):
        load_encrypted(path, passphrase=PASSPHRASE)


def test_a_guess_costs_memory() -> None:
    assert 128 * 8 * 2**encrypted_keys._COST == 128 << 20  # noqa: SLF001
