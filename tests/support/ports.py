"""A port of this machine for a server that starts a moment later."""

import secrets
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000


def free_port() -> int:
    """Return a port that is free, and that the kernel gives no connection.

    One of the kernel's own range may be the near end of somebody's connection by the
    time that the server listens, even of a client that looks for that server.
    """
    end = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 0
    while True:
        port = _LOWEST + secrets.randbelow(end - _LOWEST) if end > _LOWEST else 0
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
