"""Files of a release: parameters, card, manifest, log entry and proof.

A release is a Hugging Face folder that loads with plain ``transformers``, with one
more folder ``tapestry/`` inside::

    model.safetensors config.json tokenizer.json README.md …
    tapestry/manifest.json      every file above, with size and digest
    tapestry/release.entry      the log entry that names the manifest's digest
    tapestry/release.tlog-proof the proof that the entry is in the cosigned log
    tapestry/trust-policy.txt   the log and witnesses that this proof trusts
"""

from pathlib import Path

from tapestry.artifacts import manifest as manifests
from tapestry.model.release_draft import ReleaseDraft
from tapestry.storage import durable_files
from tapestry_governance.log.writer import Log


def write_files(folder: Path, draft: ReleaseDraft) -> None:
    """Write a release's files and their manifest.

    Guarantees:
        The folder appears whole or not at all.

    Raises:
        ResourceError: The disk is full or the folder cannot be written.
    """
    with durable_files.replace_folder(folder) as place:
        draft.write(place)
        listed = draft.manifest.encode()
        durable_files.replace_file(place / manifests.FOLDER / manifests.FILE, listed)


def attach_proof(folder: Path, *, log: Log, index: int, trust: bytes) -> None:
    """Put the log entry and its proof next to the manifest."""
    place = folder / manifests.FOLDER
    (place / "release.entry").write_bytes(log.entries(index, index + 1)[0])
    (place / "release.tlog-proof").write_bytes(log.proof(index))
    (place / "trust-policy.txt").write_bytes(trust)
