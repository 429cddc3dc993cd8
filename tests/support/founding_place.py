"""A place where a federation is founded by the commands: folders of four parties."""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import Result, tapestry

NAMES = ("nordland", "ostrava", "sueden")
PASSPHRASE = "correct horse battery"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Place:
    """The folders, and the commands of a founding over them."""

    root: Path
    records: Path | None = None  # where the data are, unless at the root

    @classmethod
    def make(cls, root: Path) -> "Place":
        """Put data and a passphrase there; no party has begun."""
        place = cls(root)
        (root / "pass").mkdir(parents=True)
        place.passphrase.write_text(f"{PASSPHRASE}\n", "utf-8")
        place.passphrase.chmod(0o600)
        for name in NAMES:
            place.data(name).mkdir()
            rows = [json.dumps({"text": f"row {n} of {name}"}) for n in range(60)]
            text = "\n".join(rows) + "\n"
            (place.data(name) / "rows.jsonl").write_text(text, "utf-8")
        return place

    @property
    def passphrase(self) -> Path:
        return self.root / "pass" / "phrase"

    @property
    def coordinator(self) -> Path:
        return self.root / "rivers"

    @property
    def invitation(self) -> Path:
        return self.coordinator / "rivers.invite"

    @property
    def charter(self) -> Path:
        return self.coordinator / "rivers.charter"

    def data(self, name: str) -> Path:
        return (self.records or self.root) / f"data-{name}"

    def node(self, name: str) -> Path:
        return self.root / name

    def request(self, name: str) -> Path:
        return self.node(name) / f"{name}.request"

    def acceptance(self, name: str) -> Path:
        return self.node(name) / f"{name}.acceptance"

    def copy(self, root: Path) -> "Place":
        """Copy the folders; node.toml goes on naming the data that were there."""
        shutil.copytree(self.root, root, symlinks=True)
        return Place(root, self.records or self.root)

    # The commands

    def coordinator_init(self, *more: object, base: str = "tiny") -> Result:
        return tapestry(
            *("coordinator", "init", self.coordinator, "--federation", "rivers"),
            *("--address", "rivers.example:443", "--base", base),
            *("--passphrase-file", self.passphrase, *more),
        )

    def node_init(self, name: str, *more: object) -> Result:
        return tapestry(
            *("node", "init", self.node(name), "--invite", self.invitation),
            *("--data", self.data(name), "--language", "de", "--licence", "CC0-1.0"),
            *("--passphrase-file", self.passphrase, *more),
        )

    def write_charter(self, requests: Iterable[Path] = ()) -> Result:
        named = list(requests) or [self.request(name) for name in NAMES]
        return tapestry("coordinator", "charter", self.coordinator, *named)

    def fingerprint(self) -> str:
        return tapestry("governance", "fingerprint", self.charter).stdout.strip()

    def accept(
        self,
        name: str,
        *more: object,
        typed: str | None = None,
        heard: Iterable[str] = (),
    ) -> Result:
        others = list(heard) or [each for each in NAMES if each != name]
        return tapestry(
            *("governance", "accept", self.charter, "--node", self.node(name)),
            *("--fingerprint", typed or self.fingerprint()),
            *(word for each in others for word in ("--heard", each)),
            *("--passphrase-file", self.passphrase, *more),
        )

    def open(self, acceptances: Iterable[Path] = ()) -> Result:
        named = list(acceptances) or [self.acceptance(name) for name in NAMES]
        return tapestry("coordinator", "open", self.coordinator, *named)

    # What is there

    def files(self) -> dict[str, tuple[bytes, int]]:
        """Bytes and mode of all files, by path."""
        return {
            path.relative_to(self.root).as_posix(): (
                path.read_bytes(),
                path.stat().st_mode & 0o777,
            )
            for path in self.root.rglob("*")
            if path.is_file()
        }


def ok(result: Result) -> Result:
    """Require that a command ended well."""
    assert result.exit_code == 0, result.stderr
    return result


def asked(root: Path) -> Place:
    """All parties have begun: keys, settings, and three requests."""
    place = Place.make(root)
    ok(place.coordinator_init())
    for name in NAMES:
        ok(place.node_init(name))
    return place


def refuses(result: Result, status: int, code: str) -> str:
    """Require one line with this status and code, and return it."""
    assert result.exit_code == status, result
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].endswith(f"[{code}]"), lines[0]
    return lines[0]


def broken(path: Path, what: str) -> None:
    """Put what is no document of a founding at a path."""
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "garbage":
        path.write_bytes(bytes(range(256)))
    elif what == "too large":
        path.write_bytes(b"1" * (1 << 20))
