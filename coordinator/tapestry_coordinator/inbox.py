"""Signed entries that somebody handed to the coordinator, on their way to the log.

``inbox/`` of a coordinator's folder holds a file for each. ``tapestry coordinator
submit`` writes them, also while the service runs; the service takes them when it next
has the log cosigned, and at once between runs.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tapestry.encoding import digest
from tapestry.errors import (
    ProtocolError,
    ResourceError,
    RuleError,
    VerificationError,
)
from tapestry.inputs.plain_file import read_plain
from tapestry.storage import durable_files
from tapestry.tlog.tiles import MAX_ENTRY_BYTES
from tapestry_coordinator.log_reader import read_log
from tapestry_governance.rules.replay import apply

FOLDER = "inbox"
_logger = logging.getLogger(__name__)


class Inbox:
    """The entries that wait in a coordinator's folder."""

    def __init__(self, directory: Path) -> None:
        """Take the coordinator's folder."""
        self._folder = directory / FOLDER
        self._stuck: set[Path] = set()  # said already

    def put(self, entry: bytes) -> Path:
        """Keep an entry until the log has it; returns its file."""
        path = self._folder / f"{digest(entry).removeprefix('sha256:')}.entry"
        durable_files.replace_file(path, entry)
        return path

    def waiting(self) -> list[Path]:
        """Return the files of the entries that wait, in order of name.

        Edge cases:
            A folder that cannot be read is said once, and has none. A file that could
            not be taken does not wait.
        """
        try:
            names = [path for path in self._folder.iterdir() if path.suffix == ".entry"]
        except FileNotFoundError:
            return []
        except OSError as error:
            self._say_stuck(self._folder, error)
            return []
        return sorted(each for each in names if each not in self._stuck)

    def empty(self, add: Callable[[bytes], object]) -> None:
        """Hand each entry to ``add``, and drop it.

        Edge cases:
            One that the log refuses is dropped with its reason in the service's log:
            whoever signed it can look at the log and sign another. A file that cannot
            be read or deleted, as that of another user, is said once and left where it
            is: the log goes on without it.

        Raises:
            TapestryError: The log or the disk fails; what is left waits.
        """
        for path in self.waiting():
            try:
                entry = read_plain(path, limit=MAX_ENTRY_BYTES)
            except VerificationError as error:
                _logger.warning("dropping %s: %s", path.name, error)
            except OSError as error:
                self._say_stuck(path, error)
                continue
            else:
                _try(add, entry, path)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._say_stuck(path, error)

    def _say_stuck(self, path: Path, error: OSError) -> None:
        if path in self._stuck:
            return
        self._stuck.add(path)
        found = ResourceError(
            f"cannot take entries from {path}: {error.strerror}; the log goes on"
            " without it. It has to belong to the user of this service: chown it, and"
            " start again",
            code="inbox-closed",
        )
        _logger.error("%s [%s]", found, found.code)


def _try(add: Callable[[bytes], object], entry: bytes, path: Path) -> None:
    try:
        add(entry)
    except (RuleError, VerificationError, ProtocolError) as error:
        _logger.warning("dropping %s: %s", path.name, error)


def check_entries(directory: Path, entries: Sequence[bytes]) -> None:
    """Require that the log would take entries as it stands, one after the other.

    Raises:
        ConfigError: The federation is not founded.
        RuleError, VerificationError: The log would refuse one.
    """
    state, logged = read_log(directory)
    for entry in entries:
        if entry not in logged:
            state = apply(state, entry, state.size)
