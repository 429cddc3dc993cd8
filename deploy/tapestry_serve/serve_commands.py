"""``tapestry serve``: a base and its adapters over HTTP, each answer with lineage."""

import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack
from urllib.parse import urlsplit

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, Argument, Command, as_json
from tapestry.errors import ConfigError, ResourceError
from tapestry.inputs.plain_file import read_plain
from tapestry_governance.cli.audit import trust_file
from tapestry_governance.cli.votes import node_option

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from tapestry_governance.member_view import MemberView
    from tapestry_serve.served_models import ServedModels

_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
_WAITING = 128  # connections
_TOKEN = 32  # characters at least


class _ServeOptions(TypedDict):
    base: str
    adapters: tuple[tuple[str | None, Path], ...]
    bundle: Path | None
    node: Path | None
    trust: bytes | None
    allow_unlogged: bool
    host: str
    port: int
    public_url: str | None
    token_file: Path | None
    max_batch: int
    queue: int
    threads: int | None
    device: str
    as_json: bool


def _named(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str | None, Path], ...]:
    """Read ``NAME=DIR``, or a folder alone."""
    pairs = (value.rpartition("=") for value in values)
    return tuple((name or None, Path(folder)) for name, _, folder in pairs)


def _origin(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> str | None:
    """Read the origin of a page: scheme and host, in lower case, and no path."""
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
        raise click.BadParameter(f"{value} is no address such as https://NAME")
    if parts.path not in {"", "/"} or parts.username:
        raise click.BadParameter(f"{value} has more than scheme and host")
    return f"{parts.scheme}://{parts.netloc.lower()}"


@click.command(cls=Command)
@click.argument(
    "base",
    cls=Argument,
    metavar="BASE",
    help="The base: a release's folder, smollm2 or tiny.",
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    callback=_named,
    metavar="[NAME=]DIR",
    help="An adapter's folder, and the id to serve it by; may be repeated.",
)
@click.option(
    "--bundle",
    type=PATH,
    metavar="DIR",
    help="An audit bundle, for what members published, approved and withdrew.",
)
@node_option
@trust_file
@click.option(
    "--allow-unlogged",
    is_flag=True,
    help="Also serve what no log names, with the badge 'files'.",
)
@click.option(
    "--host",
    metavar="HOST",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen.",
)
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port; 0 takes a free one.",
)
@click.option(
    "--public-url",
    metavar="URL",
    callback=_origin,
    help="Where people find the page, if a proxy stands in front: https://NAME.",
)
@click.option(
    "--token-file",
    type=PATH,
    metavar="FILE",
    help="Tokens of clients, one in a line; needed where another machine may ask.",
)
@click.option(
    "--max-batch",
    metavar="N",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Answers that are computed at once.",
)
@click.option(
    "--queue",
    metavar="N",
    type=click.IntRange(1, 4096),
    default=64,
    show_default=True,
    help="Answers that may wait.",
)
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(1, 1024),
    help="Threads that compute; default: all that torch takes.",
)
@click.option(
    "--device",
    metavar="NAME",
    default="cpu",
    show_default=True,
    help="Where to compute: cpu, cuda or cuda:1.",
)
@as_json
def app(**given: Unpack[_ServeOptions]) -> None:
    """Serve a base and adapters on it, each by an id, until stopped.

    The routes are those of OpenAI's clients, under /v1. An id that is not served is
    answered with 404, and never by the base. Each answer says which base, adapter and
    entries of the log it comes from.
    """
    from tapestry_serve.assistant import Access, Assistant
    from tapestry_serve.torch_engine import EngineLimits, TorchEngine

    host, file = given["host"], given["token_file"]
    tokens = () if file is None else read_tokens(file)
    if host not in _LOCAL and not tokens:
        raise ConfigError(
            f"--host {host} may be reached from other machines; name --token-file, or"
            " listen on 127.0.0.1 behind a proxy",
            code="token-missing",
        )
    with _listening(host, given["port"]) as taken:
        models = _open(given)
        limits = EngineLimits(rows=given["max_batch"], jobs=given["queue"])
        folders = {name: each.held for name, each in models.adapters.items()}
        engine = TorchEngine(models.model, folders, limits=limits)
        try:
            origin = given["public_url"]
            names = (
                {host} if origin is None else {host, urlsplit(origin).hostname or ""}
            )
            access = Access(hosts=_LOCAL | names, tokens=tokens, origin=origin)
            taken.listen(_WAITING)  # who connects now waits for the server's first turn
            _tell(models, taken, as_json=given["as_json"])
            _run(Assistant(engine, models, access).app(), taken)
        finally:
            engine.close()


def _run(app: "Starlette", taken: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        limit_concurrency=1024,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[taken])


def _open(given: _ServeOptions) -> "ServedModels":
    """Load what is to be served, with its lineage by the log."""
    import torch

    from tapestry.workloads.device_memory import device_memory
    from tapestry.workloads.hardware import Machine
    from tapestry_serve import served_models

    if given["threads"] is not None:
        torch.set_num_threads(given["threads"])
    machine = Machine(device=given["device"])
    device_memory(machine)  # or it is not there
    log, base = _log(given), given["base"]
    loaded = served_models.load(base, given["adapters"], machine=machine)
    served_models.check_ids(list(loaded.adapters))
    engine = {"kind": "torch", "device": given["device"], "quantised": False}
    name = Path(base).resolve().name if Path(base).is_dir() else base
    found = served_models.with_lineage(loaded, name=name, log=log, engine=engine)
    if not given["allow_unlogged"]:
        served_models.require_logged(found)
    return found


def _log(given: _ServeOptions) -> "MemberView | None":
    from tapestry_governance.member_view import open_view

    if given["node"] is None and given["bundle"] is None:
        if given["trust"] is not None:
            raise ConfigError(
                "--trust says whom a log has to be signed by, and no log is named; add"
                " --bundle",
                code="usage",
            )
        return None
    return open_view(node=given["node"], bundle=given["bundle"], trust=given["trust"])


def read_tokens(path: Path) -> tuple[bytes, ...]:
    """Read the tokens of clients, one in a line.

    Raises:
        ConfigError: Others may read the file, it has no token, or one is short.
        ResourceError: The file cannot be read.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = read_plain(path, limit=1 << 16)
    except OSError as error:
        raise ResourceError(
            f"cannot read {path}: {error.strerror}", code="file-unreadable"
        ) from None
    if mode & 0o077:
        raise ConfigError(
            f"others may read {path} (mode {mode:o}); say chmod 600 {path}",
            code="secret-readable",
        )
    tokens = tuple(line.strip() for line in data.splitlines() if line.strip())
    if not tokens or min(map(len, tokens)) < _TOKEN:
        raise ConfigError(
            f"{path} needs a token in each line, of {_TOKEN} characters or more, such"
            " as `openssl rand -hex 32` prints",
            code="token-too-short",
        )
    return tokens


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Take the port before models are loaded, and say so if it is taken.

    Raises:
        ResourceError: The port or the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as taken:
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((host, port))
        except OSError as error:
            raise ResourceError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another"
                " --port",
                code="port-in-use",
            ) from None
        yield taken


def _tell(models: "ServedModels", taken: socket.socket, *, as_json: bool) -> None:
    """Say on standard output where what is served."""
    host, port = taken.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if as_json:
        found = {each.id: each.badge for each in models.served.values()}
        console.say_json({"url": url, "models": found}, indent=None)
        return
    console.say(f"serving   {url}")
    for each in models.served.values():
        rest = f"; refused: {each.refused}" if each.refused else ""
        console.say(f"model     {each.id}: verified by {each.badge}{rest}")
