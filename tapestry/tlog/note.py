"""Signed notes: signing, cosigning, verification (C2SP signed-note, tlog-cosignature).

::

    tapestry.example/gov                        text; its last line ends, too
    5
    h9UMXqS06cZqY1DcnPgMhWQabcLU6G++7tynUvpM20w=
                                                the last empty line of the note
    — tapestry.example/gov 98YzuB2Q…            name, base64(key id || signature)
    — fr.example/w1 oyko6wAAAABr…               a cosignature, with its time

A key of type 0x01 signs the text, a key of type 0x04 the text under two lines
that name the format and the time. Text is UTF-8 without control characters.

Guarantees:
    ``parse`` accepts what ``Note.encode`` prints and nothing else. A text is
    returned only after at least one known key has signed it; a bad signature
    under the name and id of a known key condemns the whole note. Signatures of
    unknown keys are ignored, as the format demands: they may not be relied on,
    and their presence means nothing.

Not protected:
    The name of a cosigner is not part of what it signs, so cosigners must not
    share a key; ``open_note`` refuses such a set of keys.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from tapestry.encoding import decode_base64, encode_base64
from tapestry.errors import ProtocolError, VerificationError
from tapestry.keys import Algorithm, SigningKey, VerifyKey

MAX_BYTES = 1 << 18
MAX_SIGNATURES = 100
MAX_TIME = 253_402_300_799  # 9999-12-31 23:59:59 UTC, in POSIX seconds
_DASH = "\N{EM DASH} "


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature line: the name and key id of its maker, and the signature."""

    name: str
    key_id: bytes
    blob: bytes

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line, which ends with a line feed.

        Raises:
            ProtocolError: The line is not the one spelling of a signature line.
        """
        parts = line.removesuffix("\n").removeprefix(_DASH).split(" ")
        if len(parts) != 2 or not line.endswith("\n") or not line.startswith(_DASH):
            raise ProtocolError(
                f"not a signature line: {line[:40]!r}", code="signature-line-malformed"
            )
        name, material = parts
        if not name or "+" in name or any(map(str.isspace, name)):
            raise ProtocolError(
                f"not a name of a signer: {name[:40]!r}",
                code="signature-line-malformed",
            )
        data = decode_base64(material)
        if len(data) < 5:
            raise ProtocolError(
                f"signature of {name[:40]!r} is too short",
                code="signature-line-malformed",
            )
        return cls(name=name, key_id=data[:4], blob=data[4:])

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {encode_base64(self.key_id + self.blob)}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A text with signatures, none of them checked."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """Print the note."""
        return (self.text + "\n" + "".join(map(str, self.signatures))).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A signature that holds: the key, and the time if it is a cosignature."""

    key: VerifyKey
    time: int | None
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A text that at least one known key has signed."""

    text: str
    verified: tuple[Verified, ...]


def parse(data: bytes) -> Note:
    """Split a note into text and signatures, checking neither.

    Raises:
        ProtocolError: The bytes are over 256 KiB, are not UTF-8, hold control
            characters, or have no signature or over 100.
    """
    if not data:
        raise ProtocolError("the note is empty", code="note-malformed")
    if len(data) > MAX_BYTES:
        raise ProtocolError(
            f"note of {len(data)} bytes is over {MAX_BYTES}", code="note-too-large"
        )
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise ProtocolError("note is not UTF-8", code="note-malformed") from None
    check_text(whole)
    head, gap, tail = whole.rpartition("\n\n")
    if not gap:
        raise ProtocolError("note has no signatures", code="note-malformed")
    lines = tail.removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise ProtocolError(
            f"note of {len(lines)} signatures is over {MAX_SIGNATURES}",
            code="note-too-large",
        )
    signatures = tuple(Signature.parse(line + "\n") for line in lines)
    return Note(text=head + "\n", signatures=signatures)


def sign(text: str, key: SigningKey) -> Signature:
    """Sign a text with a key of type 0x01.

    Raises:
        ValueError: The key is for cosigning.
        ProtocolError: The text cannot be in a note.
    """
    if key.verify_key.algorithm is not Algorithm.SIGNATURE:
        raise ValueError(f"{key.verify_key.keyid} cosigns; it does not sign")
    check_text(text)
    return _signature(key, key.sign(text.encode()))


def cosign(text: str, key: SigningKey, *, time: int) -> Signature:
    """Cosign a text with a key of type 0x04, at a time in POSIX seconds.

    Raises:
        ValueError: The key is for signing, or the time is not between 1970 and 9999.
        ProtocolError: The text cannot be in a note.
    """
    if key.verify_key.algorithm is not Algorithm.COSIGNATURE:
        raise ValueError(f"{key.verify_key.keyid} signs; it does not cosign")
    if not 0 <= time <= MAX_TIME:
        raise ValueError(f"no cosignature at time {time}")
    check_text(text)
    blob = time.to_bytes(8, "big") + key.sign(_cosigned(text, time))
    return _signature(key, blob)


def open_note(data: bytes, keys: Iterable[VerifyKey]) -> Opened:
    """Return the text of a note that known keys have signed.

    Raises:
        ProtocolError: The bytes are not a note.
        VerificationError: A known key's signature is bad or there twice, or no
            known key has signed.
        ValueError: Two of the keys share name and id, or two cosigners share a key.
    """
    known = _by_identity(keys)
    note = parse(data)
    verified: dict[tuple[str, bytes], Verified] = {}
    for signature in note.signatures:
        identity = (signature.name, signature.key_id)
        if (key := known.get(identity)) is None:
            continue
        if identity in verified:
            raise VerificationError(
                f"note is signed twice by {key.keyid}", code="signature-duplicated"
            )
        verified[identity] = verify_signature(note.text, signature, key)
    if not verified:
        signers = ", ".join(ascii(each.name[:40]) for each in note.signatures[:3])
        raise VerificationError(
            f"note is signed by no known key; it names {signers}",
            code="signature-missing",
        )
    return Opened(text=note.text, verified=tuple(verified.values()))


def verify_signature(text: str, signature: Signature, key: VerifyKey) -> Verified:
    """Check one signature line over a text.

    Raises:
        VerificationError: Name, id or signature are not this key's.
    """
    if (signature.name, signature.key_id) != (key.name, key.id):
        raise VerificationError(
            f"signature of {signature.name}, not of {key.keyid}",
            code="signature-key-differs",
        )
    if key.algorithm is Algorithm.SIGNATURE:
        key.verify(text.encode(), signature.blob)
        return Verified(key=key, time=None, signature=signature)
    time = int.from_bytes(signature.blob[:8], "big")
    if len(signature.blob) != 72 or time > MAX_TIME:
        raise VerificationError(
            f"cosignature of {key.keyid} is malformed: {len(signature.blob)} bytes,"
            f" want 72 and a time up to {MAX_TIME}",
            code="cosignature-malformed",
        )
    key.verify(_cosigned(text, time), signature.blob[8:])
    return Verified(key=key, time=time, signature=signature)


def check_text(text: str) -> None:
    """Require a text that can be signed, or a whole note that can be printed.

    Raises:
        ProtocolError: The text does not end with a line feed, or holds control
            characters.
    """
    if not text.endswith("\n"):
        raise ProtocolError("note does not end with a line feed", code="note-malformed")
    if any(char < " " and char != "\n" for char in text):
        raise ProtocolError("control character in a note", code="note-malformed")


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _signature(key: SigningKey, blob: bytes) -> Signature:
    return Signature(name=key.name, key_id=key.verify_key.id, blob=blob)


def _by_identity(keys: Iterable[VerifyKey]) -> dict[tuple[str, bytes], VerifyKey]:
    known: dict[tuple[str, bytes], VerifyKey] = {}
    materials: set[bytes] = set()
    for key in keys:
        if (key.name, key.id) in known or key.public in materials:
            raise ValueError(f"{key.keyid}: one key, one name, one purpose")
        known[key.name, key.id] = key
        materials.add(key.public)
    return known
