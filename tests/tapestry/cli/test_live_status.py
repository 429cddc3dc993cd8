"""A status is told again where it has news, and redrawn on a terminal."""

import io
import json
from collections.abc import Hashable, Iterator
from typing import Any

import pytest

from tapestry.cli import console, live_status


class Counted:
    """A status of two lines, of which one has no news."""

    def __init__(self, number: int) -> None:
        self.number = number

    def to_json(self) -> dict[str, Any]:
        return {"number": self.number}

    def lines(self) -> Iterator[object]:
        yield f"number {self.number // 2}"
        yield f"age {self.number}"

    def news(self) -> Iterator[Hashable]:
        yield "number", self.number // 2
        yield "age", None


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    """Four looks, and then Ctrl-C."""
    paused: list[None] = []

    def pause() -> None:
        paused.append(None)
        if len(paused) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(live_status, "pause", pause)
    return map(Counted, range(4))


def test_a_line_is_told_when_it_has_news(
    looks: Iterator[Counted], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        live_status.watch(lambda: next(looks), as_json=False)
    told = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert told == ["number 0", "age 0", "number 1"]


def test_lines_with_the_same_news_are_each_told_once(
    looks: Iterator[Counted], capsys: pytest.CaptureFixture[str]
) -> None:
    class Doubled(Counted):
        def lines(self) -> Iterator[object]:
            yield from ["round 1"] * (self.number + 1)

        def news(self) -> Iterator[Hashable]:
            return map(str, self.lines())

    with pytest.raises(KeyboardInterrupt):
        live_status.watch(lambda: Doubled(next(looks).number // 2), as_json=False)
    told = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert told == ["round 1"] * 2  # one at first, and one that is new


def test_json_is_a_line_for_each_change(
    looks: Iterator[Counted], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        live_status.watch(lambda: next(looks), as_json=True)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told == [{"number": 0}, {"number": 2}]


def test_a_terminal_shows_the_last_look(
    looks: Iterator[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(console, "output", lambda: screen)
    with pytest.raises(KeyboardInterrupt):
        live_status.watch(lambda: next(looks), as_json=False)
    assert "age 3" in screen.getvalue()
