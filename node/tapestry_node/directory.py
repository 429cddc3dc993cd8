"""A node's folder: its keys, whom it trusts, and its mirror of the log.

::

    node.toml  trust-policy.txt  keys/  data/            written by people
    view.db  state.db  budget.db  budget.db.mirror  kept by the node
"""

from pathlib import Path

from tapestry.errors import ConfigError, ProtocolError, VerificationError
from tapestry.keys import SigningKey
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.audit.bundle import read_small
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.settings import NodeSettings

_PURPOSES = ("node", "witness", "community")


def read_keys(directory: Path) -> dict[str, SigningKey]:
    """Read the keys that a node signs with, by purpose.

    Raises:
        ConfigError: One is missing, open to others, or no key.
    """
    folder = directory / "keys"
    return {name: SigningKey.load(folder / f"{name}.key") for name in _PURPOSES}


def read_trust(directory: Path) -> TrustPolicy:
    """Read whom a node trusts.

    Raises:
        ConfigError: There is no ``trust-policy.txt``, or it is no trust policy.
    """
    path = directory / "trust-policy.txt"
    try:
        return TrustPolicy.parse(read_small(path))
    except (ProtocolError, VerificationError) as error:  # the latter: it is too large
        raise ConfigError(f"{path}: {error}", code=error.code) from None


def open_mirror(
    directory: Path, settings: NodeSettings, *, readonly: bool = False
) -> LogMirror:
    """Open the mirror of the log.

    Args:
        directory: The node's folder.
        settings: The node's settings.
        readonly: Read alone; then the mirror must be there.

    Raises:
        ConfigError: As ``read_trust``.
        ResourceError, VerificationError: As ``LogMirror.open``.
    """
    trust = read_trust(directory)
    path, genesis = directory / "view.db", settings.genesis
    return LogMirror.open(path, trust=trust, genesis=genesis, readonly=readonly)
