"""The log of a coordinator's folder, read while the service may run."""

from pathlib import Path

from tapestry.errors import ConfigError
from tapestry.keys import SigningKey
from tapestry.tlog.checkpoint import read_claim
from tapestry_governance.audit.bundle import read_small
from tapestry_governance.log.tile_writer import CHECKPOINT
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_all
from tapestry_governance.rules.settlement import settle


def read_settled(directory: Path) -> tuple[FederationState, list[bytes]]:
    """Read the log, with what its public checkpoint shows to be decided.

    Raises:
        ConfigError: It is not open yet.
        ResourceError, InconsistentLog: As :func:`read_log`, for the same reasons.
    """
    note = directory / "log" / "public" / CHECKPOINT
    published = read_claim(read_small(note)).size if note.exists() else 0
    logged, entries = read_log(directory)
    return settle(logged, seen=max(published, logged.shown)), entries


def read_log(directory: Path) -> tuple[FederationState, list[bytes]]:
    """Read the log, and apply its rules.

    Raises:
        ConfigError: It is not open yet.
        ResourceError, InconsistentLog: It cannot be read, or contradicts itself.
    """
    key = SigningKey.load(directory / "keys" / "log.key")
    entries = Log.read(directory / "log", key=key)
    state = apply_all(None, entries)
    if state is None or not state.is_founded:
        raise ConfigError(
            f"{directory} has no founded federation; run tapestry coordinator open",
            code="not-founded",
        )
    return state, entries
