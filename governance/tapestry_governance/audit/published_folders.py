"""The comparison of the folders of releases and adapters with the log.

A folder may come whole or with its manifest only. A whole release must hold the
parameters that the rounds led to, and an adapter must be plain LoRA that fits the
release it names; both are read by our own parser, without a machine-learning stack.
Beside the manifest lie copies of log entries: of a release its own, with the proof that
the log holds it and the trust policy that this proof needs; of an adapter its own and
that of its account.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tapestry.artifacts import manifest
from tapestry.artifacts.foreign_files import refuse
from tapestry.errors import IncompleteError, VerificationError
from tapestry.inputs.plain_file import read_plain
from tapestry.tlog.proof import Proof
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance import registry
from tapestry_governance.rules.federation_state import FederationState

RELEASED, PROOF, POLICY = "release.entry", "release.tlog-proof", "trust-policy.txt"
PUBLISHED, ACCOUNTED = "published.entry", "accounted.entry"
_MAX_SMALL = 1 << 19


def check_artifacts(
    folders: Mapping[str, Path],
    *,
    state: FederationState,
    entries: Sequence[bytes],
    policy: bytes,
) -> set[str]:
    """Check every folder; returns the names of those that are whole.

    ``folders`` are by the name in the log; a release holds ``policy`` as well.

    Guarantees:
        Each file of a folder is in its manifest, or is the manifest, or is one of those
        named above; all of these are there and compared.

    Raises:
        IncompleteError: A folder lacks its manifest or a file, or one is empty.
        ProtocolError: A manifest or proof is malformed.
        VerificationError: A folder is not what was published.
        ForeignFileError: A folder holds files that are not part of it.
    """
    digests = {r.name: r.manifest_digest for r in state.releases.values()}
    digests |= {a.name: a.manifest_digest for a in state.adapters.values()}
    whole = set()
    for name, folder in folders.items():
        if name not in digests:
            message = f"artifact {name} is not in the log"
            raise VerificationError(message, code="artifact-not-in-log")
        listed = manifest.read(folder)
        if listed.digest != digests[name]:
            message = f"{name}: manifest {listed.digest}, in the log is {digests[name]}"
            raise VerificationError(message, code="manifest-differs")
        check_copies(folder, name, state=state, entries=entries, policy=policy)
        found = manifest.take_stock(folder, listed)
        if found.files:
            whole.add(name)
        found.refuse_foreign(name)  # a manifest alone, with a file that is none of it
    _check_models({name: folders[name] for name in whole}, state)
    return whole


def check_copies(
    folder: Path,
    name: str,
    *,
    state: FederationState,
    entries: Sequence[bytes],
    policy: bytes,
) -> None:
    """Check the files beside the manifest of a release or adapter that is in the log.

    Raises:
        IncompleteError: One of them is missing or empty.
        ProtocolError: The proof is malformed.
        VerificationError: One is not the log's, or the proof does not hold.
        ForeignFileError: Something else lies there.
    """
    _compare(folder, _expected(name, state, entries, policy=policy))
    if name in state.releases:
        _check_proof(folder, state.published[name], entries, policy=policy)


def _check_models(folders: Mapping[str, Path], state: FederationState) -> None:
    bases = {}
    for name in sorted(folders.keys() & state.releases.keys()):
        bases[name] = registry.read_base(folders[name])
        registry.check_release(bases[name], state.releases[name])
    for name in sorted(folders.keys() & state.adapters.keys()):
        entry, found = state.adapters[name], registry.check_folder(folders[name])
        registry.check_entry(found, entry)
        if entry.base in bases:
            registry.check_fit(found, bases[entry.base])


def _expected(
    name: str, state: FederationState, entries: Sequence[bytes], *, policy: bytes
) -> dict[str, bytes | None]:
    """Return the files beside a manifest; None for a proof, of which there are many."""
    published = entries[state.published[name]]
    if name in state.releases:
        return {RELEASED: published, POLICY: policy, PROOF: None}
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


def _check_proof(
    folder: Path, index: int, entries: Sequence[bytes], *, policy: bytes
) -> None:
    proof = Proof.parse(_read(folder / manifest.FOLDER / PROOF))
    if proof.index != index:
        message = f"{folder.name}: {PROOF} is for entry {proof.index}, not {index}"
        raise VerificationError(message, code="inclusion-proof-invalid")
    proof.verify(entries[index], TrustPolicy.parse(policy))


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
