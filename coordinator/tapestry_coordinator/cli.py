"""The commands of ``tapestry coordinator``: found a federation, lead its runs."""

from pathlib import Path

import click

from tapestry.cli import console, live_status
from tapestry.cli.commands import CommandGroup, as_json
from tapestry_coordinator.coordinator_backup_commands import (
    backup,
    recover,
    restore,
)
from tapestry_coordinator.founding_commands import (
    charter,
    enroll,
    init,
    open_command,
    read_folder,
    renew,
)
from tapestry_coordinator.run_commands import bundle, end, plan, retry, run, submit


@click.group(cls=CommandGroup)
def app() -> None:
    """Found a federation and lead its runs."""


app.add_command(init)
app.add_command(charter)
app.add_command(open_command)
app.add_command(plan)
app.add_command(run)
app.add_command(end)
app.add_command(retry)
app.add_command(bundle)
app.add_command(submit)
app.add_command(renew)
app.add_command(enroll)
app.add_command(backup)
app.add_command(restore)
app.add_command(recover)


@app.command()
@read_folder
@click.option("--watch", is_flag=True, help="Show each change until Ctrl-C.")
@as_json
def status(folder: Path, watch: bool, as_json: bool) -> None:
    """Show members, runs, their rounds and what the log says of them; also at work."""
    from tapestry_coordinator.run_status import read_status

    if watch:
        live_status.watch(lambda: read_status(folder), as_json=as_json)
    found = read_status(folder)
    if as_json:
        console.say_json(found.to_json())
        return
    for line in found.lines():
        console.say(line)
