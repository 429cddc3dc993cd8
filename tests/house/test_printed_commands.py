"""Each command that a page prints is there, with the options that it is given."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tapestry.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(
        page
        for folder in ("node", "coordinator", "governance", "deploy", "benchmarks")
        for page in (ROOT / folder).rglob("*.md")
    ),
]
_FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`(tapestry [^`]+)`")
_LINE = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?(tapestry .*(?:\n {8}.*|(?<=\\)\n.*)*)")
_WORD = re.compile(r"[a-z]+")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def _printed(page: str) -> Iterator[str]:
    """Find commands in blocks and sentences; a line may go on, with 8 blanks or \\."""
    for block in _FENCE.findall(page):
        for found in re.finditer(_LINE.pattern, block, re.MULTILINE):
            yield found[1]
    yield from _SPAN.findall(_FENCE.sub("", page).replace("\n", " "))


def _fault(text: str) -> str | None:
    """Say what is wrong with a command as a page prints it."""
    command: click.Command = app
    words = re.sub(r"\s+#.*", "", text).split()[1:]
    names: list[str] = []
    while isinstance(command, click.Group) and words and _WORD.fullmatch(words[0]):
        name = words.pop(0)
        found = command.get_command(click.Context(command), name)
        if found is None:
            return f"no command {' '.join([*names, name])}"
        names.append(name)
        command = found
    known = {o for p in command.params for o in p.opts} | {"--help", "--version"}
    unknown = set(_OPTION.findall(" ".join(words))) - known
    return f"{' '.join(names)} has no {sorted(unknown)}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_command_that_a_page_prints_is_there(page: Path) -> None:
    printed = list(_printed(page.read_text("utf-8")))
    assert [fault for text in printed if (fault := _fault(text))] == []


def test_commands_are_found_where_pages_print_them() -> None:
    block = "```\n$ tapestry chat --base x \\\n    --prompt y\nmake demo\n```\n"
    said = "Then `tapestry\naudit` does it."
    assert list(_printed(block + said)) == [
        "tapestry chat --base x \\\n    --prompt y",
        "tapestry audit",
    ]
    assert len(list(_printed((ROOT / "README.md").read_text("utf-8")))) > 20


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("tapestry audit verify BUNDLE --trust FILE  # --anything", None),
        ("tapestry horse", "no command horse"),
        ("tapestry audit look", "no command audit look"),
        ("tapestry node check [--yes]", "node check has no ['--yes']"),
    ],
)
def test_a_command_that_is_not_there_is_named(text: str, fault: str | None) -> None:
    assert _fault(text) == fault
