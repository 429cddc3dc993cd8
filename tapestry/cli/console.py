r"""The printer of all commands: results to standard output, notes to standard error.

Guarantees:
    No text from outside moves the cursor, colours, renames or reorders a terminal:
    control characters, ANSI escapes and changes of writing direction are shown as
    ``\x1b``. ``say`` and ``note`` write exactly one line whatever the text holds, so
    that a file name with a line feed cannot forge a verdict. Text that the terminal's
    encoding cannot spell is shown as escapes and ends nothing. JSON is valid whatever
    the encoding is.

Not protected:
    Letters that look alike, and scripts that are written from right to left.
"""

import contextlib
import errno
import io
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator
from typing import IO, Any

from tapestry.errors import ConfigError

# C0, DEL and C1; line and paragraph separators; embeddings, overrides and isolates of
# direction; halves of surrogate pairs. Scripts need joiners and direction marks.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_STDOUT = "standard output"
_ASCII = {"ascii", "usascii", "ansix3.41968", "646"}  # encodings, without dashes
_PART = 1000  # characters of a note that are shown from either end
_NONSENSE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def prepare() -> None:
    """Let the streams take any text; call it once, before anything is printed."""
    for stream in (sys.stdout, sys.stderr):
        _reconfigure(stream, errors="backslashreplace")
    if sys.stdin is not None:
        encoding = "utf-8" if _encoding(sys.stdin) in _ASCII else None
        _reconfigure(sys.stdin, encoding=encoding, errors="surrogateescape")


def shown(text: object) -> str:
    """Spell text from outside in one line that a terminal takes as text alone."""
    return _UNSAFE.sub(_escape, str(text))


def say(text: object) -> None:
    """Print one line of a result.

    Raises:
        OSError: Standard output is closed, full or gone.
    """
    _write(shown(text) + "\n")


def say_page(text: str) -> None:
    """Print a text of several lines, such as a page in Markdown.

    Raises:
        OSError: Standard output is closed, full or gone.
    """
    lines = text.removesuffix("\n").split("\n")
    _write("".join(f"{shown(line)}\n" for line in lines))


def say_json(value: Any, *, indent: int | None = 2) -> None:
    """Print one JSON value; a number that JSON cannot spell becomes null.

    Raises:
        OSError: Standard output is closed, full or gone.
    """
    text = json.dumps(
        _finite(value),
        indent=indent,
        ensure_ascii=sys.stdout is None or _encoding(sys.stdout) != "utf8",
        allow_nan=False,
    )
    # Outside strings the only control characters are the line feeds of the layout.
    _write(re.sub(r"(?!\n)" + _UNSAFE.pattern, _escape_json, text) + "\n")


def note(text: object) -> None:
    """Print one line to standard error; do nothing where that is closed.

    Edge cases:
        A line of over 2,000 characters loses its middle; rule and remedy end it.
    """
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(_cut(shown(text)) + "\n")
        sys.stderr.flush()


class _LogLines(logging.Formatter):
    """One line for each record of a program's log, whatever others put into it."""

    def format(self, record: logging.LogRecord) -> str:
        """Spell a record; a traceback of this program keeps its lines."""
        return "\n".join(map(shown, super().format(record).split("\n")))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Spell the message, which may quote another party, in one line."""
        return shown(super().formatMessage(record))


def start_logging(handler: logging.Handler | None = None) -> None:
    """Write the program's log from INFO on, and by no other way.

    It goes to standard error, or by ``handler``. A library may have put a handler of
    its own there when it was imported.
    """
    handler = handler or logging.StreamHandler()
    handler.setFormatter(_LogLines("%(asctime)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def output() -> IO[str]:
    """Return standard output, for a library that draws on it by itself.

    Raises:
        OSError: Standard output is closed.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, "closed", _STDOUT)
    return sys.stdout


def finish() -> None:
    """Write out what is still held back.

    Raises:
        OSError: Standard output is full, or its reader is gone.
    """
    if sys.stdout is not None and not sys.stdout.closed:
        with _named():
            sys.stdout.flush()


def abandon() -> None:
    """Drop what standard output still holds back, so that the exit is quiet."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def check_text(text: str, *, what: str) -> str:
    """Return text that a person gave, as Unicode.

    Edge cases:
        A terminal without UTF-8 gives the bytes undecoded; they are read as UTF-8.

    Raises:
        ConfigError: The text is not valid UTF-8, or holds control characters other than
            tab and line feed.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        try:
            text = os.fsencode(text).decode("utf-8")
        except UnicodeError:
            raise ConfigError(
                f"{what} is not valid UTF-8; save or type it as UTF-8",
                code="text-not-utf8",
            ) from None
    if found := _NONSENSE.search(text):
        raise ConfigError(
            f"{what} holds the control character {shown(found[0])} at position"
            f" {found.start() + 1}; remove it",
            code="character-not-allowed",
        )
    return text


def _cut(line: str) -> str:
    if len(line) <= 2 * _PART:
        return line
    return f"{line[:_PART]} … {line[-_PART:]}"


def _write(text: str) -> None:
    with _named():
        output().write(text)


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Name standard output in an ``OSError`` that names no file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or _STDOUT
        raise


def _reconfigure(
    stream: IO[str] | None, *, errors: str, encoding: str | None = None
) -> None:
    """Change how a stream spells text, if it is one that can."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding=encoding, errors=errors)


def _encoding(stream: IO[str]) -> str:
    """Return the name of an encoding without its dashes; a string buffer takes all."""
    name = getattr(stream, "encoding", None) or "utf-8"
    return name.lower().replace("-", "").replace("_", "")


def _finite(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
    return value


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    named = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
    code = ord(character)
    return named.get(character) or (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    )


def _escape_json(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
