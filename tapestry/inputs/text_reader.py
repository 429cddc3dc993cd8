r"""Reader of outside text: settings, records, public text, prompts.

Everything that people or other programs wrote is read here, under one set of rules:

==================  ================================================================
encoding            UTF-8. UTF-16 and UTF-32 are recognized and named; nothing is
                    guessed and no byte is replaced
byte-order mark     one at the start of a file is dropped, in every kind of file;
                    U+FEFF anywhere else is refused
line ends           LF, CRLF and CR end a line, and are LF inside a text file.
                    U+2028, U+2029, U+0085, VT and FF are characters of the text
control characters  tab, LF, VT, FF, CR and U+0085 are text; NUL, the other C0 and
                    C1 controls and DEL are refused
surrogates          a lone one (``\ud800`` in JSON) is refused; it is no character
noncharacters       U+FFFE, U+FFFF and U+FDD0 to U+FDEF are refused
JSON lines          one object a line and nothing behind it; no key twice at any
                    depth, no NaN or infinity, no number that a double cannot hold;
                    blank lines do not count
size                a line of JSON and a text file: 64 MiB; TOML: 1 MiB. Files of
                    many lines are read line by line
file                a regular file that stays as it is while it is read; a FIFO,
                    socket or device is never opened for reading
==================  ================================================================

Text that passes is kept as it was written, and not normalized.

Guarantees:
    No message holds a byte of the content, and no error carries it: the exceptions
    of the decoders, which do, are dropped. A message names file, line, rule, remedy.
"""

import json
import math
import os
import re
import stat
import tomllib
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from tapestry.errors import ConfigError
from tapestry.inputs.faults import Faults, InputFault

MAX_TEXT_BYTES = 64 << 20
MAX_TOML_BYTES = 1 << 20
_MARK = b"\xef\xbb\xbf"  # the byte-order mark in UTF-8
_REFUSED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]"
)
# Bytes of UTF-8 without which a text holds nothing refused: the controls of ASCII, and
# the first byte of each other refused character. Bytes are looked through in a fifth of
# the time that the pattern takes.
_SUSPECT = bytes([*range(9), *range(14, 32), 0x7F, 0xC2, 0xED, 0xEF])
_LOOK = 4096  # bytes by which an encoding is recognized
_DIGITS = 400  # of a number; no double needs more
# Default-ignorable code points (Unicode 16, DerivedCoreProperties) that are not in
# the categories C and Z, and the braille pattern without dots.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2065\u2800\u3164"
    "\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
_ODD_TOML = "no lines key = value; put text in quotes"
_NOT_TOML = (  # how a message of tomllib begins, and what is said instead
    *(
        (f"Cannot {verb}", "a key or table is there twice; take one out")
        for verb in ("declare", "overwrite", "mutate", "redefine")
    ),
    ("Duplicate", "a key or table is there twice; take one out"),
    ("Invalid value", "a value is missing or is no TOML value; put text in quotes"),
    ("Invalid date", "a date or time is not valid; put text in quotes"),
    ("Invalid hex", "an escape in a text is not valid; write \\\\ for a backslash"),
    ("Unescaped", "an escape in a text is not valid; write \\\\ for a backslash"),
    ("Escaped", "an escape in a text is no character; write the character"),
    ("Unterminated", "a text has no end; close its quotes"),
    ("Illegal character", "a text goes over its line; close its quotes"),
    ("Unclosed", "a list or table has no end; close its bracket"),
    ("Expected newline", "something follows a value; begin a new line"),
    ("Expected '='", "a key has no value; write key = value"),
    ("Exceeds the limit", "a number has too many digits"),
)
_CONVERT = "convert it to UTF-8, for example: iconv -f {} -t UTF-8 OLD > NEW"


@dataclass(frozen=True, slots=True)
class WrittenFloat:
    """A TOML float as it stands in the file; no digit of it is rounded."""

    text: str


def is_invisible(text: str) -> bool:
    """Return whether a text shows nothing to a reader.

    A text is invisible if it is empty, or if all of its characters are separators,
    controls, formats, variation selectors or fillers, of any script.
    """
    return all(
        unicodedata.category(each) in {"Cc", "Cf", "Zs", "Zl", "Zp"}
        or _BLANK.match(each)
        for each in text
    )


def read_text(path: Path, *, links: bool = True) -> str:
    """Read a text file.

    Raises:
        ConfigError: The file cannot be read or breaks a rule of this module.
    """
    try:
        return _read_whole(path, limit=MAX_TEXT_BYTES, links=links)
    except FileNotFoundError as error:
        raise InputFault(
            path, f"cannot read it: {error.strerror}", code="file-missing"
        ) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a file of settings, with floats as ``WrittenFloat``.

    Raises:
        FileNotFoundError: The file does not exist; the caller names its purpose.
        ConfigError: The file cannot be read, breaks a rule of this module, or is not
            TOML.
    """
    text = _read_whole(path, limit=MAX_TOML_BYTES, links=True)
    if not text.strip():
        raise InputFault(path, "is empty; write its settings", code="file-empty")
    try:
        return tomllib.loads(text, parse_float=WrittenFloat)
    except RecursionError:
        raise InputFault(
            path, "is not TOML: nested too deeply", code="toml-invalid"
        ) from None
    except ValueError as error:  # an integer of thousands of digits is one, too
        rule, line = _why_not_toml(str(error))
        raise InputFault(
            path, f"is not TOML: {rule}", line=line, code="toml-invalid"
        ) from None


def _why_not_toml(said: str) -> tuple[str, int | None]:
    """Return the rule and the line of a parser's message, which may quote a key."""
    found = re.search(r"\(at line ([0-9]+), column [0-9]+\)\Z", said)
    rule = next(
        (ours for start, ours in _NOT_TOML if said.startswith(start)), _ODD_TOML
    )
    return rule, None if found is None else int(found[1])


def read_rows(
    path: Path, faults: Faults, *, links: bool = True
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file of JSON lines, with the numbers of their lines.

    A line that breaks a rule becomes a fault, and reading goes on behind it. Strings
    inside the objects are for the caller to check, with ``first_fault``.
    """
    try:
        for number, data in lines_of(path, links=links):
            try:
                text = decoded(data.rstrip(b"\r\n"), path, line=number)
                if text.strip(" \t\v\f"):
                    yield number, _parse(text)
            except InputFault as fault:
                faults.add(fault)
            except ConfigError as error:
                rule = str(error)
                faults.add(InputFault(path, rule, line=number, code=error.code))
    except InputFault as fault:
        faults.add(fault)


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that is one object of JSON.

    Raises:
        ConfigError: The file cannot be read or breaks a rule of this module.
    """
    text = read_text(path, links=False)
    try:
        return _parse(text)
    except ConfigError as error:
        raise InputFault(path, str(error), code=error.code) from None


def first_fault(text: str) -> str | None:
    """Return which rule of this module a text breaks first, in words, or None."""
    found = _first_refused(text)
    return None if found is None else found[1]


def kind_of(value: object) -> str:
    """Name the JSON type of a value, with its article."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean"}
    return names.get(type(value), "a number")


def _first_refused(text: str) -> tuple[int, str] | None:
    """Find the first character that no text may hold: its place, and the rule."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data.translate(None, _SUSPECT)) == len(data):
        return None
    found = _REFUSED.search(text)
    if found is None:
        return None
    code = ord(found[0])
    if code == 0:
        rule = "holds a NUL character; remove it"
    elif code == 0xFEFF:
        rule = "holds a byte-order mark inside the text; remove it"
    elif 0xD800 <= code < 0xE000:
        rule = "holds a lone surrogate, which is no character; export the data again"
    elif code >= 0xFDD0:
        rule = "holds a code point that is no character; export the data again"
    elif code >= 0x80:
        rule = "holds a C1 control, as misread Windows-1252 does; export it as UTF-8"
    else:
        rule = "holds a control character other than tab and line ends; remove it"
    return found.start(), rule


@contextmanager
def opened(path: Path, *, links: bool) -> Iterator[BinaryIO]:
    """Open a regular file, and check afterwards that it was not changed meanwhile.

    A FIFO, socket or device is recognized before it is opened. If one takes the
    file's place in between, ``O_NONBLOCK`` keeps the node from waiting for it.

    Raises:
        FileNotFoundError: The file does not exist.
        ConfigError: The file cannot be read, is no regular file, or was changed.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    flags |= 0 if links else os.O_NOFOLLOW
    try:
        _check_regular(path, path.stat(follow_symlinks=links))
        with os.fdopen(os.open(path, flags), "rb") as file:
            before = os.fstat(file.fileno())
            _check_regular(path, before)
            yield file
            after = os.fstat(file.fileno())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputFault(
            path, f"cannot read it: {error.strerror}", code="file-unreadable"
        ) from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputFault(
            path,
            "was changed while it was read; stop the writer, try again",
            code="file-changed",
        )


def _check_regular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise InputFault(
            path, "is a link; put the file itself there", code="link-not-allowed"
        )
    if stat.S_ISDIR(found.st_mode):
        raise InputFault(
            path, "cannot read it: it is a folder; name a file", code="file-not-plain"
        )
    if not stat.S_ISREG(found.st_mode):
        raise InputFault(
            path, "is a FIFO, socket or device; put a file there", code="file-not-plain"
        )


def _read_whole(path: Path, *, limit: int, links: bool) -> str:
    with opened(path, links=links) as file:
        data = file.read(limit + 1)
        if len(data) > limit:
            raise InputFault(
                path, f"is over {limit >> 20} MiB; split it", code="file-too-large"
            )
    _check_encoding(data, path)
    text = decoded(data.removeprefix(_MARK), path)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if (found := _first_refused(text)) is not None:
        place, rule = found
        raise InputFault(
            path,
            rule,
            line=text.count("\n", 0, place) + 1,
            code="character-not-allowed",
        )
    return text


def lines_of(path: Path, *, links: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their ends, numbered from 1.

    Raises:
        ConfigError: The file cannot be read, or a line is too long.
    """
    number = 0
    try:
        with opened(path, links=links) as file:
            _check_encoding(file.peek(_LOOK), path)  # type: ignore[attr-defined]  # BufferedReader
            while data := file.readline(MAX_TEXT_BYTES + 1):
                if len(data) > MAX_TEXT_BYTES:
                    rule = f"is over {MAX_TEXT_BYTES >> 20} MiB long; split the record"
                    raise InputFault(path, rule, line=number + 1, code="line-too-long")
                if number == 0:
                    data = data.removeprefix(_MARK)
                for line in data.splitlines(keepends=True):  # at LF, CRLF and CR
                    number += 1
                    yield number, line
    except FileNotFoundError as error:
        raise InputFault(
            path, f"cannot read it: {error.strerror}", code="file-missing"
        ) from None


def _check_encoding(data: bytes, path: Path) -> None:
    """Refuse the two other encodings that the first bytes show."""
    head = data[:_LOOK]
    odd, even = head[1::2].count(0), head[::2].count(0)
    most, least = max(odd, even), min(odd, even)
    found = None
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        found = "UTF-32"
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")):
        found = "UTF-16"
    elif len(head) > 1 and most > 0.3 * len(head) and least < 0.05 * len(head):
        found = "UTF-16LE" if odd > even else "UTF-16BE"
    if found is not None:
        raise InputFault(
            path,
            f"is {found}, not UTF-8; {_CONVERT.format(found)}",
            code="text-not-utf8",
        )


def decoded(data: bytes, path: Path, *, line: int | None = None) -> str:
    """Decode a file, or one line of it.

    Raises:
        ConfigError: The bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if line is None:
            ends = re.findall(rb"\r\n|\r|\n", data[: error.start])
            line = len(ends) + 1
    raise InputFault(
        path,
        f"not UTF-8; {_CONVERT.format('WINDOWS-1252')}",
        line=line,
        code="text-not-utf8",
    )


def _parse(text: str) -> dict[str, Any]:
    """Read one line of JSON strictly."""
    if (rule := first_fault(text)) is not None:
        raise ConfigError(rule, code="character-not-allowed")
    try:
        value = _STRICT.decode(text)
    except json.JSONDecodeError as error:
        place = error.pos + 1
        if error.msg == "Extra data":
            raise ConfigError(
                "something follows the object; write one a line", code="json-invalid"
            ) from None
    except RecursionError:
        raise ConfigError(
            "not JSON that is read here: nested too deeply", code="json-too-deep"
        ) from None
    else:
        if isinstance(value, dict):
            return value
        raise ConfigError(f"is {kind_of(value)}; want an object", code="json-invalid")
    if text.strip() in {"[", "{"}:
        raise ConfigError(
            "not JSON: the value goes on in the next line; write one a line",
            code="json-invalid",
        )
    raise ConfigError(
        f"not JSON from character {place} on; write one object a line",
        code="json-invalid",
    )


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ConfigError(
            "a key stands there twice; keep one of the two", code="json-key-duplicated"
        )
    return value


def _no_constant(_: str) -> NoReturn:
    raise ConfigError(
        "NaN and infinity are not JSON; write a number or leave it out",
        code="json-number-invalid",
    )


def _float(text: str) -> float:
    value = float(text) if len(text) <= _DIGITS else math.inf
    if not math.isfinite(value):
        raise ConfigError(
            "a number is too large; write it in quotes", code="json-number-invalid"
        )
    return value


def _int(text: str) -> int:
    _float(text)
    return int(text)


_STRICT = json.JSONDecoder(
    object_pairs_hook=_no_key_twice,
    parse_constant=_no_constant,
    parse_float=_float,
    parse_int=_int,
)
