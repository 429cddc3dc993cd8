"""``tapestry witness``: cosign a log as somebody who is no member of its federation."""

import signal
import threading
from contextlib import closing
from pathlib import Path

import click

from tapestry.cli import console
from tapestry.cli.commands import OWN_FOLDER, PATH, Argument, CommandGroup, as_json

folder_argument = click.argument(
    "folder",
    cls=Argument,
    type=OWN_FOLDER,
    metavar="FOLDER",
    help="The witness's folder.",
)


@click.group(cls=CommandGroup)
def app() -> None:
    """Cosign a federation's log without being a member."""


@app.command()
@folder_argument
@click.option("--name", metavar="NAME", required=True, help="The witness's name.")
@click.option(
    "--url", metavar="URL", help="Where the coordinator will reach it, to be printed."
)
@click.option(
    "--trust",
    type=PATH,
    metavar="FILE",
    help="The federation's trust policy, once it names this witness.",
)
@as_json
def init(
    folder: Path, name: str, url: str | None, trust: Path | None, as_json: bool
) -> None:
    """Make a witness's key, and print the line that the federation's policy needs.

    The policy names the key, so the key comes first. Run it again with --trust when the
    charter is accepted; what is there is kept. A key without its memory signs nothing.
    """
    from tapestry_governance.audit.bundle import read_small
    from tapestry_governance.cli.governance import check_name
    from tapestry_governance.witness import witness_folder

    check_name(name)
    policy = None if trust is None else read_small(trust)
    key = witness_folder.init(folder, name, trust=policy)
    if as_json:
        console.say_json({"name": name, "key": str(key), "url": url})
        return
    line = f'{{ name = "{name}", key = "{key}", url = "{url or "URL"}" }}'
    console.say(f"key     {folder / witness_folder.KEY}: stays here, without a copy")
    console.say(f"policy  witnesses = [{line}]")
    if (folder / witness_folder.TRUST).exists():
        console.say(f"trust   {folder / witness_folder.TRUST}: tapestry witness run")
    else:
        console.say("trust   run it again with --trust when the charter is accepted")


@app.command()
@folder_argument
@click.option(
    "--listen",
    metavar="ADDRESS:PORT",
    default="127.0.0.1:8444",
    show_default=True,
    help="A loopback address; a proxy with a certificate is in front.",
)
def run(folder: Path, listen: str) -> None:
    """Cosign over HTTP until stopped: add-checkpoint of C2SP tlog-witness.

    Stop it with Ctrl-C or SIGTERM at any time.
    """
    from tapestry.errors import ConfigError
    from tapestry.metrics_page import parse_address
    from tapestry_governance.witness.witness_folder import WitnessFolder
    from tapestry_governance.witness.witness_server import serving

    try:
        address = parse_address(listen or "nowhere")
    except ValueError as error:
        raise ConfigError(f"--listen {error}", code="usage") from None
    stop = threading.Event()
    with (
        closing(WitnessFolder.open(folder)) as witness,
        serving(witness, address),
    ):
        console.start_logging()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: stop.set())
        console.note(f"listening at {listen}")
        stop.wait()
    console.note("stopped")


@app.command()
@folder_argument
@click.option(
    "--log",
    type=PATH,
    metavar="DIR",
    required=True,
    help="The log's public files: checkpoint and tile/.",
)
@click.option(
    "--output", "-o", type=PATH, metavar="FILE", required=True, help="The new line."
)
@as_json
def sign(folder: Path, log: Path, output: Path, as_json: bool) -> None:
    """Cosign a log that came as a folder of files; also while the witness runs.

    The line goes to the end of that checkpoint, after those of members.
    """
    from tapestry.storage.durable_files import replace_file
    from tapestry_governance.witness.witness_folder import WitnessFolder

    with closing(WitnessFolder.open(folder)) as witness:
        line = witness.cosign_folder(log)
    replace_file(output, line)
    if as_json:
        console.say_json({"line": str(output)})
        return
    console.say(f"line  {output}: append it to {log / 'checkpoint'}")
