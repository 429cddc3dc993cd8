"""Signed entries that somebody handed to the coordinator, on their way to the log.

``inbox/`` of a coordinator's folder holds a file for each. ``tapestry coordinator
submit`` writes them, also while the service runs; the service takes them when it next
has the log cosigned, and at once between runs.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tapestry.encoding import digest
from tapestry.errors import ProtocolError, RuleError, VerificationError
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

    def put(self, entry: bytes) -> Path:
        """Keep an entry until the log has it; returns its file."""
        path = self._folder / f"{digest(entry).removeprefix('sha256:')}.entry"
        durable_files.replace_file(path, entry)
        return path

    def waiting(self) -> list[Path]:
        """Return the files of the entries that wait, in order of name."""
        return sorted(path for path in self._folder.glob("*.entry") if path.is_file())

    def empty(self, add: Callable[[bytes], object]) -> None:
        """Hand each entry to ``add``, and drop it.

        Edge cases:
            One that the log refuses is dropped with its reason in the service's log:
            whoever signed it can look at the log and sign another.

        Raises:
            TapestryError: The log or the disk fails; what is left waits.
        OSError: A file cannot be read; what is left waits.
        """
        for path in self.waiting():
            try:
                add(read_plain(path, limit=MAX_ENTRY_BYTES))
            except (RuleError, VerificationError, ProtocolError) as error:
                _logger.warning("dropping %s: %s", path.name, error)
            path.unlink(missing_ok=True)


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
