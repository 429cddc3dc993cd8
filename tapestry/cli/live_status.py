"""A status that is shown again and again, until Ctrl-C."""

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from datetime import UTC, datetime
from typing import Any, Protocol

from tapestry.cli import console

_LOOK_SECONDS = 1.0


class Status(Protocol):
    """A state that can be shown."""

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""

    def lines(self) -> Iterator[object]:
        """Yield it as lines of text."""

    def news(self) -> Iterator[Hashable]:
        """Yield for each line what makes it worth telling again; lines may share it."""


def watch(read: Callable[[], Status], *, as_json: bool) -> None:
    """Redraw a status on a terminal; elsewhere tell each line that has news."""
    out = console.output()
    if out.isatty() and not as_json:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(console=Console(file=out), auto_refresh=False) as drawn:
            for found in _looks(read):
                text = "\n".join(console.shown(line) for line in found.lines())
                drawn.update(Text(text), refresh=True)
    before = Counter[Hashable]()
    for found in _looks(read):
        news = list(found.news())
        fresh = Counter(news) - before
        if fresh and as_json:
            console.say_json(found.to_json(), indent=None)
        elif fresh:
            for key, line in zip(news, found.lines(), strict=True):
                if fresh[key]:
                    fresh[key] -= 1
                    console.say(f"{datetime.now(UTC):%H:%M:%S}  {line}")
        console.finish()
        before = Counter(news)


def _looks(read: Callable[[], Status]) -> Iterator[Status]:
    while True:
        yield read()
        pause()


def pause() -> None:
    """Wait between two looks."""
    time.sleep(_LOOK_SECONDS)
