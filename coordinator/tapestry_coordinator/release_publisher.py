"""Releases of the base: files, card, log entry and proof."""

from tapestry.model.replica import Replica
from tapestry_coordinator import release_files as releases
from tapestry_coordinator.run_context import RunContext
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.events.round_events import RoundClosed


def release(run: RunContext, replica: Replica) -> None:
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
        index = _publish(run, replica, closed, previous=previous)
    else:
        index = latest.index
    name = f"base-{len(run.publisher.state.releases)}"
    run.publisher.publish(run.grid.nodes())
    folder = run.directory / "releases" / name
    if folder.exists():
        releases.attach_proof(folder, log=run.log, index=index, trust=run.trust)


def _publish(
    run: RunContext, replica: Replica, closed: RoundClosed, *, previous: str | None
) -> int:
    name = f"base-{len(run.publisher.state.releases) + 1}"
    run.notify({"stage": "release", "text": name})
    run.workload.load(replica.parameters)
    settings = run.settings
    privacy = settings.privacy
    facts = {"given base": settings.base, "noise": privacy.noise}
    if privacy.noise != "none":
        facts |= {
            "noise multiplier": privacy.noise_multiplier,
            "unit of privacy": privacy.unit,
            "adjacency": privacy.adjacency,
        }
    card = releases.card_of(
        name,
        digest=replica.digest,
        rounds=closed.round_number,
        workload=run.workload,
        facts=facts,
    )
    digest = releases.write_files(
        run.directory / "releases" / name, workload=run.workload, card=card
    )
    return run.publisher.append_event(
        ReleasePublished(
            name=name,
            parameters_digest=replica.digest,
            manifest_digest=digest,
            run_id=closed.run_id,
            round_number=closed.round_number,
            previous=previous,
        )
    )
