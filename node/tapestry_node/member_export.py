"""The export of all that an institution owns, for the day that it goes on alone.

::

    releases/NAME/     the releases that this node holds, rebuilt, with their proofs
    adapters/NAME-N/   the institution's own adapters, by version
    bundle/            the log that it mirrors, as ``tapestry audit verify`` reads it
    ledger.json        what its budget was spent on
    receipts.json      what left the node, message by message
    public-keys.json   its keys as the log has them
    corpus.toml        the manifest of its data, under the workload's name for it
    NAME.left          its signed exit, if it leaves
    export.json        what is here, and what is not
    MANIFEST.sha256    every other file with its SHA-256; sha256sum -c reads it

Guarantees:
    It needs no coordinator, no network and no key, and the node may run. The export is
    whole or absent, and replaces nothing. No private key and no record is in it: each
    file is printed from what was parsed, or is listed in the manifest of an adapter
    that was handed out. A release is bit for bit what the log names.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from tapestry.artifacts import manifest
from tapestry.artifacts.adapter_folder import ACCOUNTED, PUBLISHED
from tapestry.artifacts.manifest import FOLDER
from tapestry.encoding import decode_decimal
from tapestry.errors import (
    ConfigError,
    IncompleteError,
    TapestryError,
    VerificationError,
)
from tapestry.inputs.faults import Faults
from tapestry.inputs.setting_values import to_toml
from tapestry.model.release_draft import ReleaseDraft
from tapestry.model.replica import Replica
from tapestry.storage import durable_files
from tapestry.tlog.merkle import Tree, leaf_hash
from tapestry.tlog.proof import Proof
from tapestry.tlog.trust_policy import CosignedCheckpoint
from tapestry.workloads.base import Workload
from tapestry.workloads.workload_registry import open_reader, open_workload
from tapestry_governance import registry
from tapestry_governance.audit.bundle import new_bundle, write_manifest
from tapestry_governance.audit.published_folders import attach_proof
from tapestry_governance.events.round_events import RoundClosed
from tapestry_governance.founding_files import read_entry
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.log.turns import Turns
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.round_records import ReleaseRecord
from tapestry_node.adapters.adapter_file import PUBLICATIONS
from tapestry_node.budget.ledger import Ledger
from tapestry_node.data.manifest_file import read_manifest
from tapestry_node.directory import open_mirror, read_trust
from tapestry_node.mirror_bundle import collect_bundle
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.round.admission import first_round
from tapestry_node.round.base_snapshots import BaseSnapshots
from tapestry_node.round.release_bases import ends_of_releases
from tapestry_node.settings import NodeSettings

_PURPOSES = ("root", "node", "witness", "community")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The content of an export, and what it should have and lacks, with reasons."""

    releases: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    lacks: dict[str, TapestryError] = field(default_factory=dict)


def export(folder: Path, place: Path) -> Exported:
    """Export what the institution of a node's folder owns.

    Edge cases:
        A release or adapter that is damaged, or a base that is not there any more, is
        named in ``lacks``, and keeps nothing else from being exported. Releases that
        are older than those that a node keeps (``release_bases``) are not looked for.

    Raises:
        ConfigError: The place is taken, a setting is invalid, or the node never ran.
        IncompleteError: The node has accepted no checkpoint yet.
        ResourceError: A database cannot be read, or a file not be written.
        VerificationError: The mirror or the state was changed, or the state is older.
    """
    settings = NodeSettings.read(folder / "node.toml")
    data = settings.data_in(folder)[0].resolve()
    if data in (place.resolve(), *place.resolve().parents):
        raise ConfigError(
            f"{place} lies in {data}, where each file is a record; choose another"
            " folder",
            code="output-in-data",
        )
    with ExitStack() as opened:
        draft = opened.enter_context(new_bundle(place))
        mirror = open_mirror(folder, settings, readonly=True)
        opened.callback(mirror.close)
        state = mirror.state
        store = NodeState(folder / DATABASE, readonly=True)  # after the mirror
        opened.callback(store.close)
        store.require(state.uploads_of(settings.name))
        draft.mkdir(mode=0o700)
        collect_bundle(folder, draft / "bundle")
        accepted = mirror.accepted
        if accepted is None:  # unreachable: there would be no bundle
            raise IncompleteError("no checkpoint yet", code="checkpoint-missing")
        under_way = _Export(
            folder=folder,
            draft=draft,
            settings=settings,
            mirror=mirror,
            store=store,
            accepted=accepted,
        )
        return under_way.write()


@dataclass(frozen=True, kw_only=True)
class _Export:
    """An export that has its bundle, and is being written."""

    folder: Path
    draft: Path
    settings: NodeSettings
    mirror: LogMirror
    store: NodeState
    accepted: CosignedCheckpoint
    made: Exported = field(default_factory=Exported)

    def write(self) -> Exported:
        name, state = self.settings.name, self.mirror.state
        self._write_json("ledger", self._ledger.to_json())
        self._write_json("receipts", [asdict(row) for row in self.store.receipts()])
        self._write_json("public-keys", _public_keys(state, name))
        self._write_data_manifest()
        left = self.folder / f"{name}.left"
        if left.exists():
            entry = self._read(left.name, lambda: read_entry(left))
            if entry is not None:
                durable_files.replace_file(self.draft / left.name, entry)
        if state.releases:
            self._write_releases()
        for path in sorted(
            (self.folder / PUBLICATIONS).glob(f"*/{FOLDER}/{PUBLISHED}")
        ):
            self._copy_adapter(path.parent.parent)
        self._write_json("export", self._contents())
        write_manifest(self.draft)
        return self.made

    @property
    def _ledger(self) -> Ledger:
        policy = self.settings.policy
        return Ledger.look(
            self.store,
            epsilon=decode_decimal(policy.epsilon_limit),
            fallback_epsilon=decode_decimal(policy.fallback_epsilon_limit),
        )

    def _read(self, what: str, read: Callable[[], _Value]) -> _Value | None:
        """Read a part; one that cannot be had is noted with its reason."""
        try:
            return read()
        except TapestryError as error:
            self.made.lacks[what] = error
            return None

    def _write_json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        place = self.draft / f"{name}.json"
        durable_files.replace_file(place, f"{text}\n".encode(), mode=0o600)

    def _write_data_manifest(self) -> None:
        """Print the manifest anew, so that no remark in it comes along."""
        reader = open_reader(self.settings.workload)
        if reader is None:
            return
        name = reader.manifest_file
        data, place = self.settings.data_in(self.folder)
        faults = Faults()
        found = self._read(
            name, lambda: read_manifest(data, reader, faults, place=place)
        )
        self._read(name, lambda: faults.check(data))
        if found is not None:
            text = tomli_w.dumps(to_toml(found.model_dump(), type(found)))
            durable_files.replace_file(self.draft / name, text.encode())

    def _write_releases(self) -> None:
        """Rebuild the releases that should be here, from the bases that are kept."""
        settings, state = self.settings, self.mirror.state
        workload = self._read(
            "base",
            lambda: open_workload(
                settings.workload, settings.base, machine=settings.speed.machine
            ),
        )
        if workload is None:
            return
        given = Replica.start(workload.given)
        bases = BaseSnapshots(directory=self.folder, given=given)
        held = {*ends_of_releases(state), *bases.held()}
        tree = Tree(map(leaf_hash, self.mirror.entries(0, self._size)))
        for release in state.released:
            end = state.end_of(release)
            if end is None or end not in held:
                continue
            rebuild = partial(self._rebuild, release, end, bases, workload)
            found = self._read(release.name, rebuild)
            if found is not None:
                self._write_release(found, tree)
                self.made.releases.append(release.name)

    @property
    def _size(self) -> int:
        return self.accepted.checkpoint.size

    def _rebuild(
        self,
        release: ReleaseRecord,
        end: int,
        bases: BaseSnapshots,
        workload: Workload,
    ) -> ReleaseDraft:
        """Rebuild a release from the base after the round that ended at an index.

        Raises:
            IncompleteError: There is no such base here, or no quorum has cosigned the
                release yet.
            ResourceError: The base cannot be read.
            VerificationError: It is not what the log names.
        """
        name = release.name
        if release.index >= self._size:
            raise IncompleteError(
                f"no checkpoint with {name} was accepted here yet; let the node run",
                code="checkpoint-missing",
            )
        draft = ReleaseDraft(
            name=name,
            round_number=release.round_number,
            first=first_round(self.mirror, release.run_id),
            replica=bases.read(end, self.mirror.body(end, RoundClosed)),
            given=workload.given,
            card_fields=workload.card_fields,
        )
        said = self.mirror.state.releases[name].manifest_digest
        if draft.manifest.digest != said:
            raise VerificationError(
                f"{name} has manifest {said} in the log, rebuilt here it has"
                f" {draft.manifest.digest}",
                code="manifest-differs",
            )
        return draft

    def _write_release(self, release: ReleaseDraft, tree: Tree) -> None:
        place, state = self.draft / "releases" / release.name, self.mirror.state
        release.write(place)
        listed = release.manifest.encode()
        durable_files.replace_file(place / FOLDER / manifest.FILE, listed)
        index = state.published[release.name]
        hashes = tuple(tree.inclusion_proof(index, self._size))
        proof = Proof(index=index, hashes=hashes, checkpoint=self.accepted.note)
        trust = Turns(read_trust(self.folder)).in_force(state, self._size)
        (entry,) = self.mirror.entries(index, index + 1)
        attach_proof(place, entry, proof=proof, trust=trust)

    def _copy_adapter(self, source: Path) -> None:
        """Copy the files that the manifest of an adapter lists, and its entries."""
        found = self._read(source.name, lambda: registry.check_folder(source))
        if found is None:
            return
        own = (manifest.FILE, ACCOUNTED, PUBLISHED)
        files = [file.name for file in manifest.read(source).files]
        for name in (*files, *(f"{FOLDER}/{each}" for each in own)):
            place = self.draft / "adapters" / source.name / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, place, follow_symlinks=False)
        self.made.adapters.append(source.name)

    def _contents(self) -> dict[str, Any]:
        """Say what is here; of what is not the code alone, and no path."""
        state, made = self.mirror.state, self.made
        return {
            "kind": "tapestry-export/1",
            "federation": self.settings.federation,
            "member": self.settings.name,
            "genesis": self.settings.joined,
            "size": self._size,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "releases": {name: state.standing_of(name) for name in made.releases},
            "adapters": made.adapters,
            "lacks": {what: error.code for what, error in made.lacks.items()},
        }


def _public_keys(state: FederationState, name: str) -> dict[str, str]:
    """Return the keys of a member by purpose, or the last ones of a former member."""
    member = state.members.get(name)
    if member is not None:
        return {purpose: getattr(member, purpose) for purpose in _PURPOSES}
    former = {p: state.former_keys.get((name, p), ())[-1:] for p in _PURPOSES}
    return {purpose: str(key.key) for purpose, keys in former.items() for key in keys}
