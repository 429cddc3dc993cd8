"""Releases of the base: parameters, card, manifest, log entry and proof.

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
from tapestry.errors import InconsistentLog
from tapestry.model.release_draft import ReleaseDraft
from tapestry.model.replica import Replica
from tapestry.storage import durable_files
from tapestry.tlog.proof import Proof
from tapestry.workloads.base import Workload
from tapestry_coordinator.log_publisher import event_of
from tapestry_coordinator.run_context import RunContext
from tapestry_governance.audit.published_folders import attach_proof
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.events.round_events import RoundClosed, RoundOpened


def release(run: RunContext, replica: Replica, workload: Workload) -> None:
    """Publish the current base, unless it is published already.

    Raises:
        QuorumError: Too few members cosign the release.
        ResourceError: The files cannot be written.
    """
    state = run.publisher.state
    closed = state.last_closed
    if closed is None:
        return
    latest, last = state.released.last, (closed.run_id, closed.round_number)
    if latest is None or (latest.run_id, latest.round_number) != last:
        previous = None if latest is None else latest.name
        draft = _draft(run, replica, closed, workload)
        index = _publish(run, draft, closed, previous=previous)
    else:
        index = latest.index
    name = f"base-{len(run.publisher.state.releases)}"
    run.publisher.publish(run.grid.nodes())
    folder = run.directory / "releases" / name
    if folder.exists():
        (entry,) = run.log.entries(index, index + 1)
        proof = Proof.parse(run.log.proof(index))
        attach_proof(folder, entry, proof=proof, trust=run.publisher.in_force)


def _draft(
    run: RunContext, replica: Replica, closed: RoundClosed, workload: Workload
) -> ReleaseDraft:
    state = run.publisher.state
    name = f"base-{len(state.releases) + 1}"
    run.notify({"stage": "release", "text": name})
    at = state.runs[closed.run_id]
    (entry,) = run.log.entries(at, at + 1)
    first = event_of(entry)
    if not isinstance(first, RoundOpened):
        raise InconsistentLog(
            f"entry {at} of the log is {first.type}, want {RoundOpened.type}",
            code="opening-entry-missing",
        )
    return ReleaseDraft(
        name=name,
        round_number=closed.round_number,
        first=first.manifest,
        replica=replica,
        given=workload.given,
        card_fields=workload.card_fields,
    )


def _publish(
    run: RunContext, draft: ReleaseDraft, closed: RoundClosed, *, previous: str | None
) -> int:
    name = draft.name
    write_files(run.directory / "releases" / name, draft)
    return run.publisher.append_event(
        ReleasePublished(
            name=name,
            model_digest=draft.model_digest,
            parameters_digest=draft.parameters_digest,
            manifest_digest=draft.manifest.digest,
            run_id=closed.run_id,
            round_number=closed.round_number,
            previous=previous,
        )
    )


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
