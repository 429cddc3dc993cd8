"""Command lines, right and wrong, drawn from the commands that there are.

A new command, argument or option is tried from the day it is written.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from tests.fuzzing.draws import Draw
from tests.support.command_table import commands

NUMBERS = (
    "0", "1", "-1", "2", "4097", "1e3", "1e309", "-1e309", "nan", "inf", "0x10",
    "1_000", "٣", "½", "+1", " 1", "1.5", "-0.0", "9" * 40, "9" * 5000, "1e-400",
)  # fmt: skip
TEXTS = (
    "", " ", "-", "--", "---", "--help", "-h", "x", "ciao", "é", "日本語", "\udcff",
    "caf\udce9", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "a\nb", "\r", "\x7f", "\x85",
    "\u202egnp.exe", "\u2028", "\ufeff", "%s%n%d", "{0}", "[]", "null", "$HOME", "`id`",
    "'", '"', "a=b", "@file", "*", "x" * 300, "x" * 100_000, "é" * 40_000, "base-1",
    "base-2", "fr-culture", "base-2 ", "../x",
)  # fmt: skip
PATHS = (
    ".", "..", "/", "//", "gone", "gone/deeper/still", "-gone", "~", "~nobody/x", "",
    "new\nline", "x" * 256, "x/" * 2500 + "x", "\udcff", "/dev/null", "/dev/zero",
    "/dev/full", "/proc", "/proc/self/mem", "/etc/passwd", "smol", "smollm2/", "tiny",
)  # fmt: skip
_COMMANDS = {tuple(name.split()[1:]): command for name, command in commands()}
_INSERTED = ("--help", "--json", "--version", "--unknown", "-x", *TEXTS)


def draw_line(draw: Draw, *, paths: Sequence[Path]) -> list[str]:
    """Draw a command line, often a wrong one, that names some of the paths."""
    path, command = draw.one(list(_COMMANDS.items()))
    parts = [[name] for name in path]
    for parameter in command.params:
        if not isinstance(parameter, click.Argument):
            parts += _give(draw, parameter, paths)
        elif draw.chance(0.85):
            parts.append([_draw_value(draw, parameter, paths)])
    for _ in range(draw.one((0, 0, 1, 2))):
        parts = _spoil(draw, parts)
    return [word for part in parts for word in part]


def draw_options(
    draw: Draw, *, words: Sequence[str], paths: Sequence[Path]
) -> list[str]:
    """Draw options for a command line that is right without them."""
    command = _COMMANDS.get(tuple(words[:2])) or _COMMANDS[tuple(words[:1])]
    given = (part for each in command.params for part in _give(draw, each, paths))
    return [word for part in given for word in part]


def _give(
    draw: Draw, parameter: click.Parameter, paths: Sequence[Path]
) -> Iterator[list[str]]:
    """Yield an option with a value, or nothing, or more than once."""
    chance = 0.2 if isinstance(parameter, click.Option) else 0
    while draw.chance(chance):
        name, value = draw.one(parameter.opts), _draw_value(draw, parameter, paths)
        if getattr(parameter, "is_flag", False):
            yield [name]
        else:
            yield [f"{name}={value}"] if draw.chance(0.2) else [name, value]


def _draw_value(draw: Draw, parameter: click.Parameter, paths: Sequence[Path]) -> str:
    """Draw a value that suits a parameter more often than not."""
    kind = parameter.type
    if isinstance(kind, click.Choice) and draw.chance(0.7):
        return str(draw.one(list(kind.choices)))
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        return draw.one(NUMBERS if draw.chance(0.8) else TEXTS)
    if not isinstance(kind, click.Path) and parameter.name != "base":
        return draw.one(TEXTS)
    if draw.chance(0.6):
        return str(draw.one(paths)) + draw.one(("",) * 9 + ("/",))
    return draw.one(PATHS if draw.chance(0.7) else TEXTS)


def _spoil(draw: Draw, parts: Sequence[list[str]]) -> list[list[str]]:
    """Drop, repeat, misspell or move a word, or put one in that nobody asked for."""
    rest = list(parts)
    chosen = rest.pop(draw.below(len(rest))) if rest else [""]
    place = draw.below(len(rest) + 1)
    match draw.one(("drop", "cut", "repeat", "misspell", "move", "insert")):
        case "cut":  # an option without its value
            rest[place:place] = [chosen[:-1]] if chosen[1:] else []
        case "repeat":
            rest[place:place] = [chosen] * draw.one((2, 2, 2, 5, 1000))
        case "misspell":
            at, letter = draw.below(len(chosen[0]) + 1), draw.one("ab-_=AÀ0 \x1b")
            word = chosen[0][:at] + letter + chosen[0][at + draw.below(2) :]
            rest.insert(place, [draw.one((word, chosen[0].upper())), *chosen[1:]])
        case "move":
            rest.insert(place, chosen)
        case "insert":
            rest[place:place] = [[draw.one(_INSERTED)], chosen]
    return rest
