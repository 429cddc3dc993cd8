"""``tapestry adapter``: is a folder what it says it is, and what is published.

Exit status as that of ``tapestry audit``: 0 it holds; 1 a check fails; 2 the log
breaks a rule; 3 something is missing or was not checked, so there is no verdict; 64
wrong usage. A folder says of itself what it likes; without the log nobody has vouched
for it.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tapestry.cli.audit import TrustFile, note_trust
from tapestry.cli.checks import (
    FolderGroup,
    Step,
    check_log,
    conclude,
    find,
    log_holds,
    run,
)
from tapestry.errors import ConfigError, IncompleteError
from tapestry_governance import registry
from tapestry_governance.audit import Audit, Verdict, verify
from tapestry_governance.bundle import read_small
from tapestry_governance.events import AdapterPublished

app = typer.Typer(
    cls=FolderGroup, help="Country adapters: check one, list all.", no_args_is_help=True
)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")]


@app.command("verify")
def verify_command(
    directory: Annotated[Path, typer.Argument(help="The adapter's folder.")],
    base: Annotated[
        Path | None,
        typer.Option(help="The released base; default: releases/ beside adapters/."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="The audit bundle; default: bundle/ beside adapters/."),
    ] = None,
    trust: TrustFile = None,
    as_json: AsJson = False,
) -> None:
    """Check an adapter without running it: files, weights, settings, base, log.

    Exit status: 0 every check holds; 1 one fails; 2 the log breaks a rule; 3 no
    verdict, since the base or the log is missing, so that it was not checked.
    """
    held = None if trust is None else read_small(trust)
    if not directory.is_dir():
        raise ConfigError(f"no folder {directory}; name the one of an adapter")
    steps: list[Step] = []
    found = run(steps, "folder", lambda: registry.check_folder(directory), _describe)
    report: dict[str, Any] = {"adapter": str(directory)}
    if found is not None:
        held_base = _check_base(steps, directory, found, base)

        def check(audit: Audit) -> AdapterPublished:
            entry = find(
                audit.state.adapters,
                kind="adapter",
                name=directory.resolve().name,
                manifest_digest=found.manifest_digest,
            )
            registry.check_entry(found, entry)
            if held_base is not None:
                registry.check_release(held_base, audit.state.releases[entry.base])
            return entry

        check_log(steps, directory, check, _line, bundle=bundle, trust=held)
        report["base"] = found.base
        report["base_digest"] = found.base_digest
        report["manifest_digest"] = found.manifest_digest
    if log_holds(steps):
        note_trust(held)
    conclude(steps, report, as_json=as_json)


@app.command("list")
def list_command(
    bundle: Annotated[Path, typer.Argument(help="The audit bundle's folder.")],
    trust: TrustFile = None,
    as_json: AsJson = False,
) -> None:
    """List the published adapters; the bundle is verified first.

    Exit status: 0 it holds; 1 a check of the bundle fails; 2 the log breaks a rule;
    3 something is missing, so there is no verdict. Only with 0 is anything listed.
    """
    audit = verify(bundle, trust=None if trust is None else read_small(trust))
    if audit.verdict is not Verdict.HOLDS:
        typer.echo(f"{bundle} does not verify: {audit.steps[-1].detail}", err=True)
        raise typer.Exit(int(audit.verdict))
    note_trust(audit.trust_file)
    adapters = [entry for _, entry in sorted(audit.state.adapters.items())]
    if as_json:
        rows = [entry.model_dump(mode="json") for entry in adapters]
        print(json.dumps({"adapters": rows}, indent=2))
        return
    for entry in adapters:
        print(_line(entry))


def _check_base(
    steps: list[Step], directory: Path, found: registry.Adapter, base: Path | None
) -> registry.Base | None:
    beside = directory.resolve().parent.parent / "releases" / found.base
    folder = base or beside

    def check() -> registry.Base:
        if base is None and not beside.is_dir():
            raise IncompleteError(f"{found.base} is not at hand; name it with --base")
        held = registry.check_base(folder)
        registry.check_fit(directory, held)
        if held.manifest_digest is None:
            raise IncompleteError(f"{found.base} lacks tapestry/manifest.json")
        return held

    def describe(_: registry.Base) -> str:
        return f"{found.base}, {found.base_digest}, all files as listed"

    checked: registry.Base | None = run(steps, "base", check, describe)
    return checked


def _describe(found: registry.Adapter) -> str:
    return (
        f"LoRA of rank {found.rank} on {found.modules} modules, {found.parameters}"
        f" parameters; manifest {found.manifest_digest}"
    )


def _line(entry: AdapterPublished) -> str:
    promise = "no promise" if entry.epsilon is None else f"epsilon {entry.epsilon}"
    return (
        f"{entry.name} {entry.version}  {entry.country}  {entry.language}"
        f"  {entry.licence}  on {entry.base}"
        f"  {promise} at delta {entry.target_delta}"
    )
