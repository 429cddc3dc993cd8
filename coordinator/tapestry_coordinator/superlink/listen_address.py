"""The address of a SuperLink's port, which serves its control paths as well.

Flower has one port for all: nodes, control (register and unregister keys, submit, stop
and list runs) and the programs of a run. It authenticates nodes alone, so whoever
reaches the port controls the SuperLink. A proxy that passes the nodes' paths and
nothing else is the only separation there is.
"""

from tapestry.environment import is_loopback
from tapestry.errors import ConfigError


def check_listen_host(host: str, *, proxied: bool) -> None:
    """Require that nobody beyond this machine, or a proxy, reaches the control paths.

    Args:
        host: The address to listen on.
        proxied: Whether the operator declares that only a proxy reaches it, which
            passes the paths of nodes alone.

    Raises:
        ConfigError: The address is not this machine's own, and no proxy is declared.
    """
    if not proxied and not is_loopback(host):
        raise ConfigError(
            f"a SuperLink on {host} would let whoever reaches it register nodes and"
            " stop runs: listen on 127.0.0.1, or declare the proxy in front of it that"
            " passes the nodes' eight paths alone",
            code="control-paths-exposed",
        )
