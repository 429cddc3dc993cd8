r"""Heads of members' outboxes: what a coordinator was given, and has not logged.

With each cosignature a member signs, by its node key, which entries it submits::

    Tapestry outbox v1
    tapestry.example/gov                              the checkpoint that it cosigned
    41
    h9UMXqS06cZqY1DcnPgMhWQabcLU6G++7tynUvpM20w=
    2                                                 entries that wait
    38 +UBwq/0toL9ykC6xOoCOeU+VTZ4nRcaCoVj27Q1KwDY=   since when, and its leaf hash

The coordinator publishes the heads beside the checkpoint, in ``outbox.json``: a note
for each member, as canonical JSON.

Guarantees:
    A head that parses is printed again byte for byte. Its first line has a space, so
    no text of it is that of a checkpoint or another note.

Not protected:
    A head is the word of one member, which may list what it never submitted; so it
    accuses a coordinator and proves nothing. A coordinator that publishes no heads, or
    old ones, shows by that (``HeadReport``); whether a member that is shut out cosigned
    at all, the log cannot tell.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tapestry.encoding import (
    canonical_json,
    decode_base64,
    decode_integer,
    decode_json,
    encode_base64,
    encode_integer,
)
from tapestry.errors import InconsistentLog, ProtocolError, VerificationError
from tapestry.inputs.plain_file import read_plain, reading
from tapestry.keys import SigningKey, VerifyKey
from tapestry.tlog import note as notes
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.merkle import HASH_BYTES
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.settlement import settle

FILE = "outbox.json"
MAX_FILE = 1 << 20
MAX_NOTE = 4096
MAX_WAITING = 16  # entries that a head names, the oldest; a coordinator takes 4 at once
OVERDUE = 8  # checkpoints: twice as many as it takes to log those
_DOMAIN = "Tapestry outbox v1"
_HEAD = 5  # lines before the entries
_LONGEST_NAME = 63  # of a member


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxHead:
    """The entries that a member submits with the cosignature of a checkpoint."""

    checkpoint: Checkpoint
    count: int  # of all that wait, also of those that are not named
    waiting: Mapping[bytes, int]  # leaf hash -> size at which it was submitted first

    def __post_init__(self) -> None:
        """Refuse values that have no spelling."""
        encode_integer(self.count)
        if not len(self.waiting) <= min(self.count, MAX_WAITING):
            raise _malformed(f"it names {len(self.waiting)} entries of {self.count}")
        if any(not 0 <= n <= self.checkpoint.size for n in self.waiting.values()):
            raise _malformed(f"an entry waits since beyond {self.checkpoint.size}")
        if any(len(leaf) != HASH_BYTES for leaf in self.waiting):
            raise _malformed("a leaf hash of another length")

    def __str__(self) -> str:
        rows = [f"{n} {encode_base64(leaf)}\n" for leaf, n in self.waiting.items()]
        head = f"{_DOMAIN}\n{self.checkpoint}{encode_integer(self.count)}\n"
        return head + "".join(rows)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a head.

        Raises:
            ProtocolError: It is not the one spelling of a head.
        """
        lines = text.split("\n")
        if len(lines) < _HEAD + 1 or lines[0] != _DOMAIN or lines[-1]:
            raise _malformed(f"{len(lines) - 1} lines, or another first line")
        waiting: dict[bytes, int] = {}
        for line in lines[_HEAD:-1]:
            since, _, leaf = line.partition(" ")
            waiting[decode_base64(leaf)] = decode_integer(since)
        if len(waiting) != len(lines) - 1 - _HEAD:
            raise _malformed("it names an entry twice")
        return cls(
            checkpoint=Checkpoint.parse("\n".join(lines[1:4]) + "\n"),
            count=decode_integer(lines[4]),
            waiting=waiting,
        )

    def sign(self, key: SigningKey) -> bytes:
        """Sign the head with the key of a member's node; returns a note."""
        signature = notes.sign(str(self), key)
        return notes.Note(text=str(self), signatures=(signature,)).encode()


def open_head(note: bytes, keys: Iterable[VerifyKey]) -> OutboxHead:
    """Return the head that one of a member's node keys has signed, and none else.

    Raises:
        ProtocolError: The bytes are not a note over a head, or too many.
        VerificationError: The member has not signed it.
    """
    if len(note) > MAX_NOTE:
        raise _malformed(f"{len(note)} bytes, the limit is {MAX_NOTE}")
    if (lines := len(notes.parse(note).signatures)) != 1:
        raise _malformed(f"{lines} signatures, want the member's alone")
    return OutboxHead.parse(notes.open_note(note, keys).text)


def encode_heads(heads: Mapping[str, bytes]) -> bytes:
    """Print the file of all members' heads."""
    return canonical_json({name: note.decode() for name, note in heads.items()})


def decode_heads(data: bytes) -> dict[str, bytes]:
    """Read the file of all members' heads; none of them is checked.

    Raises:
        ProtocolError: It is not the one spelling of such a file.
    """
    found = decode_json(data, limit=MAX_FILE)
    if not isinstance(found, dict) or not all(
        isinstance(note, str) and len(name) <= _LONGEST_NAME
        for name, note in found.items()
    ):
        raise _malformed(f"{FILE} is no object of notes by name")
    return {name: note.encode() for name, note in found.items()}


def read_heads(public: Path) -> dict[str, bytes]:
    """Read the heads beside a public checkpoint; none of them is checked.

    Raises:
        ProtocolError: The file is not the one spelling of such a file.
        ResourceError: The file cannot be read.
    """
    path = public / FILE
    with reading(path), suppress(FileNotFoundError):
        try:
            return decode_heads(read_plain(path, limit=MAX_FILE))
        except ProtocolError as error:
            raise error.at(str(path)) from None
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadReport:
    """A reading of the heads beside a checkpoint, which tells of its coordinator."""

    heads: Mapping[str, OutboxHead] = field(default_factory=dict)
    withheld: Mapping[str, int] = field(default_factory=dict)  # since: the oldest
    stale: Mapping[str, int] = field(default_factory=dict)  # size of the last head
    missing: tuple[str, ...] = ()  # members without a head; stale after a while

    @property
    def warnings(self) -> list[str]:
        """Each overdue head or entry in words."""
        said = [
            f"{name} submits an entry since entry {since}, which the log lacks"
            for name, since in self.withheld.items()
        ]
        for name, size in self.stale.items():
            last = f"the last head of {name} is of entry {size}"
            last = f"no head of {name} is there" if name in self.missing else last
            said.append(f"{last}: it is away, or shut out")
        return said

    @classmethod
    def of(
        cls,
        notes_by_name: Mapping[str, bytes],
        *,
        state: FederationState,
        sizes: Collection[int],
    ) -> Self:
        """Check the heads of members against their log.

        Args:
            notes_by_name: The heads, as they are published.
            state: The federation after the last entry under the checkpoint.
            sizes: Of cosigned checkpoints, as far as they are known, in any order.

        Raises:
            ProtocolError: A head is not a note over a head.
            VerificationError: A head is not signed by the member, or beyond the log.
            InconsistentLog: A member signed the head over another log.
        """
        settled, ordered = settle(state, seen=state.size), sorted(set(sizes))
        heads = {
            name: _open(name, note, state, settled=settled)
            for name, note in notes_by_name.items()
        }
        due = {
            name: overdue(head.waiting, size=head.checkpoint.size, sizes=ordered)
            for name, head in heads.items()
        }
        lacking = tuple(sorted(state.active.keys() - heads.keys()))
        lasts = {name: head.checkpoint.size for name, head in heads.items()}
        stale = {
            name: size
            for name, size in (dict.fromkeys(lacking, 0) | lasts).items()
            if name in state.active and _between(size, state.size, ordered) >= OVERDUE
        }
        return cls(
            heads=heads,
            withheld=_withheld(due, state) if any(due.values()) else {},
            stale=stale,
            missing=lacking,
        )


def overdue(
    waiting: Mapping[bytes, int], *, size: int, sizes: Sequence[int]
) -> dict[bytes, int]:
    """Return what still waits at a size, some checkpoints after it was submitted.

    ``sizes`` of checkpoints are in order.
    """
    return {
        leaf: since
        for leaf, since in waiting.items()
        if _between(since, size, sizes) >= OVERDUE
    }


def _withheld(
    due: Mapping[str, Mapping[bytes, int]], state: FederationState
) -> dict[str, int]:
    """Return since when members submit what the log should have, and lacks."""
    logged = {state.past.tree.leaf(index) for index in range(state.size)}
    lacking = {
        name: [since for leaf, since in each.items() if leaf not in logged]
        for name, each in due.items()
    }
    return {name: min(since) for name, since in lacking.items() if since}


def _between(since: int, until: int, sizes: Sequence[int]) -> int:
    return bisect_right(sizes, until) - bisect_right(sizes, since)


def _open(
    name: str, note: bytes, state: FederationState, *, settled: FederationState
) -> OutboxHead:
    try:
        claimed = OutboxHead.parse(notes.parse(note).text).checkpoint.size
        head = open_head(note, _keys(name, settled, claimed))
    except (ProtocolError, VerificationError) as error:
        raise error.at(f"{FILE}: the head of {name!r}") from error
    told = head.checkpoint
    if told.size > state.size:
        raise VerificationError(
            f"{FILE}: the head of {name} is of {told.size} entries, here are"
            f" {state.size}; get the bundle again",
            code="outbox-head-beyond",
        )
    if told.root != state.past.root(told.size):
        raise InconsistentLog(
            f"fork: {name} signed a head over another log of {told.size} entries",
            code="log-forked",
        )
    return head


def _keys(name: str, settled: FederationState, size: int) -> list[VerifyKey]:
    """Return the node keys that a member had at a size or got since.

    Raises:
        VerificationError: There never was such a member.
    """
    former = settled.former_keys.get((name, "node"), ())
    keys = [each.key for each in former if size <= each.until]
    if name in settled.members:
        keys.append(settled.roster.node_keys[name])
    if not keys:
        raise VerificationError(
            f"{name!r} was no member at entry {size}", code="outbox-head-unknown"
        )
    return keys


def _malformed(said: str) -> ProtocolError:
    return ProtocolError(f"head of an outbox: {said}", code="outbox-head-malformed")
