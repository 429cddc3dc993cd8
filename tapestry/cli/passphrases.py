"""Passphrases of keys that a person holds: typed twice, or read from a file.

Guarantees:
    No passphrase stands in an argument or in the environment, and none is printed. A
    file of one beside the key that it locks, or anywhere in the node's or coordinator's
    folder that has the key, is refused.
"""

import getpass
import stat
import sys
from pathlib import Path

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH
from tapestry.encrypted_keys import check_passphrase, is_encrypted, load_key
from tapestry.errors import ConfigError, VerificationError
from tapestry.inputs.plain_file import read_plain
from tapestry.keys import SigningKey

_MAX_BYTES = 4096

passphrase_file = click.option(
    "--passphrase-file",
    type=PATH,
    metavar="FILE",
    help="A file of mode 0600 with the passphrase, elsewhere than the key; default:"
    " ask on the terminal.",
)


def is_terminal() -> bool:
    """Return whether a person can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def ask(what: str) -> str:
    """Return the line that a person types; it is shown.

    Raises:
        EOFError: The terminal was closed.
    """
    console.note(f"{what}:")
    if not (line := sys.stdin.readline()):
        raise EOFError("nothing was typed; nothing was written, begin again")
    return line.strip()


def new_passphrase(key: Path, file: Path | None) -> str:
    """Return the passphrase for a new key; a person types it twice.

    Raises:
        ConfigError: There is no terminal and no file, the two differ, or it is short.
    """
    if file is not None:
        found = _read(file, key)
    else:
        _require_terminal(key)
        found = getpass.getpass(f"new passphrase for {console.shown(key)}: ")
        check_passphrase(found)
        if getpass.getpass("the same again: ") != found:
            raise ConfigError(
                "the two passphrases differ; nothing was written, begin again",
                code="passphrases-differ",
            )
    check_passphrase(found)
    return found


def known_passphrase(key: Path, file: Path | None) -> str:
    """Return the passphrase of a key that is locked.

    Raises:
        ConfigError: There is no terminal and no file, or the file cannot be used.
    """
    if file is not None:
        return _read(file, key)
    _require_terminal(key)
    return getpass.getpass(f"passphrase of {console.shown(key)}: ")


def unlock(key: Path, file: Path | None) -> SigningKey:
    """Load a key that a person holds, with its passphrase if it is locked.

    Raises:
        ConfigError: There is no such key, the passphrase is wrong, or nobody can be
            asked for it.
    """
    passphrase = known_passphrase(key, file) if is_encrypted(key) else None
    return load_key(key, passphrase=passphrase)


def _require_terminal(key: Path) -> None:
    if not is_terminal():
        raise ConfigError(
            f"{key} needs a passphrase and nobody can be asked; give --passphrase-file",
            code="passphrase-missing",
        )


def _is_with(file: Path, key: Path) -> bool:
    """Return whether a file is beside a key, or in the folder that has ``keys``."""
    if key.parent.name == "keys":
        return file.is_relative_to(key.parent.parent.resolve())
    return file.parent == key.parent.resolve()


def _read(file: Path, key: Path) -> str:
    """Read the first line of a file that is neither open to others nor with the key."""
    if any(_is_with(file.resolve(), each) for each in (key.absolute(), key.resolve())):
        raise ConfigError(
            f"{file} lies in the folder of {key}: who takes the folder has both; keep"
            " it elsewhere",
            code="passphrase-beside-key",
        )
    empty = ConfigError(
        f"{file} does not begin with a line of text, the passphrase; write one",
        code="passphrase-missing",
    )
    try:
        mode = file.stat().st_mode
        text = read_plain(file, limit=_MAX_BYTES, links=True).decode("utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read {file}: {error.strerror}", code="file-unreadable"
        ) from None
    except (VerificationError, UnicodeDecodeError):
        raise empty from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"{file} is open to others; chmod 600 it", code="key-file-not-private"
        )
    if not (found := text.split("\n", 1)[0].removesuffix("\r")):
        raise empty
    return found
