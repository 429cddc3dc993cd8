"""Files of a release: parameters, card, manifest, log entry and proof.

A release is a Hugging Face folder that loads with plain ``transformers``, with one
more folder ``tapestry/`` inside::

    model.safetensors config.json tokenizer.json README.md …
    tapestry/manifest.json      every file above, with size and digest
    tapestry/release.entry      the log entry that names the manifest's digest
    tapestry/release.tlog-proof the proof that the entry is in the cosigned log
    tapestry/trust-policy.txt   the log and witnesses that this proof trusts
"""

from collections.abc import Mapping
from pathlib import Path

from tapestry.artifacts import manifest as manifests
from tapestry.storage import durable_files
from tapestry.workloads.base import Workload
from tapestry_governance.log.writer import Log

GIVEN = "given base"  # the fact of a card that names the run's starting point


def write_files(folder: Path, *, workload: Workload, card: str) -> str:
    """Write a release's files and return the digest of their manifest.

    Guarantees:
        The folder appears whole or not at all.

    Raises:
        ResourceError: The disk is full or the folder cannot be written.
    """
    with durable_files.replace_folder(folder) as draft:
        draft.mkdir()
        workload.save(draft)
        (draft / "README.md").write_text(card, encoding="utf-8")
        return manifests.write(draft).digest


def attach_proof(folder: Path, *, log: Log, index: int, trust: bytes) -> None:
    """Put the log entry and its proof next to the manifest."""
    place = folder / manifests.FOLDER
    (place / "release.entry").write_bytes(log.entries(index, index + 1)[0])
    (place / "release.tlog-proof").write_bytes(log.proof(index))
    (place / "trust-policy.txt").write_bytes(trust)


def card_of(
    name: str,
    *,
    digest: str,
    rounds: int,
    workload: Workload,
    facts: Mapping[str, str],
) -> str:
    """Return the model card of a released base.

    Edge cases:
        Where nothing names the given base's licence, neither does the card. The
        members choose the licence of the release itself; the card has none.

    Args:
        name: The name of the release.
        digest: The digest of its parameters.
        rounds: The number of closed rounds.
        workload: The source of the model's kind and the given base's origin.
        facts: Further rows of the card; ``GIVEN`` is the run's base, a name or folder.
    """
    origin = workload.origin(facts[GIVEN])
    kind = "".join(f"{key}: {value}\n" for key, value in origin.fields.items())
    licence = origin.licence
    front = f'tapestry:\n  given_base_licence: "{licence}"\n' if licence else ""
    terms = "see the given base for its licence"
    if licence is not None:
        terms = f"the given base is under {licence}"
    # The place of a folder on the coordinator's disk is not published.
    shown = {**facts, GIVEN: Path(facts[GIVEN]).name}
    rows = "\n".join(f"| {key} | {value} |" for key, value in shown.items())
    return f"""---
{kind}tags: [tapestry, federated]
{front}---

# {name}

A base model that institutions trained together. No record left an institution; the
coordinator saw masked sums only. Every step is in the federation's log.

| | |
|---|---|
| parameters | `{digest}` |
| rounds | {rounds} |
{rows}

Changed from the given base, {origin.title};
{terms}.

Check this folder with `tapestry release verify DIR`: its files, its parameters, and
that the log has them. Name the trust policy that you hold with `--trust`, and the audit
bundle with `--bundle` where it does not lie beside `releases/`.
"""
