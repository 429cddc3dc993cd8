"""The comparison of the folders of releases and adapters with the log.

A folder may come whole or with its manifest only. A whole release must hold the
parameters that the rounds led to, and an adapter must be plain LoRA that fits the
release it names; both are read by our own parser, without a machine-learning stack.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tapestry.artifacts import manifest
from tapestry.errors import IncompleteError, TapestryError, VerificationError
from tapestry.inputs.plain_file import read_plain
from tapestry.tlog.proof import Proof
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance import registry
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.rules.federation_state import FederationState

_MAX_SMALL = 1 << 19


def check_artifacts(
    folders: Mapping[str, Path],
    *,
    state: FederationState,
    entries: Sequence[bytes],
    trust: TrustPolicy,
) -> set[str]:
    """Check every folder; returns the names of those that are whole.

    Args:
        folders: The folders, by the name of the release or adapter.
        state: The federation after all entries.
        entries: The log.
        trust: The policy under which proofs that lie in a folder are verified.

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
        _check_proofs(folder, state=state, entries=entries, trust=trust)
        found = manifest.take_stock(folder, listed)
        if found.files:
            manifest.verify(folder, listed)
            whole.add(name)
        found.refuse_foreign(name)  # a manifest alone, with a file that is none of it
    _check_models({name: folders[name] for name in whole}, state)
    return whole


def _check_models(folders: Mapping[str, Path], state: FederationState) -> None:
    bases = {}
    for name in folders.keys() & state.releases.keys():
        bases[name] = registry.read_base(folders[name])
        want = state.releases[name].parameters_digest
        if bases[name].digest != want:
            raise VerificationError(
                f"{name} holds parameters {bases[name].digest}, in the log is {want}",
                code="release-parameters-differ",
            )
    for name in folders.keys() & state.adapters.keys():
        entry = state.adapters[name]
        registry.check_entry(registry.check_folder(folders[name]), entry)
        if entry.base in bases:
            registry.check_fit(folders[name], bases[entry.base])


def _check_proofs(
    folder: Path,
    *,
    state: FederationState,
    entries: Sequence[bytes],
    trust: TrustPolicy,
) -> None:
    """Check the copies of log entries, and their proofs, beside a manifest."""
    place = folder / manifest.FOLDER
    for path in sorted(place.glob("*.entry")):
        if not _is_logged(_read(path), state):
            message = f"{folder.name}: {path.name} is not in the log"
            raise VerificationError(message, code="entry-not-in-log")
    for path in sorted(place.glob("*.tlog-proof")):
        proof = Proof.parse(_read(path))
        if proof.index >= len(entries):
            raise VerificationError(
                f"{folder.name}: {path.name} is for entry {proof.index} of a log of"
                f" {len(entries)}",
                code="proof-beyond-log",
            )
        proof.verify(entries[proof.index], trust)


def _is_logged(entry: bytes, state: FederationState) -> bool:
    try:
        return state.past.find(open_entry(entry)) is not None
    except TapestryError:  # no entry at all
        return False


def _read(path: Path) -> bytes:
    data = read_plain(path, limit=_MAX_SMALL)
    if not data:
        message = f"{path.parent.parent.name}: {path.name} is empty"
        raise IncompleteError(message, code="file-empty")
    return data
