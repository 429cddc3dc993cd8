"""One log and four witnesses, of whom three are needed: for tests of the log."""

import hashlib
from pathlib import Path

from tapestry.errors import ConfigError
from tapestry.keys import Algorithm, SigningKey
from tapestry.tlog import note
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.log.writer import Log

TIME = 1795452638


def signing_key(name: str, algorithm: Algorithm = Algorithm.SIGNATURE) -> SigningKey:
    """Make the same key for the same name in every run."""
    seed = hashlib.sha256(f"{name} {algorithm}".encode()).digest()
    return SigningKey(name=name, algorithm=algorithm, seed=seed)


LOG_KEY = signing_key("log.example/gov")
WITNESSES = [
    signing_key(f"{name}.example/w", Algorithm.COSIGNATURE)
    for name in ("de", "es", "fr", "id")
]
TRUST = TrustPolicy.of_members(
    LOG_KEY.verify_key, [witness.verify_key for witness in WITNESSES]
)


def entry(number: int) -> bytes:
    """Make an entry; no two numbers give the same bytes."""
    return b'{"n":%d}' % number


def cosigned(
    checkpoint: Checkpoint, *, by: int = 3, key: SigningKey = LOG_KEY, time: int = TIME
) -> bytes:
    """Sign a checkpoint as the log and cosign it as some witnesses."""
    lines = [checkpoint.cosign(witness, time=time) for witness in WITNESSES[:by]]
    return checkpoint.sign(key) + b"".join(lines)


def start_log(directory: Path) -> Log:
    """Open the log of a folder, or make it if it was never finished."""
    try:
        return Log.create(directory, key=LOG_KEY)
    except ConfigError:
        return Log.open(directory, key=LOG_KEY)


def publish(log: Log, *, time: int = TIME, trust: TrustPolicy = TRUST) -> bytes:
    """Take a log through signing, cosigning and publishing."""
    signed = log.sign_checkpoint()
    checkpoint = read_claim(signed)
    for witness in WITNESSES[:3]:
        line = checkpoint.cosign(witness, time=time)
        log.add_cosignature(checkpoint.size, line, trust=trust)
    return log.publish(trust=trust)


def without_line(data: bytes, name: str) -> bytes:
    """Drop one signer's line from a note."""
    parsed = note.parse(data)
    kept = tuple(s for s in parsed.signatures if s.name != name)
    return note.Note(text=parsed.text, signatures=kept).encode()


def public_files(directory: Path) -> dict[str, bytes]:
    """What lies in a log's public folder."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted((directory / "public").rglob("*"))
        if path.is_file()
    }
