"""Two programs by others must say of a log what we say of it."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tapestry.encoding import encode_base64
from tapestry.errors import ProtocolError
from tapestry.keys import VerifyKey
from tapestry.tlog.merkle import consistency_proof, leaf_hash
from tapestry.tlog.tiles import Tile
from tapestry_governance.log.writer import Log
from tests.support.cosigning import LOG_KEY, WITNESSES, entry, publish

SOURCES = Path(__file__).parents[2] / "governance" / "verifiers"
KEYS = [str(LOG_KEY.verify_key), *(str(witness.verify_key) for witness in WITNESSES)]
SIZES = (1, 2, 3, 7, 255, 256, 257, 511, 512, 513, 600)
OLDER = 300


@pytest.fixture(scope="module")
def go_verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the Go verifier without network."""
    go = os.environ.get("TAPESTRY_GO") or shutil.which("go")
    gopath = Path(os.environ.get("TAPESTRY_GOPATH", "/usr/share/gocode"))
    if go is None or not (gopath / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        pytest.skip(
            "NOT CHECKED AGAINST GO: apt-get install golang-go golang-golang-x-mod-dev"
        )
    work = tmp_path_factory.mktemp("go")
    settings = {
        "CGO_ENABLED": "0",
        "GO111MODULE": "off",
        "GOCACHE": str(work / "cache"),
        "GOFLAGS": "",
        "GOPATH": str(gopath),
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
    }
    subprocess.run(
        [go, "build", "-o", str(work / "verify"), "main.go"],
        cwd=SOURCES,
        env=os.environ | settings,
        check=True,
    )
    return work / "verify"


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("NOT CHECKED AGAINST WEBCRYPTO: install Node 20 or newer")
    return found


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


def _run(command: list[str]) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (done.stdout == "holds\n"), done.stderr
    return done.returncode == 0


def _ask_go(verifier: Path, log: Path, keys: Sequence[str] = KEYS) -> bool:
    witnesses = [word for key in keys[1:] for word in ("-witness", key)]
    files = {
        "-dir": "public",
        "-proof": "entry.tlog-proof",
        "-entry": "entry",
        "-old": "old",
        "-consistency": "consistency",
    }
    paths = [word for flag, name in files.items() for word in (flag, str(log / name))]
    command = [str(verifier), "-log", keys[0], *witnesses, "-quorum", "3", *paths]
    return _run(command)


def _ask_node(node: str, log: Path, keys: Sequence[str] = KEYS) -> bool:
    script = str(SOURCES / "verify.mjs")
    whole = _run([node, script, str(log / "public"), "3", *keys])
    proof = [str(log / "entry.tlog-proof"), str(log / "entry")]
    return whole and _run([node, script, *proof, "3", *keys])


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


FOR_ALL = [
    _rewrite_entry,
    _change_size,
    _flip_cosignature,
    _drop_cosignature,
    _drop_bundle,
    _drop_proof_line,
    _change_proven_entry,
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


def _cosign_without_a_key(log: Path, encoding: bytes) -> list[str]:
    """Put cosignatures that no key made in place of the members'; return their keys.

    Under the identity as a key, the signature (identity, 0) verifies every message.
    """
    material = b"\x04" + encoding
    names = [f"weak{number}.example/witness" for number in range(3)]
    blob = (1).to_bytes(8, "big") + (1).to_bytes(32, "little") + bytes(32)
    keys, lines = [KEYS[0]], []
    for name in names:
        identity = hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]
        keys.append(f"{name}+{identity.hex()}+{encode_base64(material)}")
        lines.append(f"\u2014 {name} {encode_base64(identity + blob)}\n")
    for path in (log / "public" / "checkpoint", log / "old", log / "entry.tlog-proof"):
        text = path.read_text()
        signed = text.index(f"\u2014 {KEYS[0].split('+')[0]} ")
        path.write_text(text[: text.index("\n", signed) + 1] + "".join(lines))
    return keys


WEAK = {
    "identity": (1).to_bytes(32, "little"),
    "identity with another sign": bytes([1, *bytes(30), 0x80]),
    "identity not reduced": (2**255 - 18).to_bytes(32, "little"),
}


@pytest.mark.slow
@pytest.mark.parametrize("weak", WEAK)
def test_no_verifier_takes_a_witness_key_without_a_private_key(
    go_verifier: Path, node: str, logs: Path, weak: str, tmp_path: Path
) -> None:
    shutil.copytree(logs / "600", tmp_path / "log")
    keys = _cosign_without_a_key(tmp_path / "log", WEAK[weak])
    assert not _ask_go(go_verifier, tmp_path / "log", keys)
    assert not _ask_node(node, tmp_path / "log", keys)
    with pytest.raises(ProtocolError):
        VerifyKey.parse(keys[1])
