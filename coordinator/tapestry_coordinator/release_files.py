"""Parameters -> files, manifest, log entry, proof.

A release is a Hugging Face folder that loads with plain ``transformers``, with one
more folder ``tapestry/`` inside::

    model.safetensors config.json tokenizer.json README.md …
    tapestry/manifest.json      every file above, with size and digest
    tapestry/release.entry      the log entry that names the manifest's digest
    tapestry/release.tlog-proof the entry is in the cosigned log
    tapestry/trust-policy.txt         whom that proof trusts
"""

import os
import re
import shutil
from pathlib import Path

from tapestry.artifacts import manifest as manifests
from tapestry.errors import ResourceError
from tapestry.workloads.base import Workload
from tapestry_governance.log.writer import Log

ENTRY = "release.entry"
PROOF = "release.tlog-proof"
POLICY = "trust-policy.txt"

GIVEN = "given base"  # the fact of a card that says where the run started
# What the bases of workloads/bases.py that have a name are, and their licences.
_NAMED = {
    "smollm2": ("SmolLM2-135M-Instruct by HuggingFaceTB", "Apache-2.0"),
    "tiny": ("random parameters", None),
}
_FRONT = re.compile(r"\A---\n(.*?)^---$", re.DOTALL | re.MULTILINE)
_LICENCE = re.compile(  # the hub's word, or that of a release's card
    r"""^(?:license|  given_base_licence): *(["']?)"""
    r"""([A-Za-z0-9][A-Za-z0-9.+-]{0,79})\1 *$""",
    re.MULTILINE,
)
_NO_LICENCE = frozenset({"other", "unknown"})  # the hub's words for "read the card"


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
    """Write the model card of a released base.

    Edge cases:
        Where nothing names the given base's licence, neither does the card. A
        licence of the release itself is the members' to choose; the card has none.

    Args:
        name: The release's.
        digest: Of its parameters.
        rounds: How many were closed.
        facts: What else to tell; ``GIVEN`` is the run's base, a name or a folder.
    """
    title, licence = _source(facts[GIVEN])
    front = f'tapestry:\n  given_base_licence: "{licence}"\n' if licence else ""
    shown = facts | {
        GIVEN: Path(facts[GIVEN]).name
    }  # where it lies is nobody's concern
    rows = "\n".join(f"| {key} | {value} |" for key, value in shown.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [tapestry, federated]
{front}---

# {name}

A base model that institutions trained together. No record left an institution; the
coordinator saw masked sums only. Every step is in the federation's log.

| | |
|---|---|
| parameters | `{digest}` |
| rounds | {rounds} |
{rows}

{_origin(title, licence)}

Check this folder with `tapestry release verify DIR`: its files, its parameters, and
that the log has them. Name the trust policy that you hold with `--trust`, and the audit
bundle with `--bundle` where it does not lie beside `releases/`.
"""


def _source(given: str) -> tuple[str, str | None]:
    """Say what a given base is and, where that is known, under which licence."""
    if given in _NAMED:
        return _NAMED[given]
    return "a model folder", _licence_in(Path(given) / "README.md")


def _origin(title: str, licence: str | None) -> str:
    if licence is None:
        terms = "see the given base for its licence"
    else:
        terms = f"the given base is under {licence}"
    return f"Changed from the given base, {title};\n{terms}."


def _licence_in(card: Path) -> str | None:
    """Read the licence from a model card's front matter, if it names one."""
    try:
        front = _FRONT.match(card.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    found = _LICENCE.search(front[1]) if front else None
    return found[2] if found and found[2] not in _NO_LICENCE else None


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
