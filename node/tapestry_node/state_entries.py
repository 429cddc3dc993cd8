"""The entries of a node's state: one hash chain, and the mirror of its head.

All obligations of a node are entries of this chain, and nothing else is their memory:
what it charged, accounted and uploaded for, which base each round gave, which chunks it
drew, at which step of a round it is, which signed entries the log still lacks. Older
rows of one kind cannot be put back beside newer ones of another: the chain breaks, or
ends before its mirror.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tapestry.encoding import canonical_json, decode_json, digest
from tapestry.errors import (
    ConfigError,
    PolicyError,
    ProtocolError,
    VerificationError,
)
from tapestry.inputs.plain_file import read_plain
from tapestry.storage import durable_files
from tapestry.storage.sqlite_database import Database
from tapestry_node.budget.ledger_entries import Charge, ChargeRecord, Key
from tapestry_node.data.data_version import DataVersion
from tapestry_node.outbox_report import follow_outbox
from tapestry_node.round.session_marks import SessionMark, has_uploaded
from tapestry_node.round.survivor_marks import ConsentMark, UploadMark

_MAX_MIRROR = 1 << 20  # bytes, about 10,000 lines; then the file starts anew
_LINE = re.compile(r"^([1-9][0-9]{0,17}) (sha256:[0-9a-f]{64})$", re.MULTILINE)
_CLOCK_TOLERANCE = timedelta(minutes=5)
_LAG = 3  # entries of one write, by which a crash leaves the mirror behind

Sign = Callable[[int, Sequence[Charge]], bytes]
"""Signs an account, by its number and all that is spent, what it accounts for too."""
_RoundKey = tuple[str, int]  # run, round


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A state that was restored, and does not know yet what came after the copy."""

    since: int  # the log's entries from here on may name what it has forgotten
    time: datetime  # of the restoration


class HeadFile:
    """The number and digest of the last entries, where a restored database ends not.

    It is a file with a line per write; above a mebibyte only the newest is kept, so
    that a peer which makes the node write again and again fills no disk with it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def latest(self) -> tuple[int, str] | None:
        """Return the highest number and its digest; a line that a crash cut is none."""
        if not self._path.exists():
            return None
        data = read_plain(self._path, limit=2 * _MAX_MIRROR, links=True)
        lines = _LINE.findall(data.decode("utf-8", "replace"))
        return max(((int(n), name) for n, name in lines), default=None)

    def record(self, number: int, digest: str) -> None:
        """Append a line and wait for the disk."""
        line = f"{number} {digest}\n".encode("ascii")
        held = self._path.read_bytes() if self._path.exists() else b""
        if len(held) > _MAX_MIRROR:
            durable_files.replace_file(self._path.resolve(), line)
            return
        torn = bool(held) and not held.endswith(b"\n")
        durable_files.append_file(self._path, b"\n" * torn + line)


class StateReplay:
    """All entries of a node's state, replayed in order."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = self._last = datetime.min.replace(tzinfo=UTC)
        self._digests: list[str] = []
        self.rows: dict[Key, ChargeRecord] = {}
        self.terms: dict[str, str] | None = None
        self.data: list[DataVersion] = []
        self.withdrawn: set[bytes] = set()  # marks of units that train no more
        self.exchanged = False  # the operator said it, since the last version
        self.limits: tuple[str, str] | None = None
        self.uploads: list[UploadMark] = []
        self.consents: list[ConsentMark] = []
        self.session: SessionMark | None = None  # the round that it is in
        self.receipt: tuple[int, str] | None = None  # the last at the last upload
        self.bases: dict[_RoundKey, str] = {}
        self.rebuilt: dict[_RoundKey, str] = {}  # manifests of releases
        self.spots: dict[_RoundKey, dict[int, str]] = {}  # chunk -> how it stands
        self.gates: set[_RoundKey] = set()  # disputed
        self.outbox: dict[bytes, datetime] = {}  # since when it waits
        self.submitted: dict[bytes, int] = {}  # leaf hash -> size of the log then
        self.accounted: dict[Key, bytes] = {}  # signed accounts, in order
        self.last_account = 0  # the highest number of one
        self.restored: Restored | None = None  # from a backup, and not settled yet
        self.has_forgotten = False  # ever, what it cosigned; then it goes on by keys
        self.witnesses: set[str] = set()  # that were made since
        self.cosigned = 0, ""  # the most entries, and their root
        self.secrets: dict[str, bytes] = {}

    @property
    def number(self) -> int:
        """The number of entries."""
        return len(self._digests)

    @property
    def head(self) -> str:
        """The digest of the last entry; empty before the first."""
        return self._digests[-1] if self._digests else ""

    def highest(self, run_id: str) -> int:
        """Return the last round of a run that was uploaded or paid for; 0 for none.

        A spent charge counts: what was trained under it is never trained again.
        """
        taken = [each.round_number for each in self.uploads if each.run == run_id]
        taken += [
            row.charge.number
            for row in self.rows.values()
            if row.state == "spent"
            and (row.charge.purpose, row.charge.run) == ("round", run_id)
        ]
        return max(taken, default=0)

    def load(
        self, *, mirrored: tuple[int, str] | None, now: datetime, name: str
    ) -> None:
        """Read the entries that are new; compare all with the mirror and the clock.

        Raises:
            VerificationError: Entries were changed, or are fewer than the mirror saw.
            ConfigError: The clock runs before the last entry.
        """
        self._now = now
        self._replay_new(name)
        if mirrored is None and self.number > _LAG:
            raise VerificationError(
                f"{name} has lost its mirror file; put the newest back",
                code="state-head-missing",
            )
        if mirrored is not None:
            number, held = mirrored
            if number < self.number - _LAG:
                raise VerificationError(
                    f"the mirror of {name} ends at entry {number}, the database at"
                    f" {self.number}: the mirror was restored from a backup; put the"
                    " newest copy back",
                    code="state-head-restored",
                )
            if number > self.number:
                raise VerificationError(
                    f"{name} ends at entry {self.number}, its mirror saw {number}:"
                    " it was restored from a backup, and has forgotten what was spent"
                    " and uploaded since; put the newest copy back",
                    code="state-restored",
                )
            if not number > 0 or self._digests[number - 1] != held:
                raise VerificationError(
                    f"{name} contradicts its mirror at {number}",
                    code="state-head-differs",
                )
        if self.number and now < self._last - _CLOCK_TOLERANCE:
            raise ConfigError(
                f"the clock says {now:%Y-%m-%d %H:%M}, but the last entry of {name}"
                f" is of {self._last:%Y-%m-%d %H:%M}; set the clock",
                code="clock-before-state",
            )

    def _replay_new(self, name: str) -> None:
        known = max(self.number, 1)  # the last one is read again
        try:
            rows = self._database.execute(
                "SELECT number, body FROM entries WHERE number >= ? ORDER BY number",
                (known,),
            ).fetchall()
            if self.number and (not rows or digest(bytes(rows[0][1])) != self.head):
                raise VerificationError(
                    f"{name} lacks entry {self.number}, which this process has read:"
                    " an older copy was put in its place; put the newest back",
                    code="state-restored",
                )
            for number, body in rows[bool(self.number) :]:
                self._replay(number, bytes(body))
        except ProtocolError as error:
            raise VerificationError(
                f"{name} was changed: {error}", code="state-changed"
            ) from None
        except (KeyError, TypeError, ValueError):  # they quote the entry
            raise VerificationError(
                f"{name} was changed: an entry is not as a node writes it",
                code="state-changed",
            ) from None

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry inside the transaction."""
        time = max(self._now, self._last)
        body = canonical_json(
            {
                **entry,
                "previous": self.head,
                "time": time.astimezone(UTC).isoformat(timespec="seconds"),
            }
        )
        number = self.number + 1
        self._database.execute("INSERT INTO entries VALUES (?, ?)", (number, body))
        self._replay(number, body)

    def is_charged(self, charge: Charge) -> bool:
        """Return whether a charge is reserved or spent.

        Raises:
            PolicyError: The same name was charged with other steps.
        """
        row = self.rows.get(charge.key)
        if row is not None and row.charge.body() != charge.body():
            raise PolicyError(
                f"{charge.title} was charged before with other steps",
                code="charge-differs",
            )
        return row is not None

    def spend(self, charge: Charge) -> None:
        """Count a reserved charge as spent, inside the transaction.

        Raises:
            PolicyError: It was not reserved, or with other steps.
        """
        if not self.is_charged(charge):
            raise PolicyError(
                f"{charge.title} was not reserved", code="charge-not-reserved"
            )
        if self.rows[charge.key].state == "reserved":
            self.append({"type": "spend", **charge.body()})

    def assume(self, charge: Charge) -> None:
        """Count a charge as spent that may have been, whatever the limit is.

        Raises:
            PolicyError: The same name was charged with other steps.
        """
        row = self.rows.get(charge.key)
        if row is not None and row.charge.is_like(charge):
            charge = row.charge  # on the blocks that were reserved
        if not self.is_charged(charge):
            self.append({"type": "reserve", **charge.body()})
        self.spend(charge)

    def assume_instead(self, charge: Charge) -> None:
        """Assume a charge of which no account was signed here, in the place of another.

        Of a round, another attempt may have been reserved and counted as spent.
        """
        row = self.rows.get(charge.key)
        if row is not None and row.charge.body() != charge.body():
            self.append({"type": "release", **row.charge.body()})
        self.assume(charge)

    def account(self, key: Key, sign: Sign) -> bytes:
        """Sign the account of what was spent, inside the transaction, and post it once.

        Its number is the next one, so that no number is left out or given twice.
        """
        if key not in self.accounted:
            spent = [r.charge for r in self.rows.values() if r.state == "spent"]
            number = self.last_account + 1
            self.adopt(key, sign(number, spent), number=number)
        return self.accounted[key]

    def adopt(self, key: Key, entry: bytes, *, number: int) -> None:
        """Keep a signed account with its number, inside the transaction."""
        named = dict(zip(("purpose", "run", "number"), key, strict=True))
        body = {"type": "account", **named, "entry": entry.hex()}
        self.append(body if number == self.last_account + 1 else {**body, "at": number})

    def _replay(self, number: int, body: bytes) -> None:
        entry = decode_json(body)
        if number != self.number + 1 or entry["previous"] != self.head:
            raise ProtocolError(
                f"entry {number} does not follow from the one before",
                code="state-entries-differ",
            )
        self._digests.append(digest(body))
        self._last = datetime.fromisoformat(entry["time"])
        match entry["type"]:
            case "open":
                self.terms = entry
            case "limit":
                self.limits = (entry["epsilon"], entry["fallback_epsilon"])
            case "reserve" | "spend":
                charge = Charge.parse(entry)
                self.rows[charge.key] = ChargeRecord(
                    charge=charge,
                    state="reserved" if entry["type"] == "reserve" else "spent",
                    number=number,
                    time=self._last,
                )
            case "release":
                del self.rows[Charge.parse(entry).key]
            case "upload":
                mark = UploadMark.parse(entry["mark"])
                self._check_paid(mark, entry["charge"], number)
                self.uploads.append(mark)
                self.receipt = entry["receipts"], entry["receipt"]
            case "consent":
                self.consents.append(ConsentMark.parse(entry["mark"]))
            case _:
                self._replay_result(number, entry)

    def _replay_result(self, number: int, entry: dict[str, Any]) -> None:
        """Replay what the node found of a round that ended."""
        key: _RoundKey = (entry.get("run", ""), entry.get("round", 0))
        match entry["type"]:
            case "base":
                self.bases[key] = entry["gives"]
            case "rebuilt":
                self.rebuilt[key] = entry["manifest"]
            case "draw":
                self.spots[key] = dict.fromkeys(entry["chunks"], "open")
            case "seen" | "disputed":
                self.spots[key][entry["chunk"]] = entry["type"]
            case "gate":
                self.gates.add(key)
            case _:
                self._replay_other(number, entry)

    def _replay_other(self, number: int, entry: dict[str, Any]) -> None:
        match entry["type"]:
            case "account":
                key: Key = (entry["purpose"], entry["run"], entry["number"])
                self.accounted[key] = bytes.fromhex(entry["entry"])
                number = entry.get("at", self.last_account + 1)
                self.last_account = max(self.last_account, number)
                follow_outbox(self.outbox, entry, self._last)
            case "post" | "clear":
                follow_outbox(self.outbox, entry, self._last)
            case "submitted":
                rows = entry["rows"].items()
                self.submitted = {bytes.fromhex(leaf): int(n) for leaf, n in rows}
            case "data":
                self.data.append(DataVersion.parse(entry))
                self.exchanged = False
            case "exchanged":
                self.exchanged = True
            case "withdrawn":
                self.withdrawn |= {bytes.fromhex(unit) for unit in entry["units"]}
            case "secret":
                self.secrets[entry["name"]] = bytes.fromhex(entry["value"])
            case _:
                self._replay_standing(number, entry)

    def _replay_standing(self, number: int, entry: dict[str, Any]) -> None:
        """Replay what holds until an entry ends it."""
        match entry["type"]:
            case "restored":
                since = entry["since"]
                if self.restored is not None:  # and what it forgot then, it still has
                    since = min(since, self.restored.since)
                self.restored = Restored(since=since, time=self._last)
                self.session = None  # what it did after the backup is not known
                self.has_forgotten, self.witnesses = True, set()
            case "settled":
                self.restored = None
            case "session":
                self._go_on(SessionMark.parse(entry["mark"]), number)
            case "session-end":
                self.session = None
            case _:
                self._replay_cosigning(number, entry)

    def _replay_cosigning(self, number: int, entry: dict[str, Any]) -> None:
        """Replay what was cosigned, and by which keys it may be."""
        match entry["type"]:
            case "cosigned":
                self.cosigned = entry["size"], entry["root"]
            case "witness-forgotten":
                self.has_forgotten, self.witnesses = True, set()
            case "witness-made":
                self.witnesses.add(entry["key"])
            case _:
                raise ProtocolError(
                    f"entry {number} is of an unknown type", code="state-entry-unknown"
                )

    @property
    def is_ahead_of_session(self) -> bool:
        """True if the round of the session was taken, and the session is before that.

        Then a training failed, or the process died before its upload was masked: the
        round is paid for, and ends here.
        """
        mark = self.session
        return mark is not None and has_uploaded(mark.stage) is not self._has_taken(
            mark
        )

    def _has_taken(self, mark: SessionMark) -> bool:
        last = self.uploads[-1] if self.uploads else None
        return last is not None and mark.key == last.key

    def _go_on(self, mark: SessionMark, number: int) -> None:
        """Require that a session goes one step on, and its upload has its mark."""
        if not mark.follows(self.session) or (
            has_uploaded(mark.stage) is not self._has_taken(mark)
        ):
            raise ProtocolError(
                f"entry {number} is a session at {mark.stage} of round"
                f" {mark.round_number}, which does not follow from what was taken",
                code="session-out-of-order",
            )
        self.session = mark

    def _check_paid(self, mark: UploadMark, paid: int | None, number: int) -> None:
        """Require that an upload names the entry that spent for it, if any had to."""
        row = self.rows.get(("round", mark.run, mark.round_number))
        spent = row.number if row is not None and row.state == "spent" else None
        if paid != spent or (spent is None) != (mark.noise == "none"):
            raise ProtocolError(
                f"entry {number} is an upload with noise {mark.noise!r} that names"
                f" charge {paid}, spent is {spent}",
                code="upload-not-charged",
            )
