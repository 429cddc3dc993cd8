"""``tapestry demo`` with a command in its place that ends as a test wants."""

from collections.abc import Callable

import click
import pytest

from tapestry.cli import commands
from tapestry_demo import cli
from tests.support.commands import Result, tapestry


def ending(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[], object], *words: str
) -> Result:
    """Run ``tapestry demo`` with a command in its place."""

    @click.command(cls=commands.Command)
    @click.option("--json", is_flag=True, expose_value=False)
    def command() -> object:
        return end()

    monkeypatch.setattr(cli, "app", command)
    return tapestry("demo", *words)


def raising(error: BaseException) -> Callable[[], object]:
    """Return what ends with this error."""

    def end() -> object:
        raise error

    return end
