"""Checks of the environment that a process was started in, and repairs of it.

A shell, a service manager or a container decides what proxies, the current folder and
Python's own switches are. Each function here takes one of these, and either returns a
value that can be used or raises an error that names the variable and the remedy. The
folder of the cache has its own module (``cache.py``). Nothing is read at import.
"""

import ipaddress
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tapestry.errors import ConfigError, ResourceError

_PROXIES = frozenset(
    {
        *("http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "ws_proxy"),
        *("wss_proxy", "grpc_proxy", "no_proxy", "no_grpc_proxy"),
    }
)
_LOOPBACK = "127.0.0.1,localhost,::1"
_NO_DOCSTRINGS = 2  # the level of optimization that drops them


def require_current_folder() -> None:
    """Require that the current folder exists; libraries end the process without it.

    Raises:
        ResourceError: The folder was deleted, or cannot be reached.
    """
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd() is the same call
    except OSError as error:
        raise ResourceError(
            f"the current folder cannot be reached ({error.strerror}): change to a"
            " folder that exists, for instance with cd ~",
            code="current-folder-missing",
        ) from None


def require_docstrings() -> None:
    """Require that Python keeps docstrings: transformers builds classes from them.

    Raises:
        ConfigError: Docstrings are dropped, by PYTHONOPTIMIZE=2 or python -OO.
    """
    if sys.flags.optimize >= _NO_DOCSTRINGS:
        raise ConfigError(
            f"Python drops docstrings (PYTHONOPTIMIZE={sys.flags.optimize} or -OO) and"
            " transformers needs them: unset PYTHONOPTIMIZE",
            code="docstrings-missing",
        )


def is_loopback(address: str) -> bool:
    """Return whether a host, or ``host:port``, is this machine itself."""
    host = address.rsplit(":", 1)[0] if address.count(":") == 1 else address
    host = host.removeprefix("[").partition("]")[0]
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxies(environment: Mapping[str, str]) -> list[str]:
    """Name the proxy variables that are set, in either case."""
    return sorted(n for n in environment if n.lower() in _PROXIES and environment[n])


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for processes that talk to this machine alone.

    Guarantees:
        No proxy variable is left, in either case, and loopback addresses are exempt
        from proxies that the system itself knows.
    """
    kept = {n: v for n, v in environment.items() if n.lower() not in _PROXIES}
    return kept | {"no_proxy": _LOOPBACK, "NO_PROXY": _LOOPBACK}


@contextmanager
def direct(address: str) -> Iterator[None]:
    """Keep proxies away from this process if it talks to a loopback address.

    Edge cases:
        With any other address the environment stays as the operator made it. The
        environment belongs to the whole process: enter this context once, at its start.
    """
    if not is_loopback(address):
        yield
        return
    before = dict(os.environ)
    _become(without_proxies(before))
    try:
        yield
    finally:
        _become(before)


def _become(environment: Mapping[str, str]) -> None:
    for name in [*os.environ]:
        if name not in environment:
            del os.environ[name]
    os.environ.update(environment)
