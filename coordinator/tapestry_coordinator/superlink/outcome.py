"""The state of a coordinator's work, as files that its supervisor reads.

A coordinator process can be killed at any instant, and so can the SuperLink that
reports on it. So the directory of the run itself holds the state: a lock is held as
long as a coordinator works on the directory, and an outcome is written when the work
has ended for good. No lock and no outcome means that the process was killed and that
another can go on.
"""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tapestry import errors
from tapestry.encoding import canonical_json, decode_json
from tapestry.errors import ConfigError, ResourceError, TapestryError
from tapestry.inputs.faults import unforeseen
from tapestry.storage import durable_files
from tapestry.storage.file_lock import is_locked, lock_file

_LOCK = "coordinator.lock"
_OUTCOME = "outcome.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of the work on a directory: success, or the error that ended it."""

    kind: str = ""  # the class of the error; empty: the work is done
    code: str = ""  # the rule that was broken
    message: str = ""

    @classmethod
    def of(cls, error: Exception) -> "Outcome":
        """Describe an error by a kind of ``tapestry.errors``, in ASCII."""
        if isinstance(error, TapestryError):
            kinds = (each.__name__ for each in type(error).__mro__)
            kind, code = next(k for k in kinds if k in errors.__all__), error.code
            message = str(error)
        else:
            kind, code, message = type(error).__name__, "", unforeseen(error)
        text = unicodedata.normalize("NFC", message).encode("ascii", "replace")
        return cls(kind=kind, code=code, message=text.decode())

    def require_success(self) -> None:
        """Raise the error that ended the work, if one did.

        Raises:
            TapestryError: That error, by its kind.
            ResourceError: The work ended with an error that is not Tapestry's.
        """
        if self.kind in errors.__all__:
            kind: type[TapestryError] = getattr(errors, self.kind)
            raise kind(self.message, code=self.code)
        if self.kind:
            raise ResourceError(
                f"the coordinator failed: {self.message}", code="coordinator-failed"
            )


@contextmanager
def working_on(directory: Path) -> Iterator[None]:
    """Hold the directory; wait until another coordinator process lets go of it.

    Guarantees:
        The kernel releases the lock when the process dies, however it dies.

    Raises:
        ResourceError: The lock cannot be made in the directory.
    """
    with lock_file(directory / _LOCK, wait=True):
        yield


def is_worked_on(directory: Path) -> bool:
    """Return whether a coordinator process holds the directory."""
    return is_locked(directory / _LOCK)


def write_outcome(directory: Path, outcome: Outcome) -> None:
    """Write that the work is done, or the error that ended it.

    Raises:
        ResourceError: The disk is full or failing.
    """
    data = canonical_json(asdict(outcome))
    durable_files.replace_file(directory / _OUTCOME, data)


def read_outcome(directory: Path) -> Outcome | None:
    """Return the outcome; None while there is none.

    Raises:
        ConfigError: The file is damaged.
    """
    try:
        data = (directory / _OUTCOME).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Outcome(**decode_json(data))
    except (TypeError, TapestryError):
        raise ConfigError(
            f"{directory / _OUTCOME} is damaged; delete it, and the work is done again",
            code="outcome-damaged",
        ) from None


def outcome_time(directory: Path) -> float | None:
    """Return when the outcome was written, by its file; None while there is none."""
    try:
        return (directory / _OUTCOME).stat().st_mtime
    except FileNotFoundError:
        return None


def clear_outcome(directory: Path) -> None:
    """Delete an earlier outcome, before new work on the directory."""
    (directory / _OUTCOME).unlink(missing_ok=True)
