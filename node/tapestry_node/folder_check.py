"""The part of a node's check that needs no model: keys, trust, certificate, state, log.

Each fault becomes a finding, so that one check names all of them.

Guarantees:
    Nothing is written: no file is made, and none changes. What a node keeps is read as
    it lies there, also while the node runs.

Edge cases:
    After a node was killed, SQLite may rebuild the ``-shm`` file beside a database.
"""

import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tapestry.cli.exit_status import ExitStatus, status_of
from tapestry.errors import ConfigError, IncompleteError, TapestryError
from tapestry.inputs.faults import ManyFaults
from tapestry.keys import SigningKey, VerifyKey
from tapestry.storage.file_lock import lock_file
from tapestry.storage.sqlite_database import ReadOnly
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry.transport_keys import load_transport_key
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.directory import PURPOSES, open_mirror, read_key, read_trust
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.refusal import Objection
from tapestry_node.settings import NodeSettings, Transport
from tapestry_node.superlink_credentials import (
    check_address,
    check_validity,
    read_certificates,
    validity,
)

KINDS = ("failed", "refused", "missing", "warning")
_KIND_OF = {ExitStatus.FAILED: "failed", ExitStatus.INCOMPLETE: "missing"}
_PUBLIC = {".pub", ".node-id"}


class Findings:
    """The faults that a check found, by kind, each once.

    ``failed`` is what does not verify, ``refused`` what breaks a rule, ``missing`` what
    ``tapestry node run`` needs and does not find; a ``warning`` keeps no node away.
    """

    def __init__(self) -> None:
        self.of: dict[str, list[Objection]] = {kind: [] for kind in KINDS}
        self._lines: list[str] = []

    def add(self, found: Objection, *, kind: str = "refused") -> None:
        """Add a finding, unless another one says the same and more."""
        known = [each for kind in KINDS for each in self.of[kind]]
        if not any(found.detail in each.detail for each in known):
            self.of[kind].append(found)
            self._lines.append(f"{kind:<9} {found}")

    def add_error(self, error: TapestryError, *, place: str = "") -> None:
        """Add what an error says; of many faults of a folder, each."""
        kind = _KIND_OF.get(status_of(error), "refused")
        if not isinstance(error, ManyFaults):
            self.add(Objection.of(error, place=place), kind=kind)
            return
        folder, *lines = str(error).splitlines()
        for line in lines:
            place = folder.rpartition(": ")[0]
            self.add(Objection(error.code, f"{place}: {line.strip()}"), kind=kind)

    @contextmanager
    def noting(self, place: str = "") -> Iterator[None]:
        """Add the error of a block, and go on."""
        try:
            yield
        except TapestryError as error:
            self.add_error(error, place=place)

    def news(self) -> Iterator[str]:
        """Yield a line for each finding since the last call."""
        yield from self._lines
        self._lines = []

    @property
    def status(self) -> ExitStatus:
        """The exit status: of the worst finding."""
        if self.of["failed"]:
            return ExitStatus.FAILED
        if self.of["refused"]:
            return ExitStatus.RULE_BROKEN
        return ExitStatus.INCOMPLETE if self.of["missing"] else ExitStatus.HOLDS


class FolderCheck:
    """The content of a node's folder, read without a model and without a trace."""

    def __init__(
        self, folder: Path, settings: NodeSettings, *, findings: Findings
    ) -> None:
        """Take a folder; nothing is read yet."""
        self.folder, self.settings, self.findings = folder, settings, findings
        self.keys: dict[str, SigningKey] = {}
        self.trust: TrustPolicy | None = None
        self.transport: Transport | None = None  # with the paths as they are opened
        self.store: NodeState | None = None
        self.log: FederationState | None = None
        self._open = ExitStack()

    def close(self) -> None:
        """Close what was opened."""
        self._open.close()

    @property
    def public_keys(self) -> dict[str, VerifyKey]:
        """The public halves of the keys that could be read."""
        return {purpose: key.verify_key for purpose, key in self.keys.items()}

    def modes(self) -> dict[str, str]:
        """Return the mode of each private file of ``keys/``, in octal digits."""
        keys = self.folder / "keys"
        return {
            path.name: f"{stat.S_IMODE(path.lstat().st_mode):04o}"
            for path in (sorted(keys.iterdir()) if keys.is_dir() else ())
            if path.suffix not in _PUBLIC
        }

    def read_files(self, now: datetime) -> None:
        """Read keys, trust policy and credentials."""
        for purpose in PURPOSES:
            with self.findings.noting():
                self.keys[purpose] = read_key(self.folder, purpose)
        with self.findings.noting():
            if self.settings.joined:
                self.trust = read_trust(self.folder)
        transport = self.settings.transport
        if transport is None:
            said = (
                "node.toml has no [transport]; add the table with superlink,"
                " root_certificates, auth_key and poll_seconds, or give tapestry node"
                " run --superlink, --root-certificates and --auth-key"
            )
            error = ConfigError(said, code="transport-missing")
            self.findings.add(Objection.of(error), kind="missing")
            return
        self._read_credentials(transport, now)

    def _read_credentials(self, transport: Transport, now: datetime) -> None:
        """Read what the node needs to dial; set ``transport`` if all of it is there."""
        paths = {
            name: self.folder / getattr(transport, name)
            for name in ("root_certificates", "auth_key")
        }
        before = sum(map(len, self.findings.of.values()))
        with self.findings.noting("transport.superlink: "):
            check_address(transport.superlink)
        readers: tuple[tuple[str, Callable[[Path], object]], ...] = (
            ("root_certificates", read_certificates),
            ("auth_key", load_transport_key),
        )
        for name, read in readers:
            with self.findings.noting(f"transport.{name}: "):
                if not paths[name].exists():
                    said = f"no file {paths[name]}; put it there"
                    raise IncompleteError(said, code="file-missing")
                read(paths[name])
        if sum(map(len, self.findings.of.values())) == before:
            changed = {name: str(path) for name, path in paths.items()}
            self.transport = transport.model_copy(update=changed)
            path = paths["root_certificates"]
            self.check_certificate(*validity(path), what=str(path), now=now)

    def check_certificate(
        self, begins: datetime, ends: datetime, *, what: str, now: datetime
    ) -> None:
        """Add a finding for a certificate that is not valid, or not for long."""
        with self.findings.noting():
            soon = check_validity(begins, ends, what=what, now=now)
            if soon is not None:
                self.findings.add(Objection.of(soon), kind="warning")

    def read_state(self) -> None:
        """Read the mirror of the log and the node's state, and compare them.

        Neither is set if it is not there or does not hold.
        """
        with self.findings.noting():
            readonly: ReadOnly = "still" if self._hold() else True
            if self.trust is not None and (self.folder / "view.db").exists():
                with self.findings.noting():
                    self._read_log(readonly)
            self.store = self._read_store(readonly)

    def _read_log(self, readonly: ReadOnly) -> None:
        mirror = open_mirror(self.folder, self.settings, readonly=readonly)
        self._open.callback(mirror.close)
        self.log = mirror.state if mirror.size else None

    def _read_store(self, readonly: ReadOnly) -> NodeState:
        path = self.folder / DATABASE
        store = NodeState(path, readonly=readonly) if path.exists() else self.scratch()
        self._open.callback(store.close)
        if self.log is not None:
            store.require(self.log.uploads_of(self.settings.name))
        if store.restored is not None:
            said = f"{path} was restored from a backup: the node waits for others' word"
            self.findings.add(Objection("restored-unsettled", said), kind="warning")
        return store

    def scratch(self) -> NodeState:
        """Return the state of a node that has not begun, kept outside of the folder."""
        place = self._open.enter_context(TemporaryDirectory())
        store = NodeState(Path(place) / DATABASE)
        self._open.callback(store.close)
        return store

    def _hold(self) -> bool:
        """Keep a node from starting meanwhile; False if one runs, or was killed."""
        lock = (self.folder / DATABASE).with_suffix(".lock")
        try:
            if lock.exists():
                self._open.enter_context(lock_file(lock))
        except BlockingIOError:
            said = (
                f"another process serves {self.folder}; what it does meanwhile is not"
                " part of this check"
            )
            error = ConfigError(said, code="folder-served")
            self.findings.add(Objection.of(error), kind="warning")
            return False
        return True
