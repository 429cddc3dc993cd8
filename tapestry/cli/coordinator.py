"""``tapestry coordinator``: lead a run, and see how far it is."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tapestry.config import CoordinatorSettings
from tapestry.keys import SigningKey
from tapestry_coordinator.bulletin import event_of
from tapestry_coordinator.journal import Journal
from tapestry_governance.events import RoundClosed
from tapestry_governance.log import Log

app = typer.Typer(
    help="Lead a federation's run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")]


@app.callback()
def _role() -> None:
    """Keep the verb in front even while there is only one."""


@app.command()
def status(folder: Folder, as_json: AsJson = False) -> None:
    """Show the rounds of the run, and what the log says of them."""
    settings = CoordinatorSettings.read(folder / "coordinator.toml")
    key = SigningKey.load(folder / "keys" / "log.key")
    with Log.open(folder / "log", key=key) as log:
        size = log.size
        bodies = [event_of(entry) for entry in log.entries(0, size)]
    closed = {b.round_number: b for b in bodies if isinstance(b, RoundClosed)}
    journal = Journal(folder)
    rows = journal.rounds()
    journal.close()
    found = [
        {
            "round": row.number,
            "status": row.status,
            "outcome": closed[row.number].outcome if row.number in closed else None,
            "included": list(closed[row.number].included)
            if row.number in closed
            else [],
        }
        for row in rows
    ]
    if as_json:
        print(json.dumps({"run": settings.run_id, "entries": size, "rounds": found}))
        return
    print(f"run {settings.run_id}: {len(closed)} of {settings.rounds} rounds closed")
    for row in rows:
        names = closed[row.number].included if row.number in closed else ()
        print(f"round {row.number:<4}{row.status:<10}{', '.join(names)}")
    print(f"the log has {size} entries")
