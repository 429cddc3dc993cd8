"""Faults of outside files, each with its place and its repair.

A fault names a file by the operator's own path, a line by its number, and a rule by
words of this repository. A ``Faults`` gathers those of a whole folder, so that an
operator repairs a folder once and not once per fault::

    data: 12 faults
      a.jsonl, line 3: "text" is missing; …
      b.txt: is a link; …
      …
      and 2 more

Guarantees:
    No message holds a byte of a file's content. Each fault is one line of printable
    text, whatever the file is called. Of an error of another library the type and the
    place are named and never the text, because a library quotes in it what it was
    given, which may be a record.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tapestry.errors import ConfigError

SHOWN = 10
TRACEBACK = "TAPESTRY_TRACEBACK"  # set to 1, it shows tracebacks on this machine
_LONGEST = 200  # characters of a path; longer ones are cut in the middle
_WITH_ROWS = (".parquet", ".arrow")  # files that have rows and no lines


class InputFault(ConfigError):
    """One rule that one file breaks."""

    def __init__(
        self, path: Path, rule: str, *, line: int | None = None, code: str = ""
    ) -> None:
        """Name the place and the rule.

        ``rule`` says what is wrong and, after a semicolon, what repairs it; ``line``
        counts from 1 and is None for the file as a whole. In a file that has rows and
        no lines it is a row.
        """
        self.path, self.rule, self.line = path, rule, line
        super().__init__(self._spell(show(path)), code=code)

    def below(self, folder: Path) -> str:
        """Return the message with the place relative to a folder or file."""
        if self.path == folder:
            return self._spell("")
        known = self.path.is_relative_to(folder)
        return self._spell(show(self.path.relative_to(folder) if known else self.path))

    def _spell(self, place: str) -> str:
        unit = "row" if self.path.suffix in _WITH_ROWS else "line"
        line = "" if self.line is None else f"{unit} {self.line}"
        place = ", ".join(filter(None, (place, line)))
        return f"{place}: {self.rule}" if place else self.rule


class HiddenError(Exception):
    """An unexpected error while records were at hand: its type and place, no more."""

    def __init__(self, place: str, frames: str) -> None:
        super().__init__(place)
        self.place, self.frames = place, frames


class ManyFaults(ConfigError):
    """Several faults, a line each below the name of the folder or file."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n  ".join(lines))


class Faults:
    """The faults of a folder; the first ten are kept, the others are counted."""

    def __init__(self) -> None:
        self._first: list[ConfigError] = []
        self._count = 0

    def __len__(self) -> int:
        """Count the faults, those that are not kept as well."""
        return self._count

    def add(self, fault: ConfigError) -> None:
        """Add a fault."""
        self._count += 1
        if len(self._first) < SHOWN:
            self._first.append(fault)

    def check(self, folder: Path) -> None:
        """Refuse a folder, or a file, if a fault was added.

        Raises:
            ConfigError: At least one fault was added. One fault is raised as it is;
                several are a line each, below the name of the folder.
        """
        if self._count == 1:
            raise self._first[0]
        if self._count:
            lines = [f"{show(folder)}: {self._count} faults"]
            lines += [
                f"{fault.below(folder) if isinstance(fault, InputFault) else fault}"
                f" [{fault.code}]"
                for fault in self._first
            ]
            if rest := self._count - len(self._first):
                lines.append(f"and {rest} more")
            raise ManyFaults(lines)


def unforeseen(error: BaseException) -> str:
    """Return the type of an unexpected error, and its place in Tapestry's code."""
    if isinstance(error, HiddenError):
        return error.place
    return f"{type(error).__name__} in {_place(error.__traceback__)}"


def wants_traceback() -> bool:
    """Return whether the operator asked for tracebacks."""
    return os.environ.get(TRACEBACK) == "1"


def _place(trace: TracebackType | None) -> str:
    """Return the innermost module and line of Tapestry on the way to an error."""
    found = "tapestry"
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.split(".")[0].split("_")[0] == "tapestry":
            found = f"{module}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def show(path: Path | str) -> str:
    r"""Spell a path as one line of printable text.

    Edge cases:
        A byte that is not UTF-8, a line end and every other character that a
        terminal would obey or not show appears as an escape such as ``\xff``.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        text = f"{text[:half]}…{text[-half:]}"
    return text
