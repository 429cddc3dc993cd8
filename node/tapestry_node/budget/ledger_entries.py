"""The entries of a privacy ledger: charges in a hash chain, and its mirrored head."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from tapestry.encoding import (
    canonical_json,
    decode_decimal,
    decode_json,
    digest,
    encode_decimal,
)
from tapestry.errors import ConfigError, ProtocolError, VerificationError
from tapestry.inputs.plain_file import read_plain
from tapestry.privacy import accounting
from tapestry.storage import durable_files
from tapestry.storage.sqlite_database import Database

_MAX_MIRROR = 64 << 20  # bytes: half a million entries
_LINE = re.compile(r"^([1-9][0-9]{0,17}) (sha256:[0-9a-f]{64})$", re.MULTILINE)
_CLOCK_TOLERANCE = timedelta(minutes=5)

Purpose = Literal["round", "adapter", "evaluation"]
Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One thing that leaves, and the steps on the records it was made from."""

    purpose: Purpose
    run: str  # run of a round, name of an adapter
    number: int  # round of a run, version of an adapter
    steps: accounting.Steps
    own_multiplier: float  # of the noise that is the node's own; the rest is others'

    @property
    def fallback(self) -> accounting.Steps:
        """The steps by the node's own noise alone, if all others take theirs out."""
        return replace(self.steps, noise_multiplier=self.own_multiplier)

    @property
    def key(self) -> Key:
        """The name under which it is charged once."""
        return (self.purpose, self.run, self.number)

    @property
    def title(self) -> str:
        """The name of it in a message."""
        return f"{self.purpose} {self.number} of {self.run!r}"

    def body(self) -> dict[str, Any]:
        """The fields of an entry; the inverse of ``_charge``."""
        return {
            "purpose": self.purpose,
            "run": self.run,
            "number": self.number,
            "noise_multiplier": encode_decimal(self.steps.noise_multiplier),
            "own_multiplier": encode_decimal(self.own_multiplier),
            "sampling_rate": encode_decimal(self.steps.sampling_rate),
            "steps": self.steps.steps,
            "coordinates": self.steps.coordinates,
            "bound": encode_decimal(self.steps.bound),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeRecord:
    """A charge as it stands."""

    charge: Charge
    state: Literal["reserved", "spent"]
    time: datetime


class HeadFile:
    """The number and digest of each entry, where a restored database does not reach.

    It is an append-only file with a line per entry.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def latest(self) -> tuple[int, str] | None:
        """Return the highest number and its digest; a line that a crash cut is none."""
        if not self._path.exists():
            return None
        data = read_plain(self._path, limit=_MAX_MIRROR, links=True)
        lines = _LINE.findall(data.decode("utf-8", "replace"))
        return max(((int(n), name) for n, name in lines), default=None)

    def record(self, number: int, digest: str) -> None:
        """Append a line and wait for the disk."""
        torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        line = b"\n" * torn + f"{number} {digest}\n".encode("ascii")
        durable_files.append_file(self._path, line)


class LedgerReplay:
    """All entries of a ledger, replayed in order inside one transaction."""

    def __init__(self, database: Database, now: datetime) -> None:
        self._database = database
        self._now = now
        self._last: datetime | None = None
        self._digests: list[str] = []
        self.rows: dict[Key, ChargeRecord] = {}
        self.terms: dict[str, str] | None = None
        self.limits: tuple[str, str] | None = None

    @property
    def number(self) -> int:
        """The number of entries."""
        return len(self._digests)

    @property
    def head(self) -> str:
        """The digest of the last entry; empty before the first."""
        return self._digests[-1] if self._digests else ""

    def load(self, *, mirrored: tuple[int, str] | None, name: str) -> None:
        """Read all entries and compare them with the mirror and the clock.

        Raises:
            VerificationError: Entries were changed, or are fewer than the mirror saw.
            ConfigError: The clock runs before the last entry.
        """
        self._replay_all(name)
        if mirrored is None and self.number > 1:
            raise VerificationError(
                f"{name} has lost its mirror file; put the newest back",
                code="ledger-head-missing",
            )
        if mirrored is not None:
            number, held = mirrored
            if number > self.number:
                raise VerificationError(
                    f"{name} ends at entry {self.number}, its mirror saw {number}:"
                    " it was restored from a backup, and budget may be spent that it"
                    " does not know of; put the newest copy back",
                    code="ledger-restored",
                )
            if not number > 0 or self._digests[number - 1] != held:
                raise VerificationError(
                    f"{name} contradicts its mirror at {number}",
                    code="ledger-head-differs",
                )
        if self._last is not None and self._now < self._last - _CLOCK_TOLERANCE:
            raise ConfigError(
                f"the clock says {self._now:%Y-%m-%d %H:%M}, but the ledger's last"
                f" entry is of {self._last:%Y-%m-%d %H:%M}; set the clock",
                code="clock-before-ledger",
            )

    def _replay_all(self, name: str) -> None:
        try:
            for number, body in self._database.execute(
                "SELECT number, body FROM entries ORDER BY number"
            ):
                self._replay(number, bytes(body))
        except ProtocolError as error:
            raise VerificationError(
                f"{name} was changed: {error}", code="ledger-changed"
            ) from None
        except (KeyError, TypeError, ValueError):  # they quote the entry
            raise VerificationError(
                f"{name} was changed: an entry is not as a ledger writes it",
                code="ledger-changed",
            ) from None

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry inside the transaction."""
        time = max(self._now, self._last or self._now)
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

    def _replay(self, number: int, body: bytes) -> None:
        entry = decode_json(body)
        if number != self.number + 1 or entry["previous"] != self.head:
            raise ProtocolError(
                f"entry {number} does not follow from the one before",
                code="ledger-entries-differ",
            )
        self._digests.append(digest(body))
        self._last = datetime.fromisoformat(entry["time"])
        match entry["type"]:
            case "open":
                self.terms = entry
            case "limit":
                self.limits = (entry["epsilon"], entry["fallback_epsilon"])
            case "reserve" | "spend":
                charge = _charge(entry)
                self.rows[charge.key] = ChargeRecord(
                    charge=charge,
                    state="reserved" if entry["type"] == "reserve" else "spent",
                    time=self._last,
                )
            case "release":
                del self.rows[_charge(entry).key]
            case _:
                raise ProtocolError(
                    f"entry {number} is of an unknown type", code="ledger-entry-unknown"
                )


def _charge(entry: dict[str, Any]) -> Charge:
    return Charge(
        purpose=entry["purpose"],
        run=entry["run"],
        number=entry["number"],
        steps=accounting.Steps(
            noise_multiplier=decode_decimal(entry["noise_multiplier"]),
            sampling_rate=decode_decimal(entry["sampling_rate"]),
            steps=entry["steps"],
            coordinates=entry["coordinates"],
            bound=decode_decimal(entry["bound"]),
        ),
        own_multiplier=decode_decimal(entry["own_multiplier"]),
    )
