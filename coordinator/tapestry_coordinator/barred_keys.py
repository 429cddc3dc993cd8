"""The transport keys that the log calls compromised: no node connects by them.

The process that has the log writes them, and the one that registers keys with the
SuperLink reads them a few times a second::

    key.rotated, compromised   in force with the checkpoint that shows it
    enrolled/compromised       the digests, one a line
    SuperLink                  forgets these keys, and is given them no more

Guarantees:
    A digest is never taken off the list, also where the log was restored from a copy
    that lacks it.
"""

import re
from collections.abc import Collection
from pathlib import Path

from tapestry.errors import ConfigError
from tapestry.inputs.plain_file import read_plain, reading
from tapestry.storage import durable_files

ENROLLED = "enrolled"  # the folder of members' transport keys
FILE = "compromised"
_LIMIT = 1 << 24  # bytes
_LINES = re.compile(r"([0-9a-f]{64}\n)*")


def read_barred(enrolled: Path) -> frozenset[str]:
    """Read the digests of the keys that connect no more.

    Raises:
        ConfigError: The file has another line than a digest: nothing is let in then.
        ResourceError: The file cannot be read.
    """
    path = enrolled / FILE
    if not path.exists():
        return frozenset()
    with reading(path):
        text = read_plain(path, limit=_LIMIT).decode("ascii", "replace")
    if not _LINES.fullmatch(text):
        raise ConfigError(
            f"{path} has a line that is no digest of a key; delete it, and the next"
            " start of tapestry coordinator run writes it again from the log",
            code="barred-keys-invalid",
        )
    return frozenset(text.split())


def bar(enrolled: Path, digests: Collection[str]) -> None:
    """Add digests to the list; nothing is written where it has them.

    Raises:
        ConfigError, ResourceError: The list cannot be read, or not be written.
    """
    known = read_barred(enrolled)
    if not known.issuperset(digests):
        enrolled.mkdir(exist_ok=True)
        lines = "".join(f"{each}\n" for each in sorted(known.union(digests)))
        durable_files.replace_file(enrolled / FILE, lines.encode("ascii"))
