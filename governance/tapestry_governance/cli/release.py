"""``tapestry release``: check that a folder is the base model that was published."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tapestry.cli.commands import PATH, Argument, CommandGroup, as_json
from tapestry.cli.exit_status import ExitStatus
from tapestry.errors import IncompleteError
from tapestry_governance.cli.audit import trust_file
from tapestry_governance.cli.folder_checks import (
    CheckStep,
    check_log,
    conclude,
    find,
    members_step,
    require_folder,
    run,
)

if TYPE_CHECKING:
    from tapestry_governance import registry
    from tapestry_governance.audit.verify import Audit
    from tapestry_governance.events.model_events import ReleasePublished
    from tapestry_governance.vote_count import VoteCount


@click.group(cls=CommandGroup)
def app() -> None:
    """Released base models: check one."""


@app.command("verify")
@click.argument(
    "directory", cls=Argument, type=PATH, metavar="DIR", help="The release's folder."
)
@click.option(
    "--bundle",
    type=PATH,
    metavar="DIR",
    help="The audit bundle; default: bundle/ beside releases/.",
)
@trust_file
@as_json
def verify_command(
    directory: Path, bundle: Path | None, trust: bytes | None, as_json: bool
) -> ExitStatus:
    """Check a release without running it: files, parameters, log, votes.

    Status 5 says that members have not approved it yet, or that they withdrew it,
    unless the policy only warns of that. Without the log nothing proves where the
    folder is from, and there is no verdict.
    Disputes that members logged of the run's rounds are shown; one member alone can
    make them, so they do not change the verdict.
    """
    from tapestry_governance import registry
    from tapestry_governance.vote_count import count_votes

    require_folder(directory, kind="a release")
    steps: list[CheckStep] = []
    disputes: list[tuple[str, str, int]] = []
    votes: list[VoteCount] = []
    found = run(steps, "folder", lambda: _check_folder(directory), _describe)
    privacy = None
    if found is not None:

        def check(audit: "Audit") -> "ReleasePublished":
            entry = find(
                audit.state.releases,
                kind="release",
                name=directory.resolve().name,
                manifest_digest=found.manifest_digest,
            )
            registry.check_release(found, entry)
            disputes.extend(
                audit.state.disputes_of(entry.run_id, until=entry.round_number)
            )
            votes.append(count_votes(audit.state, entry.name, size=audit.state.size))
            return entry

        privacy = check_log(
            steps,
            directory,
            check,
            lambda entry: _line(entry, disputes),
            bundle=bundle,
            trust=trust,
        )
    known = votes if privacy is not None else []
    steps += map(members_step, known)
    report = {
        "release": str(directory),
        "standing": known[0].standing if known else None,
        "members": known[0].to_json() if known else None,
        "disputes": [
            {"member": member, "subject": subject, "round": number}
            for member, subject, number in disputes
        ],
    }
    return conclude(steps, report, privacy=privacy, trust=trust, as_json=as_json)


def _check_folder(directory: Path) -> "registry.BaseShape":
    from tapestry_governance import registry

    found = registry.read_base(directory)
    if found.manifest_digest is None:
        raise IncompleteError(
            "no tapestry/manifest.json: this is no release", code="manifest-missing"
        )
    return found


def _describe(found: "registry.BaseShape") -> str:
    return (
        f"all files as listed, {len(found.shapes)} tensors, model {found.digest};"
        f" manifest {found.manifest_digest}"
    )


def _line(entry: "ReleasePublished", disputes: Sequence[tuple[str, str, int]]) -> str:
    said = f"{entry.name}, of {entry.run_id}, round {entry.round_number}"
    for member, subject, number in disputes:
        said += f"; DISPUTED by {member}: the {subject} of round {number}"
    return said
