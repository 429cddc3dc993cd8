"""The README's list of commands and table of exit statuses, from the commands.

``python -m tests.support.command_table`` writes both into README.md; a test fails when
the README says something else.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from tapestry.cli import app
from tapestry.cli.exit_status import MEANINGS

README = Path(__file__).resolve().parent.parent.parent / "README.md"
_WIDTH = 92
_BLOCK = (
    "<!-- {name}: python -m tests.support.command_table -->\n{text}\n<!-- /{name} -->"
)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its full name."""
    context = click.Context(app)
    for role in app.list_commands(context):
        command = app.get_command(context, role)
        assert command is not None
        yield from _leaves(f"tapestry {role}", command)


def _leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    for verb, each in command.commands.items():
        yield from _leaves(f"{name} {verb}", each)


def written(text: str) -> str:
    """Return a README in which both blocks are as the commands are."""
    for name, block in (("commands", _commands()), ("statuses", _statuses())):
        pattern = rf"<!-- {name}: .*?<!-- /{name} -->"
        new = _BLOCK.format(name=name, text=block)
        literal = new.replace("\\", r"\\")
        text, count = re.subn(pattern, literal, text, flags=re.DOTALL)
        assert count == 1, f"README.md has no block {name}"
    return text


def _commands() -> str:
    lines = []
    for name, command in commands():
        words = [_spelled(parameter) for parameter in command.params]
        lines += textwrap.wrap(
            " ".join([name, *words]),
            _WIDTH,
            subsequent_indent=" " * 8,
            break_long_words=False,
            break_on_hyphens=False,
        )
        summary = (command.help or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"    {summary}")
    return "\n".join(["```", *lines, "```"]).replace("\0", " ")


def _spelled(parameter: click.Parameter) -> str:
    """Spell an argument or option as people read it; its words stay on one line."""
    if isinstance(parameter, click.Argument):
        return str(parameter.metavar)
    assert isinstance(parameter, click.Option)
    words = [parameter.opts[0]]
    if isinstance(parameter.type, click.Choice):
        words.append("|".join(map(str, parameter.type.choices)))
    elif not parameter.is_flag:
        words.append(str(parameter.metavar))
    text = "\0".join(words)
    more = "..." if parameter.multiple else ""
    return text if parameter.required else f"[{text}]{more}"


def _statuses() -> str:
    rows = [f"| {int(status)} | {text} |" for status, text in MEANINGS.items()]
    return "\n".join(["| exit | means |", "|---|---|", *rows])


if __name__ == "__main__":
    README.write_text(written(README.read_text("utf-8")), "utf-8")
