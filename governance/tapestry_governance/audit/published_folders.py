"""The comparison of the folders of releases and adapters with the log.

A folder may come whole or with its manifest only. A whole release must hold the
parameters that the rounds led to, and an adapter must be plain LoRA that fits the
release it names; both are read by our own parser, without a machine-learning stack.
Beside the manifest lie copies of log entries: of a release its own, with the proof that
the log holds it and the trust policy that this proof needs; of an adapter its own and
that of its account.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tapestry.artifacts import manifest
from tapestry.artifacts.adapter_folder import ACCOUNTED, PUBLISHED
from tapestry.artifacts.foreign_files import refuse
from tapestry.artifacts.model_folder import ENTRY, POLICY, PROOF
from tapestry.errors import IncompleteError, TapestryError, VerificationError
from tapestry.inputs.plain_file import read_plain, reading
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.proof import Proof
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry.tlog.turn import spelled_for
from tapestry_governance import registry
from tapestry_governance.log.turns import Turns
from tapestry_governance.rules.federation_state import FederationState

_MAX_SMALL = 1 << 19


class EntriesByIndex(Protocol):
    """The entries of a log, one at a time."""

    def __getitem__(self, index: int, /) -> bytes:
        """Return the entry at an index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedArtifacts:
    """The releases and adapters of a bundle, by the name in the log.

    ``whole`` hold; of ``listed`` the manifest alone is here, and holds. ``fitted`` are
    the adapters that were compared with their base. ``faults`` are all others, each
    with its own fault.
    """

    whole: frozenset[str]
    listed: frozenset[str]
    fitted: frozenset[str]
    faults: Mapping[str, TapestryError]


def check_artifacts(
    folders: Mapping[str, Path],
    *,
    state: FederationState,
    entries: EntriesByIndex,
    policy: bytes,
    listed: Mapping[str, Mapping[str, str]] | None = None,
) -> CheckedArtifacts:
    """Check every folder; the fault of one is no other's.

    ``folders`` are by the name in the log; a release holds ``policy`` as well, or the
    one that took its place when the release was published; and
    ``listed`` has the digests of artifacts' files where another list has them, too.

    Guarantees:
        Each file of a folder without a fault is in its manifest, or is the manifest, or
        is one of those named above; all of these are there and compared.

    Edge cases:
        An adapter whose base is not here whole is not compared with it.
    """
    found = _Findings(state=state)
    ordered = sorted(folders, key=lambda name: (name not in state.releases, name))
    for name in ordered:  # releases first, which adapters must fit
        folder = folders[name]
        try:
            with reading(folder):
                _check_manifest(
                    folder, name, state, listed=(listed or {}).get(name, {})
                )
                check_copies(folder, name, state=state, entries=entries, policy=policy)
                if _is_whole(folder, name):
                    found.check_model(folder, name)
                    found.whole.add(name)
                else:
                    found.listed.add(name)
        except TapestryError as error:
            found.faults[name] = error
    return CheckedArtifacts(
        whole=frozenset(found.whole),
        listed=frozenset(found.listed),
        fitted=frozenset(found.fitted),
        faults=found.faults,
    )


@dataclass(slots=True, kw_only=True)
class _Findings:
    """The findings so far, with the bases that adapters are compared with."""

    state: FederationState
    bases: dict[str, registry.BaseShape] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)
    fitted: set[str] = field(default_factory=set)
    faults: dict[str, TapestryError] = field(default_factory=dict)

    def check_model(self, folder: Path, name: str) -> None:
        """Compare the parameters of a release, or the settings of an adapter."""
        if name in self.state.releases:
            base = registry.read_base(folder)
            registry.check_release(base, self.state.releases[name])
            self.bases[name] = base
            return
        entry, adapter = self.state.adapters[name], registry.check_folder(folder)
        registry.check_entry(adapter, entry)
        if entry.base in self.bases:
            registry.check_fit(adapter, self.bases[entry.base])
            self.fitted.add(name)


def _check_manifest(
    folder: Path, name: str, state: FederationState, *, listed: Mapping[str, str]
) -> None:
    published = state.releases.get(name) or state.adapters.get(name)
    if published is None:
        message = f"artifact {name} is not in the log"
        raise VerificationError(message, code="artifact-not-in-log")
    found, wanted = manifest.read(folder), published.manifest_digest
    if found.digest != wanted:
        message = f"{name}: manifest {found.digest}, in the log is {wanted}"
        raise VerificationError(message, code="manifest-differs")
    for file in found.files:
        if listed.get(file.name, file.content) != file.content:
            message = f"{name}: {file.name} was changed; get the folder again"
            raise VerificationError(message, code="manifest-file-changed")


def _is_whole(folder: Path, name: str) -> bool:
    """Return whether more than the manifest is here, and refuse what is not listed."""
    found = manifest.take_stock(folder, manifest.read(folder))
    found.refuse_foreign(name)
    return bool(found.files)


def check_copies(
    folder: Path,
    name: str,
    *,
    state: FederationState,
    entries: EntriesByIndex,
    policy: bytes,
) -> None:
    """Check the files beside the manifest of a release or adapter that is in the log.

    Raises:
        IncompleteError: One of them is missing or empty.
        ProtocolError: The proof is malformed.
        VerificationError: One is not the log's, or the proof does not hold.
        ForeignFileError: Something else lies there.
    """
    if name not in state.releases:
        _compare(folder, _expected(name, state, entries))
        return
    published = state.published[name]
    proof = Proof.parse(_read(folder / manifest.FOLDER / PROOF))
    size = read_claim(proof.checkpoint).size
    trust = Turns(TrustPolicy.parse(policy)).in_force(state, size)
    copies = {ENTRY: entries[published], POLICY: trust.encode(), PROOF: None}
    _compare(folder, copies)
    if proof.index != published:
        message = f"{folder.name}: {PROOF} is for entry {proof.index}, not {published}"
        raise VerificationError(message, code="inclusion-proof-invalid")
    proof.verify(entries[published], trust)


def attach_proof(
    folder: Path, entry: bytes, *, proof: Proof, trust: TrustPolicy
) -> None:
    """Put the log entry of a release and its proof next to the manifest.

    ``trust`` is the policy by which the proof's checkpoint counts.
    """
    place = folder / manifest.FOLDER
    checkpoint = spelled_for(trust, proof.checkpoint)
    (place / ENTRY).write_bytes(entry)
    (place / PROOF).write_bytes(replace(proof, checkpoint=checkpoint).encode())
    (place / POLICY).write_bytes(trust.encode())


def _expected(
    name: str, state: FederationState, entries: EntriesByIndex
) -> dict[str, bytes | None]:
    """Return the files beside the manifest of an adapter."""
    published = entries[state.published[name]]
    return {PUBLISHED: published, ACCOUNTED: entries[state.paid_by[name]]}


def _compare(folder: Path, expected: Mapping[str, bytes | None]) -> None:
    place = folder / manifest.FOLDER
    names = {path.name for path in place.iterdir()} - {manifest.FILE}
    if foreign := names - expected.keys():
        refuse(f"{folder.name}/{manifest.FOLDER}", foreign=foreign)
    for name, wanted in expected.items():
        found = _read(place / name)
        if wanted is not None and found != wanted:
            message = f"{folder.name}: {name} is not the one that the log needs here"
            code = "trust-policy-differs" if name == POLICY else "own-entry-differs"
            raise VerificationError(message, code=code)


def _read(path: Path) -> bytes:
    name = f"{path.parent.parent.name}: {path.name}"
    try:
        data = read_plain(path, limit=_MAX_SMALL)
    except FileNotFoundError:
        message = f"{name} is missing; get the folder again"
        raise IncompleteError(message, code="file-missing") from None
    if not data:
        raise IncompleteError(f"{name} is empty", code="file-empty")
    return data
