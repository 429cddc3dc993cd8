"""The long-lived service of a founded federation: a SuperLink and its coordinator."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from tapestry.cli import console
from tapestry.environment import is_loopback
from tapestry.errors import ConfigError, ResourceError
from tapestry.metrics_page import serving
from tapestry.storage.file_lock import FileLock, lock_folder
from tapestry_coordinator.barred_keys import ENROLLED, read_barred
from tapestry_coordinator.coordinator_metrics import CoordinatorMetrics
from tapestry_coordinator.log_reader import require_open
from tapestry_coordinator.run_folders import PUBLISHED
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_coordinator.superlink.backoff import Backoff
from tapestry_coordinator.superlink.supervisor import Engine
from tapestry_coordinator.superlink.tls import certificate_end
from tapestry_coordinator.superlink.work_log import LogFollower

_logger = logging.getLogger(__name__)
SERVICE = "tapestry_coordinator.flower:service"
HOME = "superlink"  # the folder of Flower's files
_SOON = 30  # days before a certificate's end


def serve(folder: Path, *, tick: Callable[[], None]) -> None:
    """Serve a coordinator's folder; whatever of the machine fails is tried again.

    ``tick`` is called a few times a second, and ends the service by raising.

    Guarantees:
        One process at a time serves a folder; the kernel frees it when that ends.

    Raises:
        ConfigError: A file of the folder is invalid or missing, the certificate is not
            valid now, or another process serves the folder.
        IncompleteError: The log is not open yet.
        VerificationError, RuleError: The log breaks its rules.
        InconsistentLog: A member holds a cosigned log that this one does not lead to.
    """
    backoff = Backoff()
    with _alone(folder):
        while True:
            backoff.begin()
            try:
                _serve_once(folder, tick)
            except ResourceError as error:
                pause = backoff.pause()
                _logger.warning("starting again in %.0f s: %s", pause, error)
                _wait(pause, tick)


def _alone(folder: Path) -> FileLock:
    """Hold a coordinator's folder, as no other service does."""
    CoordinatorSettings.read(folder / "coordinator.toml")  # or it is another folder
    try:
        return lock_folder(folder)
    except BlockingIOError:
        raise ConfigError(
            f"another process serves {folder}; stop it, or let it go on",
            code="folder-in-use",
        ) from None


def _serve_once(folder: Path, tick: Callable[[], None]) -> None:
    settings = CoordinatorSettings.read(folder / "coordinator.toml")
    require_open(folder)
    for name in PUBLISHED:  # a proxy serves them, and mounts none that is not there
        (folder / name).mkdir(exist_ok=True)
    host, _, port = settings.listen.superlink.rpartition(":")
    metrics = CoordinatorMetrics(folder)
    with (
        serving(settings.listen.metrics, metrics.read),
        Engine(
            folder / HOME,
            host=host.strip("[]"),
            port=int(port),
            proxied=settings.listen.proxied,
            tls=folder / "tls",
        ) as engine,
        closing(LogFollower(folder / HOME)) as log,
    ):
        doorman = Doorman(folder / ENROLLED, admit=engine.admit, bar=engine.bar)
        doorman.look()
        for line in reached(settings):
            console.note(line)
        days = (certificate_end(folder / "tls") - datetime.now(UTC)).days
        if days <= _SOON:
            said = "the certificate ends in %d days; run tapestry coordinator renew"
            _logger.warning(said, days)

        def look() -> None:
            doorman.look()
            log.pass_on()
            tick()

        engine.run(folder, app=SERVICE, tick=look, for_ever=True)


def reached(settings: CoordinatorSettings) -> Iterator[str]:
    """Say where the SuperLink listens, and what has to stand before it."""
    listen = settings.listen.superlink
    yield f"listening on {listen}"
    if _as_numbers(settings.address) != _as_numbers(listen):
        yield (
            f"nodes dial {settings.address}: a proxy has to answer there and pass"
            f" their eight paths on to {listen}, such as nginx with deploy/nginx.conf;"
            " without it no node gets here"
        )


def _as_numbers(address: str) -> str:
    """Return an address with this machine's name as the number that it stands for."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if is_loopback(host.strip("[]")) else address


class Doorman:
    """Registers the transport keys of members, also those that come later."""

    def __init__(
        self,
        folder: Path,
        *,
        admit: Callable[[Mapping[str, Path]], None],
        bar: Callable[[frozenset[str]], None],
    ) -> None:
        """Take the folder of the keys, and what registers and bars them."""
        self._folder, self._admit, self._bar = folder, admit, bar
        self._known: dict[str, bytes] = {}
        self._barred: frozenset[str] = frozenset()

    def look(self) -> None:
        """Bar the keys that the log calls compromised, and register new ones.

        Edge cases:
            The former key of a name may connect until the SuperLink starts anew, unless
            it is called compromised; who a node is, it shows by its node key.

        Raises:
            ConfigError: A file is no public key, or the list of barred keys is damaged.
            ResourceError: The SuperLink refuses a key, or a file cannot be read.
        """
        if (barred := read_barred(self._folder)) != self._barred:
            self._bar(barred)
            self._barred = barred
        found = {path: path.read_bytes() for path in sorted(self._folder.glob("*.pub"))}
        new = {p.stem: p for p, key in found.items() if self._known.get(p.stem) != key}
        if new:
            self._admit(new)
            self._known |= {name: found[path] for name, path in new.items()}


def _wait(seconds: float, tick: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tick()
        time.sleep(0.2)
