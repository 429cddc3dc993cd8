"""An institution's adapters as they stand, and the entries that it hands in for them.

``hand_in`` and ``withdraw`` put a signed entry into the outbox, from where the node
hands it in with its next cosignature. The coordinator then asks for an adapter's files,
and logs the entry when they hold.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tapestry.artifacts.adapter_folder import ACCOUNTED, PUBLISHED
from tapestry.artifacts.manifest import FOLDER
from tapestry.errors import ConfigError, IncompleteError, TapestryError
from tapestry.inputs.plain_file import read_plain
from tapestry.schema import first_fault
from tapestry.tlog.tiles import MAX_ENTRY_BYTES
from tapestry_governance.events.envelope import Author, open_entry, sign_entry
from tapestry_governance.events.model_events import AdapterPublished
from tapestry_governance.events.publication_events import AdapterWithdrawn
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.settlement import settle
from tapestry_governance.vote_count import Withdrawn
from tapestry_node.adapters.adapter_file import PUBLICATIONS, check_name, names_in
from tapestry_node.adapters.publication import publication_in
from tapestry_node.adapters.training_job import (
    JOB,
    TrainingJob,
    is_asked,
    read_progress,
)
from tapestry_node.directory import open_mirror
from tapestry_node.node_keys import KeyRing
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.settings import NodeSettings
from tapestry_node.submission import submit

_VERSION = re.compile("(.+)-([1-9][0-9]{0,6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A version of an adapter, or one that has none yet, and how it stands."""

    name: str
    version: int | None
    base: str | None
    state: str  # planned, waiting, training, failed, trained, published, accepted, …
    detail: str

    def to_json(self) -> dict[str, Any]:
        """Return the row for programs."""
        return asdict(self)

    def __str__(self) -> str:
        what = self.name if self.version is None else f"{self.name} {self.version}"
        on = "" if self.base is None else f" on {self.base}"
        return f"{what}{on}: {self.state}{self.detail and f', {self.detail}'}"


def made_in(folder: Path, name: str | None = None) -> dict[tuple[str, int], bytes]:
    """Return the entries of the publications in a folder, by name and version.

    Edge cases:
        One that is not whole, or whose entry is another's, is none.
    """
    found: dict[tuple[str, int], bytes] = {}
    for path in sorted((folder / PUBLICATIONS).glob(f"*/{FOLDER}/{PUBLISHED}")):
        named = _VERSION.fullmatch(path.parent.parent.name)
        if named is None or name not in (None, named[1]):
            continue
        entry = read_plain(path, limit=MAX_ENTRY_BYTES)
        body = open_entry(entry).event.body
        key = named[1], int(named[2])
        if isinstance(body, AdapterPublished) and (body.name, body.version) == key:
            found[key] = entry
    return dict(sorted(found.items()))


def hand_in(folder: Path, name: str) -> tuple[int, bool]:
    """Put the newest version of an adapter into the outbox; the node may run.

    Returns:
        The version, and whether it waits; False where the log has it already.

    Raises:
        IncompleteError: No version is trained here, or the node has no log yet.
        RuleError: The log would refuse the adapter.
        VerificationError: The publication is not as it was written.
    """
    check_name(name)
    made = made_in(folder, name)
    if not made:
        raise IncompleteError(
            f"no version of {name!r} is trained here; tapestry adapter train {name}"
            " trains one, and tapestry adapter list says how it stands",
            code="adapter-not-trained",
        )
    (_, version), published = list(made.items())[-1]
    place = folder / PUBLICATIONS / f"{name}-{version}"
    publication_in(place)  # the files are those that were written
    account = read_plain(place / FOLDER / ACCOUNTED, limit=MAX_ENTRY_BYTES)
    _, is_new = submit(folder, [account, published])
    return version, is_new


def withdraw(
    folder: Path,
    settings: NodeSettings,
    name: str,
    *,
    version: int | None,
    reason: str,
    now: datetime,
) -> int:
    """Sign the withdrawal of a version that is in the log, and hand it in.

    Returns:
        The version: the newest, if none is named.

    Raises:
        ConfigError: The reason is no reason code.
        IncompleteError: The log has no such version, or the node has no log yet.
        RuleError: The log would refuse it: it is another's, or withdrawn already.
    """
    check_name(name)
    with ExitStack() as opened:
        mirror = open_mirror(folder, settings, readonly=True)
        opened.callback(mirror.close)
        digest, version = _published(mirror.state, name, version)
        try:
            body = AdapterWithdrawn(
                name=name, version=version, manifest_digest=digest, reason=reason
            )
        except ValidationError as error:
            raise ConfigError(
                f"--reason: {first_fault(error)}; a word such as superseded",
                code="reason-malformed",
            ) from None
        entry = _waiting(folder, body) or _sign(folder, settings, body, mirror, now=now)
    submit(folder, [entry])
    return version


def _sign(
    folder: Path,
    settings: NodeSettings,
    body: AdapterWithdrawn,
    mirror: LogMirror,
    *,
    now: datetime,
) -> bytes:
    ring, seen = KeyRing.read(folder, settings.name), mirror.seen
    state = settle(mirror.state, seen=0 if seen is None else seen.size)
    author = Author(
        federation=settings.federation, actor=settings.name, role="community"
    )
    event = author.event(body, now=now, seen=seen)
    return sign_entry(event, ring.as_of(state)["community"])


def _waiting(folder: Path, body: AdapterWithdrawn) -> bytes | None:
    """Return the same withdrawal if it waits in the outbox already."""
    store = NodeState(folder / DATABASE, readonly=True)
    try:
        found = (e for e in store.outbox() if open_entry(e).event.body == body)
        return next(found, None)
    finally:
        store.close()


def _published(
    state: FederationState, name: str, version: int | None
) -> tuple[str, int]:
    """Return manifest and version of an adapter in the log; by default the newest."""
    known = state.adapters.get(name)
    wanted = known.version if version is None and known is not None else version
    for (each, digest), number in state.adapter_files.items():
        if (each, number) == (name, wanted):
            return digest, number
    what = name if version is None else f"{name} {version}"
    raise IncompleteError(
        f"the log has no adapter {what!r}; what was not published needs no withdrawal",
        code="adapter-not-in-log",
    )


def list_adapters(folder: Path, settings: NodeSettings) -> list[Row]:
    """List the adapters of an institution by name and version; the node may run.

    Raises:
        VerificationError: Mirror or state were changed.
        ResourceError: A file cannot be read.
    """
    with ExitStack() as opened:
        state, outbox = None, list[bytes]()
        if (folder / "view.db").exists():
            mirror = open_mirror(folder, settings, readonly=True)
            opened.callback(mirror.close)
            state = mirror.settled if mirror.size else None
        if (folder / DATABASE).exists():
            store = NodeState(folder / DATABASE, readonly=True)
            opened.callback(store.close)
            outbox = store.outbox()
    rows = list(_versions(folder, settings.name, state=state, outbox=outbox))
    known = {row.name for row in rows}
    for name in sorted({*names_in(folder), *names_in(folder, JOB)}):
        if is_asked(folder, name):
            rows.append(_asked(folder, name))
        elif name not in known:
            rows.append(_row(name, "planned", "its settings are here"))
    return sorted(rows, key=lambda row: (row.name, row.version or 1 << 30))


def _row(name: str, state: str, detail: str, base: str | None = None) -> Row:
    return Row(name=name, version=None, base=base, state=state, detail=detail)


def _asked(folder: Path, name: str) -> Row:
    """Say how a training stands that was asked for."""
    try:
        job = TrainingJob.read(folder, name)
    except TapestryError as error:
        return _row(name, "failed", f"{error} [{error.code}]")
    if job.failed is not None:
        return _row(name, "failed", job.failed, job.release)
    told = read_progress(folder, name)
    if told is not None:
        return _row(name, "training", f"step {told.done} of {told.total}", job.release)
    return _row(name, "waiting", "for the node, between rounds", job.release)


def _versions(
    folder: Path, owner: str, *, state: FederationState | None, outbox: list[bytes]
) -> Iterator[Row]:
    """Yield the versions that are made here, and those that the log has besides."""
    made = made_in(folder)
    logged = _logged(state, owner)
    for name, version in sorted({*made, *logged}):
        base, detail, how = None, "paid for; tapestry adapter publish", "trained"
        if (name, version) in made:
            entry = made[name, version]
            body = open_entry(entry).event.body
            base = body.base if isinstance(body, AdapterPublished) else None
            if entry in outbox:
                how, detail = "published", "it waits for the log"
        if state is not None and (digest := logged.get((name, version))) is not None:
            how, detail = _accepted(state, name, version, digest=digest)
        yield Row(name=name, version=version, base=base, state=how, detail=detail)


def _logged(state: FederationState | None, owner: str) -> Mapping[tuple[str, int], str]:
    """Return the manifests of the versions of a member in the log."""
    if state is None:
        return {}
    return {
        (name, version): digest
        for (name, digest), version in state.adapter_files.items()
        if state.publishers.get(name) == owner
    }


def _accepted(
    state: FederationState, name: str, version: int, *, digest: str
) -> tuple[str, str]:
    withdrawn = Withdrawn.of(state, name, digest)
    if withdrawn is not None:
        return "withdrawn", f"by entry {withdrawn.decided}: {withdrawn.words}"
    if state.adapters[name].version == version:
        return "accepted", f"in the log at {state.published[name]}"
    return "accepted", "in the log; there is a newer version"
