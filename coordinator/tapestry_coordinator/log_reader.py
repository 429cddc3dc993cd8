"""The log of a coordinator's folder, read while the service may run."""

from pathlib import Path

from tapestry.errors import IncompleteError
from tapestry.keys import SigningKey
from tapestry.tlog.checkpoint import read_claim
from tapestry_governance.audit.bundle import read_small
from tapestry_governance.log.tile_writer import CHECKPOINT
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_all
from tapestry_governance.rules.settlement import settle


def require_open(directory: Path) -> None:
    """Require that the log of a coordinator's folder is open.

    Raises:
        IncompleteError: It is not; the message names the next commands.
    """
    if not (directory / "log" / "log.db").exists():
        raise _not_open(directory)


def _not_open(directory: Path) -> IncompleteError:
    return IncompleteError(
        f"the log of {directory} is not open yet: tapestry coordinator charter writes"
        " the charter, founders run tapestry governance accept, and tapestry"
        " coordinator open begins the log with their files",
        code="not-founded",
    )


def read_settled(directory: Path) -> tuple[FederationState, list[bytes]]:
    """Read the log, with what its public checkpoint shows to be decided.

    Raises:
        IncompleteError: It is not open yet.
        ResourceError, InconsistentLog: As :func:`read_log`, for the same reasons.
    """
    note = directory / "log" / "public" / CHECKPOINT
    published = read_claim(read_small(note)).size if note.exists() else 0
    logged, entries = read_log(directory)
    return settle(logged, seen=max(published, logged.shown)), entries


def read_log(directory: Path) -> tuple[FederationState, list[bytes]]:
    """Read the log, and apply its rules.

    Raises:
        IncompleteError: It is not open yet.
        ResourceError, InconsistentLog: It cannot be read, or contradicts itself.
    """
    require_open(directory)
    key = SigningKey.load(directory / "keys" / "log.key")
    entries = Log.read(directory / "log", key=key)
    state = apply_all(None, entries)
    if state is None or not state.is_founded:
        raise _not_open(directory)
    return state, entries
