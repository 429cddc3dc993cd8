"""A node's folder: its keys, its trust policy, and its mirror of the log.

::

    node.toml  trust-policy.txt  keys/  data/            written by people
    view.db  node.db  node.db.mirror  bases/  session/    kept by the node
"""

from pathlib import Path

from tapestry.errors import ConfigError, ProtocolError, VerificationError
from tapestry.keys import SigningKey
from tapestry.storage.sqlite_database import ReadOnly
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.audit.bundle import read_small
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.settings import NodeSettings

PURPOSES = ("node", "witness", "community")


def read_key(directory: Path, purpose: str) -> SigningKey:
    """Read a key that a node signs with.

    Raises:
        ConfigError: The key file is missing, open to others, or no key.
    """
    return SigningKey.load(directory / "keys" / f"{purpose}.key")


def read_trust(directory: Path) -> TrustPolicy:
    """Read the log key and the witnesses that a node trusts.

    Raises:
        ConfigError: There is no ``trust-policy.txt``, or it is no trust policy.
    """
    path = directory / "trust-policy.txt"
    try:
        return TrustPolicy.parse(read_small(path))
    except (ProtocolError, VerificationError) as error:  # the latter: it is too large
        raise ConfigError(f"{path}: {error}", code=error.code) from None


def open_mirror(
    directory: Path,
    settings: NodeSettings,
    *,
    readonly: ReadOnly = False,
) -> LogMirror:
    """Open the mirror of the log; with ``readonly`` it must be there.

    Raises:
        ConfigError: The trust policy is missing or malformed.
        ResourceError: The mirror cannot be read, or not be written.
        VerificationError: The mirror was changed, or is of another log.
    """
    path, genesis = directory / "view.db", settings.joined
    trust = read_trust(directory)
    return LogMirror.open(path, trust=trust, genesis=genesis, readonly=readonly)
