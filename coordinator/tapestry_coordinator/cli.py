"""The commands of ``tapestry coordinator``: found a federation, lead its runs."""

from pathlib import Path

import click

from tapestry.cli import console
from tapestry.cli.commands import CommandGroup, as_json
from tapestry_coordinator.founding_commands import (
    charter,
    folder_argument,
    init,
    open_command,
)


@click.group(cls=CommandGroup)
def app() -> None:
    """Found a federation and lead its runs."""


app.add_command(init)
app.add_command(charter)
app.add_command(open_command)


@app.command()
@folder_argument
@as_json
def status(folder: Path, as_json: bool) -> None:
    """Show the rounds of the run and their events in the log; also while it runs."""
    from tapestry.keys import SigningKey
    from tapestry.protocol.round_manifest import RoundManifest
    from tapestry_coordinator.journal import Journal
    from tapestry_coordinator.log_publisher import event_of
    from tapestry_coordinator.refusals import by_round, in_words
    from tapestry_coordinator.settings import RunSettings
    from tapestry_governance.events.round_events import RoundClosed
    from tapestry_governance.log.writer import Log

    settings = RunSettings.read(folder / "run.toml")
    key = SigningKey.load(folder / "keys" / "log.key")
    entries = Log.read(folder / "log", key=key)
    size = len(entries)
    bodies = [event_of(entry) for entry in entries]
    refused = by_round(entries, run_id=settings.run_id)
    closed = {
        body.round_number: body
        for body in bodies
        if isinstance(body, RoundClosed) and body.run_id == settings.run_id
    }
    journal = Journal(folder, readonly=True)
    rows = journal.rounds()
    journal.close()
    included = {number: list(body.included) for number, body in closed.items()}
    if as_json:
        found = [
            {
                "round": row.number,
                "status": row.status,
                "outcome": closed[row.number].outcome if row.number in closed else None,
                "included": included.get(row.number, []),
                "refused": {n: r.value for n, r in refused.get(row.number, {}).items()},
            }
            for row in rows
        ]
        console.say_json({"run": settings.run_id, "entries": size, "rounds": found})
        return
    console.say(
        f"run {settings.run_id}: {len(closed)} of {settings.rounds} rounds closed"
    )
    for row in rows:
        names = ", ".join(included.get(row.number, []))
        console.say(f"round {row.number:<4}{row.status:<10}{names}".rstrip())
        if row.number in refused:
            asked = len(RoundManifest.decode(row.manifest).participants)
            console.say(f"          {in_words(refused[row.number], asked=asked)}")
    console.say(f"the log has {size} entries")
