"""The cache folder, and folders in it that are built once.

Everything in the cache can be built again, and nothing in it is private.
"""

import errno
import os
import pwd
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tapestry.environment import require_current_folder
from tapestry.errors import ConfigError, ResourceError
from tapestry.storage.durable_files import publish_folder

CACHE_VARIABLE = "TAPESTRY_CACHE"


def cache_folder() -> Path:
    """Return ``$TAPESTRY_CACHE``, or ``tapestry`` in the user's cache folder.

    Edge cases:
        A relative ``TAPESTRY_CACHE`` starts at the current folder, and ``~`` in it is
        the home folder. A relative ``XDG_CACHE_HOME`` is ignored, as its
        specification says. The folder need not exist; the home folder must.

    Raises:
        ConfigError: ``TAPESTRY_CACHE`` begins with the ``~`` of an unknown user.
        ResourceError: The home folder or the current folder does not exist.
    """
    if own := os.environ.get(CACHE_VARIABLE):
        return _own_cache(own)
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else _home() / ".cache") / "tapestry"


def cached(cache: Path, name: str, build: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, which ``build`` fills if it is not there yet.

    Guarantees:
        The folder appears under its name whole or not at all, also when several
        processes build it at once.

    Raises:
        ResourceError: The cache cannot be read or written.
    """
    folder = cache / name
    try:
        if folder.is_dir():
            return folder
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as work:
            draft = Path(work) / "model"
            draft.mkdir()
            build(draft)
            draft.chmod(0o755)
            _publish(draft, folder)
    except (OSError, ResourceError) as error:
        cause = error.__cause__ or error
        why = getattr(cause, "strerror", None) or str(cause)
        way = "make room there" if _is_full(cause) else "make it a folder of yours"
        raise ResourceError(
            f"cannot write the cache {cache}: {why}; {way}, or set"
            " TAPESTRY_CACHE to another folder",
            code="cache-unwritable",
        ) from error
    return folder


def _is_full(cause: BaseException) -> bool:
    return getattr(cause, "errno", None) in {errno.ENOSPC, errno.EDQUOT}


def _publish(draft: Path, folder: Path) -> None:
    try:
        publish_folder(draft, folder)
    except ResourceError:
        if not folder.is_dir():  # another process was faster otherwise
            raise
        shutil.rmtree(draft)


def _own_cache(named: str) -> Path:
    if named == "~" or named.startswith("~/"):
        return _home() / named[2:]
    if named.startswith("~"):
        raise ConfigError(
            f"{CACHE_VARIABLE}={named} is no folder: write it as an absolute path",
            code="setting-invalid",
        )
    require_current_folder()
    return Path(named).absolute()


def _home() -> Path:
    """Return the home folder: ``$HOME``, or that of the user's account."""
    named = os.environ.get("HOME", "")
    if not Path(named).is_absolute():
        try:
            named = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            raise ResourceError(
                f"no folder for the cache: HOME is not set, and user {os.getuid()} has"
                f" no home folder; set {CACHE_VARIABLE} to a folder that you can write",
                code="home-folder-missing",
            ) from None
    if not os.path.isdir(named):  # noqa: PTH112 - never raises, other than Path.is_dir
        raise ResourceError(
            f"no folder for the cache: the home folder {named} does not exist; set"
            f" {CACHE_VARIABLE} to a folder that you can write",
            code="home-folder-missing",
        )
    return Path(named)
