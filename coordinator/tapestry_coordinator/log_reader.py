"""The log of a coordinator's folder, read while the service may run."""

from pathlib import Path

from tapestry.errors import ConfigError
from tapestry.keys import SigningKey
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_all


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
