"""``tapestry adapter``: check a folder against base and log; list what is published.

A folder's own statements prove nothing; the log has what its publisher signed. The node
adds the commands of an institution for its own adapters.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, Argument, CommandGroup, as_json
from tapestry.cli.exit_status import ExitStatus
from tapestry.errors import IncompleteError
from tapestry_governance.cli.audit import (
    log_holds,
    note_faults,
    note_trust,
    status,
    trust_file,
)
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
    from tapestry_governance.events.model_events import AdapterPublished


@click.group(cls=CommandGroup)
def app() -> None:
    """Adapters: train and publish your own, check one, list all."""


@app.command("verify")
@click.argument(
    "directory", cls=Argument, type=PATH, metavar="DIR", help="The adapter's folder."
)
@click.option(
    "--base",
    type=PATH,
    metavar="DIR",
    help="The released base; default: releases/ beside adapters/.",
)
@click.option(
    "--bundle",
    type=PATH,
    metavar="DIR",
    help="The audit bundle; default: bundle/ beside adapters/.",
)
@trust_file
@as_json
def verify_command(
    directory: Path,
    base: Path | None,
    bundle: Path | None,
    trust: bytes | None,
    as_json: bool,
) -> ExitStatus:
    """Check an adapter without running it: files, weights, settings, base, log, votes.

    Status 5 says that members have not approved its base yet, or that they withdrew
    one of both, unless the policy only warns of that. Without the base or the log
    nothing proves where the folder is from, and there is no verdict.
    """
    from tapestry_governance import registry
    from tapestry_governance.vote_count import AdapterStanding, adapter_standing

    require_folder(directory, kind="an adapter")
    steps: list[CheckStep] = []
    found = run(steps, "folder", lambda: registry.check_folder(directory), _describe)
    report: dict[str, Any] = {"adapter": str(directory)}
    publishers: dict[str, str] = {}
    standing: list[AdapterStanding] = []
    privacy = None
    if found is not None:
        held_base = _check_base(steps, directory, found, base)

        def check(audit: "Audit") -> "AdapterPublished":
            entry = find(
                audit.state.adapters,
                kind="adapter",
                name=directory.resolve().name,
                manifest_digest=found.manifest_digest,
            )
            registry.check_entry(found, entry)
            publishers[entry.name] = audit.state.publishers[entry.name]
            size = audit.state.size
            standing.append(adapter_standing(audit.state, entry, size=size))
            if held_base is not None:
                registry.check_release(held_base, audit.state.releases[entry.base])
            return entry

        privacy = check_log(
            steps,
            directory,
            check,
            lambda entry: _line(entry, publishers[entry.name]),
            bundle=bundle,
            trust=trust,
        )
        known = standing if privacy is not None else []
        steps += map(members_step, known)
        report["members"] = known[0].to_json() if known else None
        report["publisher"] = next(iter(publishers.values()), None)
        report["base"] = found.base
        report["base_digest"] = found.base_digest
        report["manifest_digest"] = found.manifest_digest
    return conclude(steps, report, privacy=privacy, trust=trust, as_json=as_json)


def list_bundle(bundle: Path, *, trust: bytes | None, as_json: bool) -> ExitStatus:
    """List the published adapters, if the bundle's log holds; it is verified first.

    Faulty folders in the bundle are named, and make the exit status theirs.
    """
    from tapestry_governance.audit.verify import verify
    from tapestry_governance.vote_count import adapter_standing

    audit = verify(bundle, trust=trust)
    if not log_holds(audit):
        console.note(f"{bundle} does not verify: {audit.steps[-1].detail}")
        return status(audit)
    note_trust(audit.trust_file)
    note_faults(audit)
    state = audit.state
    adapters = [
        (entry, state.publishers[name], adapter_standing(state, entry, size=state.size))
        for name, entry in sorted(state.adapters.items())
    ]
    if as_json:
        rows = [
            {
                **entry.model_dump(mode="json"),
                "publisher": owner,
                "members": standing.to_json(),
            }
            for entry, owner, standing in adapters
        ]
        console.say_json({"adapters": rows})
    else:
        for entry, owner, standing in adapters:
            console.say(f"{_line(entry, owner)}; {standing}")
    return status(audit)


def _check_base(
    steps: list[CheckStep],
    directory: Path,
    found: "registry.CheckedAdapter",
    base: Path | None,
) -> "registry.BaseShape | None":
    from tapestry_governance import registry

    beside = directory.resolve().parent.parent / "releases" / found.base

    def check() -> registry.BaseShape:
        if base is None and not beside.is_dir():
            raise IncompleteError(
                f"{found.base} is not at hand; name it with --base", code="base-missing"
            )
        held = registry.read_base(base or beside)
        registry.check_fit(found, held)
        if held.manifest_digest is None:
            raise IncompleteError(
                f"{found.base} lacks tapestry/manifest.json", code="manifest-missing"
            )
        return held

    said = f"{found.base}, {found.base_digest}, all files as listed"
    return run(steps, "base", check, lambda _: said)


def _describe(found: "registry.CheckedAdapter") -> str:
    return (
        f"LoRA of rank {found.rank} on {found.modules} modules, {found.parameters}"
        f" parameters; manifest {found.manifest_digest}"
    )


def _line(entry: "AdapterPublished", publisher: str) -> str:
    promise = "no promise"
    if entry.epsilon is not None:
        promise = f"epsilon {entry.epsilon} at delta {entry.target_delta}"
    return (
        f"{entry.name} {entry.version}  by {publisher}  {entry.country}"
        f"  {entry.language}  {entry.licence}  on {entry.base}  {promise}"
    )
