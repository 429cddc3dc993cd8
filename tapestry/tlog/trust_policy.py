"""Trust policy of a verifier: the log's key, the witnesses, and their quorum.

The file is C2SP tlog-policy. It is the root of trust of nodes and auditors and
reaches them outside the federation (by post, in a handbook, on a web page)::

    log tapestry.example/gov+f7c633b8+AQOhB7…
    witness fr fr.example/w1+a32928eb+BCmsuu…
    witness de de.example/w1+…
    witness it it.example/w1+…
    group members 2 fr de it
    quorum members

A checkpoint counts when a listed log has signed it and the quorum has cosigned
it. With n members of whom f may collude, ``witness_quorum(n)`` cosignatures make
two different logs of one size impossible; the coordinator's own witness, if it
has one, must not be listed.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from tapestry.errors import ProtocolError, QuorumError, VerificationError
from tapestry.keys import Algorithm, VerifyKey
from tapestry.tlog import note
from tapestry.tlog.checkpoint import Checkpoint

MAX_BYTES = 1 << 18
NONE = "none"
_BLANK = re.compile("[ \t]+")
_NUMBER = re.compile("[1-9][0-9]{0,3}")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogKey:
    """The key of a log that is accepted, and its address if it is known."""

    key: VerifyKey
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A cosigner, under the name that the policy gives it."""

    name: str
    key: VerifyKey
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessGroup:
    """Witnesses or groups of which ``threshold`` must have cosigned."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosignature:
    """A cosignature that holds."""

    witness: str
    key: VerifyKey
    time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CosignedCheckpoint:
    """A checkpoint that the log has signed, with the cosignatures that hold.

    Guarantees:
        Only :class:`TrustPolicy` makes one from bytes, after checking them.
    """

    checkpoint: Checkpoint
    note: bytes
    cosignatures: tuple[Cosignature, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """A trust policy.

    Guarantees:
        ``TrustPolicy.parse(trust.encode()) == trust``. No key is listed twice, under
        whatever name; a witness counts for the quorum in one way only.
    """

    logs: tuple[LogKey, ...]
    witnesses: tuple[Witness, ...]
    groups: tuple[WitnessGroup, ...]
    quorum: str

    def __post_init__(self) -> None:
        """Refuse what the file format refuses."""
        listed = _Listed()
        try:
            for log in self.logs:
                listed.add_log(log)
            for witness in self.witnesses:
                listed.add_witness(witness)
            for group in self.groups:
                listed.add_group(group)
            if not listed.has([self.quorum]):
                raise _inconsistent("names a quorum that it does not define")
        except ProtocolError as error:
            raise ProtocolError(f"the trust policy {error}", code=error.code) from None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a policy file.

        Guarantees:
            An error quotes no word of the file, which may be a key or hold records.

        Raises:
            ProtocolError: The bytes are not a policy, or the policy contradicts itself.
        """
        logs: list[LogKey] = []
        witnesses: list[Witness] = []
        groups: list[WitnessGroup] = []
        quorums: list[str] = []
        listed = _Listed()
        for number, words in _lines(data):
            try:
                match words:
                    case ["log", key, *url] if len(url) < 2:
                        logs.append(LogKey(key=_key(key), url=_only(url)))
                        listed.add_log(logs[-1])
                    case ["witness", name, key, *url] if len(url) < 2:
                        witness = Witness(name=name, key=_key(key), url=_only(url))
                        witnesses.append(witness)
                        listed.add_witness(witness)
                    case ["group", name, count, *members] if listed.has(members):
                        groups.append(_group(name, count, members))
                        listed.add_group(groups[-1])
                    case ["quorum", name] if listed.has([name]):
                        quorums.append(name)
                    case _:
                        raise _malformed(
                            "is no log, witness, group or quorum line, or names what no"
                            " line before it defines"
                        )
            except ProtocolError as error:
                said = f"trust policy: line {number} {error}; ask for the file again"
                raise ProtocolError(said, code=error.code) from None
        if len(quorums) != 1:
            raise _malformed(f"trust policy: {len(quorums)} quorum lines, want one")
        return cls(
            logs=tuple(logs),
            witnesses=tuple(witnesses),
            groups=tuple(groups),
            quorum=quorums[0],
        )

    @classmethod
    def parse_printed(cls, data: bytes) -> Self:
        """Read a policy that was printed by ``encode``, byte for byte.

        Raises:
            ProtocolError: The bytes are no policy, or spell one in another way: with
                comments, blank lines, other blanks, or in another order.
        """
        trust = cls.parse(data)
        if trust.encode() != data:
            raise ProtocolError(
                "trust policy: it is spelled with comments, blanks or an order of its"
                " own; get the file again as it was published",
                code="trust-policy-respelled",
            )
        return trust

    @classmethod
    def of_members(
        cls,
        log: VerifyKey,
        witnesses: Sequence[VerifyKey],
        *,
        outside: Sequence[Witness] = (),
        outside_quorum: int = 0,
    ) -> Self:
        """Trust one log, cosigned by a safe quorum of these witnesses.

        The witnesses are called by the names of their keys.

        Args:
            log: The log's key.
            witnesses: Those of the members.
            outside: Witnesses that are no members.
            outside_quorum: So many of these must have cosigned as well. With 0 they are
                listed, so that their lines are kept, and never counted.

        Raises:
            ProtocolError: A key or name occurs twice.
        """
        names = tuple(key.name for key in witnesses)
        threshold = witness_quorum(len(names))
        groups = [WitnessGroup(name="members", threshold=threshold, members=names)]
        if outside_quorum:
            others = tuple(witness.name for witness in outside)
            groups += [
                WitnessGroup(name="outside", threshold=outside_quorum, members=others),
                WitnessGroup(name="all", threshold=2, members=("members", "outside")),
            ]
        return cls(
            logs=(LogKey(key=log),),
            witnesses=(
                *(Witness(name=key.name, key=key) for key in witnesses),
                *outside,
            ),
            groups=tuple(groups),
            quorum=groups[-1].name,
        )

    def encode(self) -> bytes:
        """Print the policy: logs, witnesses, groups, quorum."""
        lines = [["log", str(log.key), log.url] for log in self.logs]
        lines += [["witness", w.name, str(w.key), w.url] for w in self.witnesses]
        lines += [["group", g.name, str(g.threshold), *g.members] for g in self.groups]
        lines.append(["quorum", self.quorum])
        text = "".join(" ".join(filter(None, words)) + "\n" for words in lines)
        return text.encode(errors="surrogateescape")

    def open(self, data: bytes) -> CosignedCheckpoint:
        """Open a checkpoint that counts.

        Guarantees:
            A listed log has signed the checkpoint under its own origin, and the
            quorum has cosigned it. The caller decides how old it may be.

        Raises:
            ProtocolError: The bytes are not a checkpoint.
            VerificationError: No listed log has signed, or a known key's
                signature is bad.
            QuorumError: Too few witnesses have cosigned.
        """
        opened = self.open_pending(data)
        names = {c.witness for c in opened.cosignatures}
        if not self.is_quorum(names):
            raise QuorumError(
                f"checkpoint of size {opened.checkpoint.size}: "
                f"{len(names)} cosignatures are no quorum {self.quorum!r}",
                code="quorum-not-reached",
            )
        return opened

    def open_published(self, data: bytes) -> CosignedCheckpoint:
        """Open a checkpoint that counts, in a file as ``Log.publish`` writes it.

        Guarantees:
            Beside the text there is one line of the log, and then lines of witnesses of
            this policy, in its order. So no byte of the file is without a meaning.

        Edge cases:
            Lines beyond the quorum can be cut: what is left is a checkpoint that
            counts as well. Nothing can bind them, as they come after what they sign.

        Raises:
            ProtocolError: The bytes are not a checkpoint.
            VerificationError: No listed log has signed, a known key's signature is
                bad, or a line is there that is none of these, or is not in its place.
            QuorumError: Too few witnesses have cosigned.
        """
        opened = self.open(data)
        keys = [witness.key for witness in self.witnesses]
        check_spelling(opened.checkpoint, data, logs=self.logs, witnesses=keys)
        return opened

    def open_pending(self, data: bytes) -> CosignedCheckpoint:
        """Open a checkpoint that the log has signed, cosigned or not.

        Only a witness, which cosigns before the quorum is there, may act on it.

        Raises:
            ProtocolError: The bytes are not a checkpoint.
            VerificationError: No listed log has signed, or a known key's signature is
                bad.
        """
        names = {w.key.keyid: w.name for w in self.witnesses}
        keys = [*(log.key for log in self.logs), *(w.key for w in self.witnesses)]
        opened = note.open_note(data, keys)
        checkpoint = Checkpoint.parse(opened.text)
        signers = [v.key.name for v in opened.verified if v.time is None]
        if checkpoint.origin not in signers:
            raise VerificationError(
                f"checkpoint of size {checkpoint.size} is not signed by the log"
                f" {checkpoint.origin}",
                code="log-signature-missing",
            )
        return CosignedCheckpoint(
            checkpoint=checkpoint,
            note=data,
            cosignatures=tuple(
                _cosignature(names[v.key.keyid], v)
                for v in opened.verified
                if v.time is not None
            ),
        )

    def open_cosignature(self, checkpoint: Checkpoint, line: bytes) -> Cosignature:
        """Check one cosignature line, as a witness returned it.

        Raises:
            ProtocolError: The bytes are not a signature line.
            VerificationError: The signature is of no listed witness, or is bad.
        """
        try:
            signature = note.Signature.parse(line.decode())
        except UnicodeDecodeError:
            raise ProtocolError(
                "signature line is not UTF-8", code="signature-line-malformed"
            ) from None
        for witness in self.witnesses:
            if (witness.key.name, witness.key.id) == (signature.name, signature.key_id):
                held = note.verify_signature(str(checkpoint), signature, witness.key)
                return _cosignature(witness.name, held)
        raise VerificationError(
            f"signature of {signature.name[:40]!r}, which is no witness of the trust"
            " policy",
            code="witness-unknown",
        )

    def is_quorum(self, cosigned: set[str]) -> bool:
        """Return whether these witnesses, named as in the policy, are a quorum."""
        reached = set(cosigned) | {NONE}
        for group in self.groups:  # in order of definition, so members come first
            if len(reached.intersection(group.members)) >= group.threshold:
                reached.add(group.name)
            else:
                reached.discard(group.name)
        return self.quorum in reached

    def is_quorum_of(self, keyids: Collection[str]) -> bool:
        """Return whether the witnesses with these keys, by their ids, are a quorum."""
        return self.is_quorum({w.name for w in self.witnesses if w.key.keyid in keyids})


def check_spelling(
    checkpoint: Checkpoint,
    data: bytes,
    *,
    logs: Iterable[LogKey],
    witnesses: Iterable[VerifyKey],
) -> None:
    """Require one line of the log, then lines of witnesses in their order, and no more.

    Raises:
        VerificationError: A line is none of these, or is not in its place.
    """
    signers = [(s.name, s.key_id) for s in note.parse(data).signatures]
    own = [log.key for log in logs if log.key.name == checkpoint.origin]
    cosigners = [(k.name, k.id) for k in witnesses if (k.name, k.id) in signers[1:]]
    if signers[:1] not in [[(k.name, k.id)] for k in own] or cosigners != signers[1:]:
        raise VerificationError(
            f"checkpoint of size {checkpoint.size}: want one line of the log, then"
            " lines of the trust policy's witnesses in its order, and no other; get the"
            " file again",
            code="checkpoint-respelled",
        )


def witness_quorum(members: int) -> int:
    """Return how many of n witnesses make a split view impossible.

    Any two quorums then share more than f = floor((n - 1) / 3) witnesses, so at
    least one honest one, which signs one branch only.
    """
    if members < 1:
        raise ValueError("a quorum needs witnesses")
    return (members + (members - 1) // 3) // 2 + 1


def _cosignature(witness: str, held: note.Verified) -> Cosignature:
    if held.time is None:
        raise VerificationError(
            f"signature of {held.key.keyid} has no time, so it is no cosignature",
            code="cosignature-missing",
        )
    return Cosignature(witness=witness, key=held.key, time=held.time)


def _lines(data: bytes) -> list[tuple[int, list[str]]]:
    if not data.strip():
        raise ProtocolError(
            "the trust policy is empty; ask for the file again",
            code="trust-policy-malformed",
        )
    if len(data) > MAX_BYTES:
        raise _malformed(f"trust policy: {len(data)} bytes are over {MAX_BYTES}")
    if not data.endswith(b"\n"):
        raise _malformed("trust policy: the last line has no line end")
    text = data.decode(errors="surrogateescape")  # names are opaque bytes
    if _CONTROL.search(text):
        message = "trust policy: it holds a control character; ask for the file again"
        raise _malformed(message)
    lines = [line.strip(" \t") for line in text.split("\n")]
    return [
        (number, _BLANK.split(line))
        for number, line in enumerate(lines, start=1)
        if line and line[0] != "#"
    ]


def _only(words: list[str]) -> str | None:
    return words[0] if words else None


def _key(text: str) -> VerifyKey:
    try:
        return VerifyKey.parse(text)
    except ProtocolError as error:
        message = "has no verify key in its one spelling, name+id+base64"
        raise ProtocolError(message, code=error.code) from None


def _group(name: str, count: str, members: list[str]) -> WitnessGroup:
    if count == "all":
        threshold = len(members)
    elif count == "any":
        threshold = 1
    elif _NUMBER.fullmatch(count):
        threshold = int(count)
    else:
        raise _malformed("has a threshold that is not all, any or a number")
    return WitnessGroup(name=name, threshold=threshold, members=tuple(members))


class _Listed:
    """The keys and names of a policy so far, none of them there twice."""

    def __init__(self) -> None:
        self._keys: set[bytes | str] = set()
        self._names = {NONE}
        self._grouped = {NONE}  # never a member

    def has(self, names: Iterable[str]) -> bool:
        return self._names.issuperset(names)

    def add_log(self, log: LogKey) -> None:
        self._add_key(log.key, Algorithm.SIGNATURE)

    def add_witness(self, witness: Witness) -> None:
        self._add_key(witness.key, Algorithm.COSIGNATURE)
        self._define(witness.name)

    def add_group(self, group: WitnessGroup) -> None:
        if not 1 <= group.threshold <= len(group.members):
            raise _inconsistent(
                f"has a threshold that is not from 1 to {len(group.members)}, the"
                " number of its members"
            )
        for member in group.members:
            if member not in self._names or member in self._grouped:
                raise _inconsistent(
                    "has a member that is not defined before it, or is in a group"
                    " already"
                )
            self._grouped.add(member)
        self._define(group.name)

    def _add_key(self, key: VerifyKey, purpose: Algorithm) -> None:
        if key.algorithm is not purpose:
            raise _inconsistent(
                f"has a key of type {key.algorithm:#04x}, want {purpose:#04x}"
            )
        if not self._keys.isdisjoint({key.public, key.keyid}):  # ids can collide
            raise _inconsistent("has a key that is listed twice")
        self._keys |= {key.public, key.keyid}

    def _define(self, name: str) -> None:
        if name in self._names or _BLANK.search(name) or not name:
            raise _inconsistent("has a name that is defined twice, empty or has spaces")
        self._names.add(name)


def _malformed(said: str) -> ProtocolError:
    return ProtocolError(said, code="trust-policy-malformed")


def _inconsistent(said: str) -> ProtocolError:
    return ProtocolError(said, code="trust-policy-inconsistent")
