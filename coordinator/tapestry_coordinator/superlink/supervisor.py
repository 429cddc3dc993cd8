"""The processes of the Flower engine: start, enroll, submit, watch, restart, stop.

::

    Engine ── SuperLink ── (Flower) SuperExec ── ServerApp: tapestry_coordinator.flower
          └── one process per node, if asked to

All files of Flower lie in one folder (``FLWR_HOME``, logs, TLS). Its processes listen
on the loopback interface unless a proxy is declared (``listen_address``), send no
telemetry and install nothing. Flower accepts a run from every client that reaches the
port, so only the bundle written here is run. The
SuperLink keeps its state in memory, which is three times as fast as on disk. After a
restart the nodes are registered again and the coordinator goes on from its journal, so
no state is lost.
"""

import http.client
import importlib
import itertools
import logging
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tapestry.environment import without_proxies
from tapestry.errors import ConfigError, ResourceError
from tapestry_coordinator.superlink import process_tree
from tapestry_coordinator.superlink.backoff import Backoff
from tapestry_coordinator.superlink.config_files import (
    check_home,
    write_bundle,
    write_programs,
)
from tapestry_coordinator.superlink.flower_programs import program
from tapestry_coordinator.superlink.listen_address import check_listen_host
from tapestry_coordinator.superlink.outcome import (
    Outcome,
    clear_outcome,
    is_worked_on,
    read_outcome,
)
from tapestry_coordinator.superlink.processes import ChildGroup
from tapestry_coordinator.superlink.tls import (
    AUTHORITY,
    ServerFiles,
    check_validity,
    make_server_certificate,
    require_files,
)

if TYPE_CHECKING:
    from tapestry_coordinator.superlink.control_client import ControlClient

_LOG = logging.getLogger(__name__)

COORDINATOR = "tapestry_coordinator.flower:app"
_CONTROL = "tapestry_coordinator.superlink.control_client"  # loads Flower
_LOOPBACK = "127.0.0.1"
_START_SECONDS = 60.0
_RELEASE_SECONDS = 15.0
_TICK = 0.2
_LIST_SECONDS = 5.0
_MOST_RUNS = 12
_BARRED = (
    "%s is not let in by %s, which the log calls compromised; take the request with its"
    " new key: tapestry coordinator enroll"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The arguments of ``serve``, by which a node reaches the coordinator."""

    superlink: str
    root_certificates: Path
    auth_key: Path


class Engine:
    """A SuperLink on a port of this machine, with its nodes and runs.

    Guarantees:
        Only registered node keys are let in, over TLS. ``stop`` ends every process
        that was started here, as ``ChildGroup`` does.
    """

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        host: str = _LOOPBACK,
        proxied: bool = False,
        tls: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Take a folder, and a port unless any free one will do.

        ``tls`` has the certificate, which is made otherwise; ``proxied`` declares a
        proxy in front of another address than a loopback one.
        """
        self.home = home.absolute()
        self._given_tls = tls is not None
        self._tls = self.home / "tls" if tls is None else tls.absolute()
        self.port, self._host, self._proxied = port, host, proxied
        self._extra = dict(environment or {})
        self._group = ChildGroup(self.home)
        self._enrolled: dict[str, Path] = {}
        self._barred: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        """Start the SuperLink; a start that fails or is stopped leaves no process."""
        try:
            self.start()
        except BaseException:
            self._group.stop_now()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop all processes; at once after an interruption."""
        self._group.__exit__(kind, error, trace)

    @property
    def address(self) -> str:
        """Host and port of the SuperLink."""
        return f"{self._host}:{self.port}"

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the SuperLink (``superlink``) and of the nodes."""
        return self._group.pids

    @property
    def processes(self) -> int:
        """The number of processes, with all that they started."""
        return self._group.processes

    def start(self) -> None:
        """Start the SuperLink and wait until it answers.

        Raises:
            ConfigError: The name of the folder cannot stand on a search path, others
                than a proxy would reach the control paths, or the certificate is
                missing or not valid now.
            ResourceError: The port is in use, Flower is not installed, or the
                SuperLink ends or does not answer within a minute.
        """
        check_home(self.home)
        check_listen_host(self._host, proxied=self._proxied)
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        hosts = tuple(dict.fromkeys([self._host, _LOOPBACK, "localhost"]))
        files = ServerFiles.of(self._tls)
        if self._given_tls:
            require_files(files)
            check_validity(files, datetime.now(UTC))
        else:
            make_server_certificate(self._tls, hosts)
        self.port = _usable_port(self._host, self.port or 0)
        write_programs(self.home / "programs")
        self._spawn(
            "superlink",
            [
                program("flower-superlink"),
                *("--host", self._host, "--port", str(self.port)),
                *("--ssl-ca-certfile", str(files.authority)),
                *("--ssl-certfile", str(files.certificate)),
                *("--ssl-keyfile", str(files.key)),
                "--enable-supernode-auth",
                "--disable-runtime-dependency-installation",
            ],
        )
        importlib.import_module(_CONTROL)  # takes as long as the SuperLink's start
        self._await_superlink()

    def stop(self) -> None:
        """End all processes: SIGTERM, and SIGKILL some seconds later."""
        self._group.stop()

    def site(self, auth_key: Path) -> Site:
        """Return the arguments by which a node with this key reaches the SuperLink."""
        return Site(
            superlink=self.address,
            root_certificates=self._tls / AUTHORITY,
            auth_key=auth_key,
        )

    def admit(self, keys: Mapping[str, Path]) -> None:
        """Register nodes' public keys under their names, now and at each restart.

        Raises:
            ConfigError: A file is no public key.
            ResourceError: The SuperLink refuses a key, for instance a known one.
        """
        with self._control() as control:
            for name, public in keys.items():
                if not control.register(name, public, barred=self._barred):
                    _LOG.warning(_BARRED, name, public)
                self._enrolled[name] = public

    def bar(self, digests: frozenset[str]) -> None:
        """Let keys in no more, whatever their name, and end what they connected.

        Raises:
            ResourceError: The SuperLink refuses that, or is not there.
        """
        self._barred |= digests
        with self._control() as control:
            control.unregister(self._barred)

    def start_node(self, name: str, command: Sequence[str]) -> None:
        """Start the process of a node; it is started again when it ends.

        Raises:
            ConfigError: A process of this name runs already.
        """
        if name in self._group:
            raise ConfigError(
                f"a process {name!r} runs already; choose another name",
                code="process-name-taken",
            )
        self._spawn(name, command)

    def tend(self) -> list[str]:
        """Start the processes again that have ended; return their names."""
        again = self._group.tend()
        if "superlink" in again:
            self._await_superlink()
            self.admit(dict(self._enrolled))
        return again

    def run(
        self,
        directory: Path,
        *,
        app: str = COORDINATOR,
        tick: Callable[[], None] | None = None,
        for_ever: bool = False,
    ) -> None:
        """Run the coordinator on a directory until it is done; tend all processes.

        A coordinator or SuperLink that was killed is started again with a new run on
        the same directory, where the journal says how to go on.

        ``app`` is what the bundle refers to; ``tick`` is called a few times a second.
        With ``for_ever`` it is started again however often it ends, after the pauses of
        ``backoff``.

        Raises:
            TapestryError: The coordinator ended for good with this error.
            ResourceError: A dozen runs ended without an outcome, or the coordinator
                ended with an error that is not one of Tapestry's.
        """
        directory = directory.absolute()
        clear_outcome(directory)
        backoff = Backoff()
        for _ in itertools.count() if for_ever else range(_MOST_RUNS):
            backoff.begin()
            run_id = self._submit(app, directory)
            if run_id is None:
                continue
            outcome = self._watch(run_id, directory, tick or _nothing)
            if outcome is not None:
                outcome.require_success()
                return
            _LOG.warning("run %s ended without an outcome; submitting another", run_id)
            self._forget(run_id)
            _await_release(directory)
            if for_ever:
                self._pause(backoff.pause(), tick or _nothing)
        raise ResourceError(
            f"{_MOST_RUNS} runs ended without an outcome;"
            f" see {self.home}/superlink.log",
            code="runs-without-outcome",
        )

    def _watch(
        self, run_id: int, directory: Path, tick: Callable[[], None]
    ) -> Outcome | None:
        """Wait until a run has an outcome; return None if the run was lost."""
        began, look = False, time.monotonic() + _LIST_SECONDS
        while True:
            tick()
            if "superlink" in self.tend():
                return read_outcome(directory)
            working = is_worked_on(directory)
            outcome = read_outcome(directory)  # read last, as it is written first
            if outcome is not None or (began and not working):
                return outcome
            began = began or working
            if not began and time.monotonic() > look:
                if self.has_finished(run_id):
                    return read_outcome(directory)
                look = time.monotonic() + _LIST_SECONDS
            time.sleep(_TICK)

    def _pause(self, seconds: float, tick: Callable[[], None]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            tick()
            self.tend()
            time.sleep(_TICK)

    def _submit(self, app: str, directory: Path) -> int | None:
        """Start a run; return None if the SuperLink ended meanwhile and is back."""
        bundle = self.home / "bundle"
        write_bundle(bundle, app=app, directory=directory)
        try:
            with self._control() as control:
                return control.start(bundle)
        except ResourceError:
            if self._group["superlink"].alive:
                raise
            while "superlink" not in self.tend():
                time.sleep(_TICK)
            return None

    def has_finished(self, run_id: int) -> bool:
        """Return whether a run has ended; False if it cannot be asked."""
        try:
            with self._control() as control:
                return control.has_finished(run_id)
        except ResourceError:
            return False  # the SuperLink has just ended; tend() starts it again

    def _forget(self, run_id: int) -> None:
        # A run whose process was killed counts as running for another minute.
        try:
            with self._control() as control:
                control.stop(run_id)
        except ResourceError as error:
            _LOG.info(
                "cannot stop run %s, submitting another anyway: %s", run_id, error
            )

    def _control(self) -> "ControlClient":
        from tapestry_coordinator.superlink.control_client import ControlClient

        return ControlClient(self.address, authority=self._tls / AUTHORITY)

    def _environment(self) -> dict[str, str]:
        programs = (self.home / "programs", Path(sys.executable).parent)
        path = (*map(str, programs), os.environ.get("PATH", os.defpath))
        return {
            **without_proxies(os.environ),
            process_tree.VARIABLE: self._group.mark,
            "PATH": os.pathsep.join(path),
            "TAPESTRY_BUNDLE": str(self.home / "bundle"),
            "FLWR_HOME": str(self.home / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            **self._extra,
        }

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        self._group.start(name, command, self._environment())

    def _await_superlink(self) -> None:
        child = self._group["superlink"]
        context = ssl.create_default_context(cafile=self._tls / AUTHORITY)
        end = time.monotonic() + _START_SECONDS
        while not _answers(self.address, context):
            if not child.alive:
                raise ResourceError(
                    f"the SuperLink ended: {child.last_words}; see {child.log}",
                    code="superlink-ended",
                )
            if time.monotonic() > end:
                raise ResourceError(
                    f"the SuperLink did not answer within {_START_SECONDS:.0f} seconds;"
                    f" see {child.log}",
                    code="superlink-unresponsive",
                )
            time.sleep(0.1)


def _await_release(directory: Path) -> None:
    # A coordinator whose SuperLink was killed takes some seconds to notice.
    end = time.monotonic() + _RELEASE_SECONDS
    while is_worked_on(directory) and time.monotonic() < end:
        time.sleep(_TICK)


def _usable_port(host: str, port: int) -> int:
    """Return the port if it can be listened on, or any free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ResourceError(
                f"port {port} cannot be used: {error}; choose another",
                code="port-unavailable",
            ) from error
        return int(probe.getsockname()[1])


def _answers(address: str, context: ssl.SSLContext) -> bool:
    connection = http.client.HTTPSConnection(address, context=context, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _nothing() -> None:
    return
