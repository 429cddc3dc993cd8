"""``tapestry release``: is a folder the base model that was published.

Exit status as that of ``tapestry audit``: 0 it holds; 1 a check fails; 2 the log
breaks a rule; 3 something is missing or was not checked, so there is no verdict.
"""

from pathlib import Path
from typing import Annotated

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
from tapestry_governance.audit import Audit
from tapestry_governance.bundle import read_small
from tapestry_governance.events import ReleasePublished

app = typer.Typer(
    cls=FolderGroup, help="Released base models: check one.", no_args_is_help=True
)


@app.callback()
def _root() -> None:
    """Nothing to do before a command."""


@app.command("verify")
def verify_command(
    directory: Annotated[Path, typer.Argument(help="The release's folder.")],
    bundle: Annotated[
        Path | None,
        typer.Option(help="The audit bundle; default: bundle/ beside releases/."),
    ] = None,
    trust: TrustFile = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object, for machines.")
    ] = False,
) -> None:
    """Check a release without running it: files, parameters, log.

    Exit status: 0 every check holds; 1 one fails; 2 the log breaks a rule; 3 no
    verdict, since the log is missing, so that nobody has vouched for the folder.
    """
    held = None if trust is None else read_small(trust)
    if not directory.is_dir():
        raise ConfigError(f"no folder {directory}; name the one of a release")
    steps: list[Step] = []
    found = run(steps, "folder", lambda: _check_folder(directory), _describe)
    if found is not None:

        def check(audit: Audit) -> ReleasePublished:
            entry = find(
                audit.state.releases,
                kind="release",
                name=directory.resolve().name,
                manifest_digest=found.manifest_digest,
            )
            registry.check_release(found, entry)
            return entry

        check_log(steps, directory, check, _line, bundle=bundle, trust=held)
    if log_holds(steps):
        note_trust(held)
    conclude(steps, {"release": str(directory)}, as_json=as_json)


def _check_folder(directory: Path) -> registry.Base:
    found = registry.check_base(directory)
    if found.manifest_digest is None:
        raise IncompleteError("no tapestry/manifest.json: this is no release")
    return found


def _describe(found: registry.Base) -> str:
    return (
        f"all files as listed, {len(found.shapes)} tensors, parameters {found.digest};"
        f" manifest {found.manifest_digest}"
    )


def _line(entry: ReleasePublished) -> str:
    return f"{entry.name}, of {entry.run_id}, round {entry.round_number}"
