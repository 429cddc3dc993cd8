"""Parameters -> files, manifest, log entry, proof.

A release is a Hugging Face folder that loads with plain ``transformers``, with one
more folder ``tapestry/`` inside::

    model.safetensors config.json tokenizer.json README.md …
    tapestry/manifest.json      every file above, with size and digest
    tapestry/release.entry      the log entry that names the manifest's digest
    tapestry/release.tlog-proof the entry is in the cosigned log
    tapestry/policy.txt         whom that proof trusts
"""

import os
import shutil
from pathlib import Path

from tapestry import manifest as manifests
from tapestry.errors import ResourceError
from tapestry.workloads import Workload
from tapestry_governance.log import Log

ENTRY = "release.entry"
PROOF = "release.tlog-proof"
POLICY = "policy.txt"


def write_files(folder: Path, *, workload: Workload, card: str) -> str:
    """Write a release's files and return the digest of their manifest.

    Guarantees:
        The folder appears whole or not at all.

    Raises:
        ResourceError: The disk is full or the folder cannot be written.
    """
    draft = folder.with_name(folder.name + ".draft")
    try:
        for leftover in (draft, folder):
            if leftover.exists():
                shutil.rmtree(leftover)
        draft.mkdir(parents=True)
        workload.save(draft)
        (draft / "README.md").write_text(card, encoding="utf-8")
        digest = manifests.write(draft).digest
        draft.replace(folder)
        _sync(folder.parent)
    except OSError as error:
        raise ResourceError(f"cannot write {folder}: {error.strerror}") from error
    return digest


def attach_proof(folder: Path, *, log: Log, index: int, trust: bytes) -> None:
    """Put the log entry and its proof next to the manifest."""
    place = folder / manifests.FOLDER
    (place / ENTRY).write_bytes(log.entries(index, index + 1)[0])
    (place / PROOF).write_bytes(log.proof(index))
    (place / POLICY).write_bytes(trust)


def card_of(name: str, *, digest: str, rounds: int, facts: dict[str, str]) -> str:
    """Write the model card of a released base."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [tapestry, federated]
---

# {name}

A base model that institutions trained together. No record left an institution; the
coordinator saw masked sums only. Every step is in the federation's log.

| | |
|---|---|
| parameters | `{digest}` |
| rounds | {rounds} |
{rows}

Check this folder with `tapestry/manifest.json`, and the manifest's digest with
`tapestry/release.entry` and its proof against your own copy of the trust policy.
"""


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
