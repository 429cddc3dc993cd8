"""Two programs by others must say of a log what we say of it."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tapestry.curve25519 import SMALL_ORDER
from tapestry.encoding import canonical_json, encode_base64
from tapestry.errors import (
    IncompleteError,
    ProtocolError,
    VerificationError,
)
from tapestry.keys import Algorithm, SigningKey, VerifyKey
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.merkle import consistency_proof, leaf_hash
from tapestry.tlog.proof import Proof
from tapestry.tlog.tiles import Tile
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.log.writer import Log
from tests.support.cosigning import (
    LOG_KEY,
    TIME,
    TRUST,
    WITNESSES,
    entry,
    publish,
    signing_key,
    without_line,
)
from tests.support.other_verifiers import SOURCES, holds
from tests.support.outside_witness import trust_of
from tests.support.refusals import refused

KEYS = [str(LOG_KEY.verify_key), *(str(witness.verify_key) for witness in WITNESSES)]
SIZES = (1, 2, 3, 7, 255, 256, 257, 511, 512, 513, 600)
OLDER = 300
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the group


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of all sizes, each with proofs beside it; names are the sizes."""
    directory = tmp_path_factory.mktemp("logs")
    for size in SIZES:
        _grow(directory / str(size), size)
    return directory


def _grow(directory: Path, size: int) -> None:
    older = min(size, OLDER)
    with Log.create(directory, key=LOG_KEY) as log:
        log.append([entry(number) for number in range(older)])
        (directory / "old").write_bytes(publish(log))
        log.append([entry(number) for number in range(older, size)])
        publish(log)
        (directory / "entry").write_bytes(entry(size // 2))
        (directory / "entry.tlog-proof").write_bytes(log.proof(size // 2))
        leaves = [leaf_hash(each) for each in log.entries(0, size)]
        hashes = consistency_proof(leaves, older)
        (directory / "consistency").write_text(
            "".join(encode_base64(value) + "\n" for value in hashes)
        )


def _ask_go(verifier: Path, log: Path, keys: Sequence[str] = KEYS) -> bool:
    return holds(_go_command(verifier, log, keys))


def _go_command(verifier: Path, log: Path, keys: Sequence[str]) -> list[str]:
    witnesses = [word for key in keys[1:] for word in ("-witness", key)]
    files = {
        "-dir": "public",
        "-proof": "entry.tlog-proof",
        "-entry": "entry",
        "-old": "old",
        "-consistency": "consistency",
    }
    paths = [word for flag, name in files.items() for word in (flag, str(log / name))]
    return [str(verifier), "-log", keys[0], *witnesses, "-quorum", "3", *paths]


def _ask_node(node: str, log: Path, keys: Sequence[str] = KEYS) -> bool:
    script = str(SOURCES / "verify.mjs")
    whole = holds([node, script, str(log / "public"), "3", *keys])
    proof = [str(log / "entry.tlog-proof"), str(log / "entry")]
    return whole and holds([node, script, *proof, "3", *keys])


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_go_accepts_our_logs(go_verifier: Path, logs: Path, size: int) -> None:
    assert _ask_go(go_verifier, logs / str(size))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_webcrypto_accepts_our_logs(node: str, logs: Path, size: int) -> None:
    assert _ask_node(node, logs / str(size))


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _rewrite_entry(log: Path) -> None:
    _flip(log / "public/tile/entries/001", 1000)


def _change_size(log: Path) -> None:
    path = log / "public/checkpoint"
    path.write_bytes(path.read_bytes().replace(b"\n600\n", b"\n599\n"))


def _flip_cosignature(log: Path) -> None:
    _flip(log / "public/checkpoint", -20)


def _drop_cosignature(log: Path) -> None:
    path = log / "public/checkpoint"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def _drop_bundle(log: Path) -> None:
    (log / "public/tile/entries/002.p/88").unlink()


def _drop_proof_line(log: Path) -> None:
    path = log / "entry.tlog-proof"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))


def _change_proven_entry(log: Path) -> None:
    _flip(log / "entry", 5)


def _add_line(log: Path, *, name: str = "public/checkpoint") -> None:
    """A stranger's line, which the format of notes would let pass."""
    stranger = f"\u2014 stranger.example/w {encode_base64(bytes(range(76)))}\n"
    (log / name).write_bytes((log / name).read_bytes() + stranger.encode())


def _add_line_to_proof(log: Path) -> None:
    _add_line(log, name="entry.tlog-proof")


def _swap_lines(log: Path) -> None:
    path = log / "public/checkpoint"
    *lines, a, b = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, b, a]))


def _log_line_last(log: Path) -> None:
    path = log / "entry.tlog-proof"
    lines = path.read_bytes().splitlines(keepends=True)
    at = lines.index(b"\n", lines.index(b"\n") + 1) + 1
    path.write_bytes(b"".join([*lines[:at], *lines[at + 1 :], lines[at]]))


def _double_line(log: Path) -> None:
    path = log / "public/checkpoint"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(True)[-1])


def _carriage_returns(log: Path) -> None:
    path = log / "public/checkpoint"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def _byte_order_mark(log: Path) -> None:
    path = log / "public/checkpoint"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


RESPELL = [
    _add_line,
    _add_line_to_proof,
    _swap_lines,
    _log_line_last,
    _double_line,
    _carriage_returns,
    _byte_order_mark,
]


FOR_ALL = [
    _rewrite_entry,
    _change_size,
    _flip_cosignature,
    _drop_cosignature,
    _drop_bundle,
    _drop_proof_line,
    _change_proven_entry,
    *RESPELL,
]


def _cut_consistency(log: Path) -> None:
    path = log / "consistency"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def _flip_tile(log: Path) -> None:
    """Debian's x/mod 0.7.0 reads some tiles without authenticating them."""
    _flip(log / "public" / Tile(level=0, index=1).path, 4000)


def _flip_superseded_tile(log: Path) -> None:
    _flip(log / "public/tile/1/000.p/1", 7)


def _drop_tile(log: Path) -> None:
    (log / "public/tile/1/000.p/2").unlink()


def _add_file(log: Path) -> None:
    (log / "public/tile/0/003").write_bytes(bytes(8192))


FOR_GO = [
    *FOR_ALL,
    _cut_consistency,
    _flip_tile,
    _flip_superseded_tile,
    _drop_tile,
    _add_file,
]


@pytest.mark.slow
@pytest.mark.parametrize("spoil", FOR_GO)
def test_go_refuses_what_was_tampered_with(
    go_verifier: Path, logs: Path, spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    shutil.copytree(logs / "600", tmp_path / "log")
    assert _ask_go(go_verifier, tmp_path / "log")
    spoil(tmp_path / "log")
    assert not _ask_go(go_verifier, tmp_path / "log")


@pytest.mark.slow
@pytest.mark.parametrize("spoil", FOR_ALL)
def test_webcrypto_refuses_what_was_tampered_with(
    node: str, logs: Path, spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    shutil.copytree(logs / "600", tmp_path / "log")
    spoil(tmp_path / "log")
    assert not _ask_node(node, tmp_path / "log")


@pytest.mark.slow
@pytest.mark.parametrize("spoil", RESPELL)
def test_we_refuse_a_second_spelling_that_the_others_refuse(
    logs: Path, spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    def read(log: Path) -> None:
        TRUST.open_published((log / "public" / "checkpoint").read_bytes())
        proof = Proof.parse((log / "entry.tlog-proof").read_bytes())
        proof.verify((log / "entry").read_bytes(), TRUST)

    shutil.copytree(logs / "7", tmp_path / "log")
    read(tmp_path / "log")
    spoil(tmp_path / "log")
    with pytest.raises((ProtocolError, VerificationError)):
        read(tmp_path / "log")


SMALL = sorted(SMALL_ORDER)
UNREDUCED = [(p + y).to_bytes(32, "little") for p in (2**255 - 19,) for y in (0, 1)]


def _cosigned_by(log: Path, blobs: Mapping[str, bytes]) -> None:
    """Put these lines in place of the members' cosignatures, wherever they are."""
    lines = [f"\u2014 {name} {encode_base64(blob)}\n" for name, blob in blobs.items()]
    for path in (log / "public" / "checkpoint", log / "old", log / "entry.tlog-proof"):
        text = path.read_text()
        signed = text.index(f"\u2014 {LOG_KEY.name} ")
        path.write_text(text[: text.index("\n", signed) + 1] + "".join(lines))


def _spell(name: str, kind: bytes, public: bytes) -> tuple[str, bytes]:
    """Return a verify key and its id, without asking whether it is one."""
    material = kind + public
    key_id = hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]
    return f"{name}+{key_id.hex()}+{encode_base64(material)}", key_id


@pytest.mark.slow
@pytest.mark.parametrize("weak", [*SMALL, *UNREDUCED], ids=bytes.hex)
def test_no_verifier_takes_a_witness_key_without_a_private_key(
    go_verifier: Path, node: str, logs: Path, weak: bytes, tmp_path: Path
) -> None:
    """Under the identity the signature (identity, 0) verifies every message."""
    shutil.copytree(logs / "600", tmp_path / "log")
    keys, blobs = [KEYS[0]], {}
    signature = (1).to_bytes(8, "big") + (1).to_bytes(32, "little") + bytes(32)
    for number in range(3):
        name = f"weak{number}.example/witness"
        vkey, key_id = _spell(name, b"\x04", weak)
        keys.append(vkey)
        blobs[name] = key_id + signature
    _cosigned_by(tmp_path / "log", blobs)
    assert "not a key for this purpose" in _refusal_of_go(
        go_verifier, tmp_path / "log", keys
    )
    assert not _ask_node(node, tmp_path / "log", keys)
    with pytest.raises(ProtocolError) as caught:
        VerifyKey.parse(keys[1])
    assert caught.value.code in ("key-of-low-order", "key-malformed")


@pytest.mark.slow
@pytest.mark.parametrize("weak", [*SMALL, *UNREDUCED], ids=bytes.hex)
def test_no_verifier_takes_a_log_key_without_a_private_key(
    go_verifier: Path, node: str, logs: Path, weak: bytes
) -> None:
    keys = [_spell("log.example/gov", b"\x01", weak)[0], *KEYS[1:]]
    assert "not a key for this purpose" in _refusal_of_go(
        go_verifier, logs / "600", keys
    )
    assert not _ask_node(node, logs / "600", keys)


def _refusal_of_go(verifier: Path, log: Path, keys: Sequence[str]) -> str:
    done = subprocess.run(
        _go_command(verifier, log, keys), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_plus_sign_in_a_logs_key_ends_no_verifier(
    go_verifier: Path, node: str, tmp_path: Path
) -> None:
    """Fields of a key are parted by plus signs, and base64 has them as well."""
    seeds = (hashlib.sha256(bytes([n])).digest() for n in range(256))
    made = (
        SigningKey(name="log.example/gov", algorithm=Algorithm.SIGNATURE, seed=seed)
        for seed in seeds
    )
    key = next(each for each in made if "+" in str(each.verify_key).split("+", 2)[2])
    witnesses = [witness.verify_key for witness in WITNESSES]
    trust = TrustPolicy.of_members(key.verify_key, witnesses)
    with Log.create(tmp_path / "log", key=key) as log:
        log.append([entry(number) for number in range(3)])
        (tmp_path / "log" / "old").write_bytes(publish(log, trust=trust))
        (tmp_path / "log" / "entry").write_bytes(entry(1))
        (tmp_path / "log" / "entry.tlog-proof").write_bytes(log.proof(1))
        (tmp_path / "log" / "consistency").write_text("")
    keys = [str(key.verify_key), *KEYS[1:]]
    assert _ask_go(go_verifier, tmp_path / "log", keys)
    assert _ask_node(node, tmp_path / "log", keys)


@pytest.mark.slow
def test_both_count_outside_witnesses_apart_from_members(
    go_verifier: Path, node: str, tmp_path: Path
) -> None:
    """All four members cosign; the policy wants three of them and the archive."""
    archive = signing_key("archive/witness", Algorithm.COSIGNATURE)
    trust = trust_of(archive.verify_key)
    public = tmp_path / "log" / "public"
    outside = [str(archive.verify_key)]
    asked = [
        [
            *(str(go_verifier), "-log", KEYS[0], "-dir", str(public)),
            *(word for key in KEYS[1:] for word in ("-witness", key)),
            *("-quorum", "3", "-outside", *outside, "-outside-quorum", "1"),
        ],
        [
            *(node, str(SOURCES / "verify.mjs"), str(public), "3", *KEYS),
            *("outside", "1", *outside),
        ],
    ]
    with Log.create(tmp_path / "log", key=LOG_KEY) as log:
        log.append([entry(number) for number in range(3)])
        checkpoint = read_claim(log.sign_checkpoint())
        for witness in (*WITNESSES[:3], archive):
            log.add_cosignature(3, checkpoint.cosign(witness, time=TIME), trust=trust)
        log.publish(trust=trust)
        assert [holds(command) for command in asked] == [True, True]
        note = without_line((public / "checkpoint").read_bytes(), archive.name)
        fourth = checkpoint.cosign(WITNESSES[3], time=TIME)
        (public / "checkpoint").write_bytes(note + fourth)
        assert [holds(command) for command in asked] == [False, False]


@pytest.mark.slow
def test_a_signature_whose_r_is_of_small_order_is_none_for_any_verifier(
    go_verifier: Path, node: str, logs: Path, tmp_path: Path
) -> None:
    """The holder of a key can make one: R = identity, S = h * a."""
    shutil.copytree(logs / "600", tmp_path / "log")
    names, blobs = [w.name for w in WITNESSES], {}
    checkpoint = (tmp_path / "log" / "public" / "checkpoint").read_text()
    text = checkpoint[: checkpoint.index("\n\n") + 1]
    identity = (1).to_bytes(32, "little")
    for number, name in enumerate(names):
        seed = hashlib.sha256(name.encode()).digest()
        half = bytearray(hashlib.sha512(seed).digest()[:32])
        half[0] &= 248
        half[31] = half[31] & 63 | 64
        key = SigningKey(name=name, algorithm=Algorithm.COSIGNATURE, seed=seed)
        public = key.verify_key.public
        message = f"cosignature/v1\ntime {number}\n{text}".encode()
        h = hashlib.sha512(identity + public + message).digest()
        s = int.from_bytes(h, "little") * int.from_bytes(half, "little") % ORDER
        signature = identity + s.to_bytes(32, "little")
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        blobs[name] = key.verify_key.id + number.to_bytes(8, "big") + signature
        names[number] = str(key.verify_key)
        with refused(VerificationError, "signature-invalid"):
            key.verify_key.verify(message, signature)
    _cosigned_by(tmp_path / "log", blobs)
    assert not _ask_go(go_verifier, tmp_path / "log", [KEYS[0], *names])
    assert not _ask_node(node, tmp_path / "log", [KEYS[0], *names])


EVENTS = json.loads((Path(__file__).parents[1] / "vectors" / "events.json").read_text())
STRANGER = str(SigningKey.generate("fr.example/node").verify_key)


def _respelled(row: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Spell entry and signer of a published event in ways that do not hold."""
    entry_text, signer = row["entry"], row["signer"]
    found = json.loads(entry_text)
    payload = row["event"].encode()

    def with_payload(data: bytes) -> str:
        found_again = {**found, "payload": encode_base64(data)}
        return canonical_json(found_again).decode()

    return {
        "another signer": (entry_text, STRANGER),
        "a space": (entry_text.replace(",", ", ", 1), signer),
        "a key more": (entry_text[:-1] + ',"zz":1}', signer),
        "another event": (
            with_payload(payload.replace(b'"tapestry"', b'"tapestra"')),
            signer,
        ),
        "an event with a space": (
            with_payload(payload.replace(b",", b", ", 1)),
            signer,
        ),
        "another type": (entry_text.replace("event.v1", "event.v2"), signer),
        "no signature": (
            canonical_json({**found, "signatures": []}).decode(),
            signer,
        ),
        "bytes after the end": (entry_text + "\n", signer),
    }


@pytest.mark.slow
def test_all_verifiers_agree_on_the_published_events(
    go_verifier: Path, node: str, tmp_path: Path
) -> None:
    def ask(entry_text: str, signer: str) -> set[bool]:
        (tmp_path / "entry").write_text(entry_text)
        file = str(tmp_path / "entry")
        return {
            holds([str(go_verifier), "-signer", signer, "-entry", file]),
            holds([node, str(SOURCES / "verify.mjs"), file, signer]),
        }

    for row in EVENTS:
        assert ask(row["entry"], row["signer"]) == {True}, row["type"]
    for case, (entry_text, signer) in _respelled(EVENTS[0]).items():
        assert ask(entry_text, signer) == {False}, case
        with pytest.raises((ProtocolError, VerificationError, IncompleteError)):
            open_entry(entry_text.encode()).verify(VerifyKey.parse(signer))
