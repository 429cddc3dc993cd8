"""Keys: one spelling, one purpose, one file that nobody else can read."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.encoding import decode_base64, encode_base64
from tapestry.errors import ConfigError, ProtocolError, ResourceError, VerificationError
from tapestry.keys import Algorithm, SigningKey, VerifyKey
from tests.support.refusals import refused

SEED = bytes(range(32))
NAMES = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="+"),
    min_size=1,
    max_size=40,
)


def _key(algorithm: Algorithm = Algorithm.SIGNATURE) -> SigningKey:
    return SigningKey(name="fr.example/node", algorithm=algorithm, seed=SEED)


@given(name=NAMES, seed=st.binary(min_size=32, max_size=32))
def test_a_verify_key_is_read_as_it_was_printed(name: str, seed: bytes) -> None:
    for algorithm in Algorithm:
        key = SigningKey(name=name, algorithm=algorithm, seed=seed).verify_key
        assert VerifyKey.parse(str(key)) == key


def test_a_verify_key_is_spelled_as_in_gos_notes() -> None:
    """The example of golang.org/x/mod/sumdb/note, printed by its own code."""
    text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    key = VerifyKey.parse(text)
    assert (key.name, key.id.hex()) == ("PeterNeumann", "c74f20a3")
    assert key.algorithm is Algorithm.SIGNATURE
    assert str(key) == text


TEXT = str(_key().verify_key)
STEM = TEXT.rsplit("+", 1)[0]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "key-malformed"),
        (STEM, "base64-not-canonical"),
        (TEXT.replace("+", "-", 1), "key-malformed"),
        (TEXT.replace("fr.example", "de.example"), "key-id-differs"),
        (f"{TEXT}=", "base64-not-canonical"),
        (f" {TEXT}", "key-name-invalid"),
        (f"{TEXT}\n", "base64-not-canonical"),
        (f"{STEM}+{encode_base64(bytes(33))}", "key-malformed"),
        (f"{STEM}+{encode_base64(bytes([1]) + bytes(31))}", "key-malformed"),
    ],
)
def test_another_spelling_of_a_key_is_refused(text: str, code: str) -> None:
    with refused(ProtocolError, code):
        VerifyKey.parse(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "é", "x" * 129, "a\n"])
def test_a_name_that_has_no_spelling_is_refused(name: str) -> None:
    with refused(ProtocolError, "key-name-invalid"):
        SigningKey(name=name, algorithm=Algorithm.SIGNATURE, seed=SEED)


def test_one_seed_for_two_purposes_gives_two_ids() -> None:
    one, other = _key(), _key(Algorithm.COSIGNATURE)
    assert one.verify_key.public == other.verify_key.public
    assert one.verify_key.id != other.verify_key.id


@given(st.binary(max_size=200))
def test_a_signature_holds_for_its_message_and_key_alone(message: bytes) -> None:
    key, other = _key(), SigningKey.generate("fr.example/node")
    signature = key.sign(message)
    key.verify_key.verify(message, signature)
    for public, text, said in (
        (key.verify_key, message + b"x", signature),
        (other.verify_key, message, signature),
        (key.verify_key, message, signature[:-1] + bytes([signature[-1] ^ 1])),
        (key.verify_key, message, b""),
    ):
        with refused(VerificationError, "signature-invalid"):
            public.verify(text, said)


def test_a_signing_key_is_never_shown() -> None:
    key = _key()
    shown = repr(key) + str(key)
    assert "PRIVATE" not in shown
    assert encode_base64(SEED) not in shown
    assert SEED.hex() not in shown


def test_a_key_file_is_the_owners_alone_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    key = _key()
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again = SigningKey.load(path)
    assert again.verify_key == key.verify_key
    assert again.sign(b"x") == key.sign(b"x")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    _key().save(path)
    before = path.read_bytes()
    with refused(ConfigError, "file-exists"):
        SigningKey.generate("other").save(path)
    assert path.read_bytes() == before


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    _key().save(path)
    path.chmod(0o640)
    with refused(ConfigError, "key-file-not-private", match="chmod 600"):
        SigningKey.load(path)


@pytest.mark.parametrize(
    "text",
    ["", "PRIVATE+KEY+", "hello\n", "PRIVATE+KEY+a+00000000+AAAA\n", "é\n"],
)
def test_a_file_that_is_no_key_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "node.key"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with refused(ConfigError, "key-file-invalid"):
        SigningKey.load(path)


def test_a_file_too_large_to_be_a_key_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    _key().save(path)
    os.truncate(path, 1 << 40)
    with refused(ConfigError, "key-file-invalid"):
        SigningKey.load(path)


def test_a_key_under_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    _key().save(path)
    path.write_text(path.read_text().replace("fr.example", "de.example"))
    with refused(ConfigError, "key-file-invalid"):
        SigningKey.load(path)


def test_a_missing_key_or_folder_is_said_in_one_line(tmp_path: Path) -> None:
    with refused(ConfigError, "file-unreadable"):
        SigningKey.load(tmp_path / "none.key")
    with refused(
        ResourceError,
        "file-unwritable",
        match=r"\S+folder\.key: No such",
    ):
        _key().save(tmp_path / "no" / "folder.key")


def test_generated_keys_differ() -> None:
    keys = {SigningKey.generate("a").verify_key.public for _ in range(8)}
    assert len(keys) == 8
    assert all(len(public) == 32 for public in keys)


def test_the_file_holds_the_seed_in_the_known_spelling(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    _key().save(path)
    text = path.read_text()
    assert text.startswith("PRIVATE+KEY+fr.example/node+")
    assert decode_base64(text.rstrip("\n").rsplit("+", 1)[1]) == b"\x01" + SEED
    assert text.endswith("\n")
