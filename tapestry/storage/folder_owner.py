"""A folder of keys and state belongs to one user, who alone runs what writes there."""

import os
import pwd
from pathlib import Path

from tapestry.errors import ConfigError


def require_own_folder(folder: Path) -> None:
    """Require that a folder that is there belongs to the user of this process.

    Guarantees:
        Nothing is written. It holds for the superuser too, whom no mode stops: what it
        wrote here, the service of the folder's owner could neither read nor replace.

    Edge cases:
        A folder that is not there, or cannot be looked at, passes: who makes it owns
        it, and what cannot be looked at cannot be written either.

    Raises:
        ConfigError: The folder is another user's.
    """
    try:
        owner = folder.stat().st_uid
    except OSError:
        return
    own = os.geteuid()
    if owner != own:
        raise ConfigError(
            f"{folder} belongs to {_named(owner)}, and this is {_named(own)}: files"
            " written here now would be closed to its owner. Nothing was written; run"
            " it as the owner: under systemd by the systemd-run line of"
            " deploy/README.md, in a container by --user, elsewhere by sudo -u; a"
            " network file system has to tell the same owner",
            code="folder-of-another-user",
        )


def _named(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
