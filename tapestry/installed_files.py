"""The check, at each start, that the files of packages are as their RECORDs say.

Reading all files takes seconds, and minutes where they lie on a slow disk. So a package
is read once, and again when the file system shows that one of its files was written:
the cache keeps a digest of inode, size and times of all files, taken before the read.

Guarantees:
    An installed file that was edited, replaced or deleted is noticed at the next start
    of a node or coordinator, which then does not start.

Not protected:
    What changes after the start; files that no RECORD lists, which only ``tapestry
    audit software --files`` looks for; whoever can write the user's cache, or the disk
    below the file system.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from tapestry.cache import cache_folder
from tapestry.errors import ResourceError, VerificationError
from tapestry.installed_packages import InstalledPackage
from tapestry.storage.durable_files import replace_file

_FILE = "installed-files.json"


def require_installed_files(packages: Iterable[InstalledPackage]) -> None:
    """Require that every file of the packages is as its RECORD says.

    Edge cases:
        A cache that cannot be read or written costs time: every file is read.

    Raises:
        VerificationError: A file is missing, or is not the recorded one.
    """
    known = _read()
    seen = dict(known)
    for package in packages:
        place, found = f"{package.folder}/{package.name}", package.stat_digest()
        if known.get(place) != found:
            for path in package.differing_files():
                raise VerificationError(
                    f"{package.folder}/{path} is not the file that package"
                    f" {package.name} {package.version} recorded; install the package"
                    " again, and see tapestry audit software --files",
                    code="installed-file-differs",
                )
            seen[place] = found
    if seen != known:
        with suppress(ResourceError):
            replace_file(cache_folder() / _FILE, json.dumps(seen).encode())


def _read() -> dict[str, Any]:
    try:
        found = json.loads((cache_folder() / _FILE).read_bytes())
    except (OSError, ValueError, ResourceError):
        return {}
    return found if isinstance(found, dict) else {}
