"""Shows the progress of a run: a table in a terminal, plain lines elsewhere.

The code that does the work reports with one callable, which takes one event::

    with live("Four institutions, one base") as progress:
        progress({"stage": "prepare", "text": "reading the base"})
        progress({"stage": "round", "round": 1, "of": 4, "round_stage":
                  "collect_masked_inputs", "node": "italy", "done": 3, "total": 8})
        progress({"stage": "round", "round": 1, "of": 4, "round_stage": "close",
                  "norm": 0.9, "measure": "bits_per_byte", "score": 2.1,
                  "seconds": 41.0})

The vocabulary is closed; an unknown word is a bug of the caller. An event without
a node is about the whole stage; one with ``seconds`` ends its stage (its round).
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Literal, TypedDict, get_args

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tapestry.cli.console import shown
from tapestry.protocol.stages import RoundStage

Stage = Literal[
    "prepare", "round", "release", "adapter", "central", "evaluate", "report"
]
STAGES: tuple[str, ...] = get_args(Stage)
_REDRAWS = 8  # per second
_LINE_SECONDS = 10.0  # between two plain lines on the same piece of work
_BAR = 12
_GLYPHS = "✓▸━"


class _Needed(TypedDict):
    stage: Stage


class ProgressEvent(_Needed, total=False):
    """An event of a run: its stage, and what has changed."""

    round: int
    of: int
    round_stage: RoundStage
    node: str
    done: int
    total: int
    text: str
    measure: str  # what the score is, such as bits_per_byte
    score: float
    norm: float
    seconds: float


Progress = Callable[[ProgressEvent], None]
_FIELDS = ProgressEvent.__required_keys__ | ProgressEvent.__optional_keys__


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """The state of one stage, or of one round."""

    name: str
    round_stage: str = ""
    text: str = ""
    figures: str = ""
    done: int = 0
    total: int = 0
    started: float = 0.0
    seconds: float | None = None


@dataclass(slots=True, kw_only=True)
class Board:
    """All that the view shows; changed by events alone."""

    title: str
    clock: Callable[[], float]
    started: float
    rows: dict[str, _Row] = field(default_factory=dict)
    nodes: dict[str, _Row] = field(default_factory=dict)

    def apply(self, event: ProgressEvent) -> str:
        """Take in an event and name the row that it changed."""
        _check(event)
        name = _row_name(event)
        if name not in self.rows:
            self.end_others()
            self.rows[name] = _Row(name=name, started=self.clock())
        node = event.get("node")
        if node is None:
            self.rows[name] = _changed(self.rows[name], event)
            if "round_stage" in event:
                self.nodes.clear()
        else:
            row = self.nodes.get(node, _Row(name=node))
            if row.round_stage != event.get("round_stage", event["stage"]):
                row = _Row(name=node)
            self.nodes[node] = replace(
                _changed(row, event),
                round_stage=event.get("round_stage", event["stage"]),
            )
            round_stage = event.get("round_stage", self.rows[name].round_stage)
            self.rows[name] = replace(self.rows[name], round_stage=round_stage)
        return name

    def end_others(self) -> None:
        """Stop the clocks of the stages before this one."""
        self.nodes.clear()
        now = self.clock()
        for name, row in self.rows.items():
            if row.seconds is None:
                self.rows[name] = replace(row, seconds=now - row.started)

    def __rich__(self) -> Group:
        now = self.clock()
        elapsed = _clock(now - self.started)
        head = Text.assemble((self.title, "bold"), (f"   {elapsed}", "dim"))
        stages = Table.grid(padding=(0, 2))
        for row in list(self.rows.values()):  # another thread draws
            stages.add_row(*_stage_cells(row, now))
        parts: list[Text | Padding] = [head, Padding(stages, (1, 0, 0, 2))]
        if self.nodes:
            nodes = Table.grid(padding=(0, 2))
            for row in list(self.nodes.values()):
                nodes.add_row(*_node_cells(row))
            parts.append(Padding(nodes, (1, 0, 0, 6)))
        return Group(*parts)


@contextmanager
def live(title: str, *, stream: IO[str] | None = None) -> Iterator[Progress]:
    """Show progress on stderr until the block ends.

    Edge cases:
        Where stderr is no terminal, or one that cannot move its cursor or spell the
        table (``TERM=dumb``, an ASCII locale), one plain line without control codes is
        written for each change of stage, and at most one in ten seconds for
        steps within it. Variables that force colour force no table on a file.
    """
    clock = time.monotonic
    board = Board(title=title, clock=clock, started=clock())
    console = Console(file=stream or sys.stderr, highlight=False)

    def take(event: ProgressEvent) -> None:
        board.apply(event)

    if _can_draw(stream or sys.stderr) and not console.is_dumb_terminal:
        with Live(board, console=console, refresh_per_second=_REDRAWS):
            yield take
            board.end_others()  # not after an error: there the stage stays open
    else:
        lines = PlainView(board=board, stream=stream or sys.stderr)
        lines.write(title)
        yield lines.take


@dataclass(slots=True, kw_only=True)
class PlainView:
    """The view for pipes, files and CI."""

    board: Board
    stream: IO[str]
    last: str = ""
    last_time: float = 0.0

    def take(self, event: ProgressEvent) -> None:
        """Write a line, unless one like it was written a moment ago."""
        name = self.board.apply(event)
        topic = f"{name} {event.get('round_stage', '')}"
        now = self.board.clock()
        news = {"text", "score", "norm", "seconds"} & set(event)
        if topic == self.last and not news and now - self.last_time < _LINE_SECONDS:
            return
        self.last, self.last_time = topic, now
        self.write(_line(name, event, now - self.board.started))

    def write(self, text: str) -> None:
        """Write one line and let it be seen at once."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        spelled = text.encode(encoding, "backslashreplace").decode(encoding)
        self.stream.write(spelled + "\n")
        self.stream.flush()


def _can_draw(stream: IO[str]) -> bool:
    """Return whether a stream is a terminal that can spell the table."""
    try:
        _GLYPHS.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return stream.isatty()


def _check(event: ProgressEvent) -> None:
    unknown = set(event) - _FIELDS
    if unknown:
        raise ValueError(f"no such field in an event: {sorted(unknown)}")
    if event.get("stage") not in STAGES:
        raise ValueError(f"no such stage: {event.get('stage')!r}")
    if event.get("round_stage", RoundStage.OPEN) not in set(RoundStage):
        raise ValueError(f"no such stage of a round: {event.get('round_stage')!r}")


def _row_name(event: ProgressEvent) -> str:
    if event["stage"] != "round" or "round" not in event:
        return event["stage"]
    of = f" of {event['of']}" if "of" in event else ""
    return f"round {event['round']}{of}"


def _changed(row: _Row, event: ProgressEvent) -> _Row:
    return replace(
        row,
        round_stage=event.get("round_stage", row.round_stage),
        text=shown(event["text"]) if "text" in event else row.text,
        figures=_figures(event) or row.figures,
        done=event.get("done", row.done),
        total=event.get("total", row.total),
        seconds=event.get("seconds", row.seconds),
    )


def _figures(event: ProgressEvent) -> str:
    found = []
    if "score" in event:
        measure = event.get("measure", "score").replace("_", " ")
        found.append(f"{event['score']:.3f} {measure}")
    if "norm" in event:
        found.append(f"norm {event['norm']:.3g}")
    return ", ".join(found)


def _line(name: str, event: ProgressEvent, elapsed: float) -> str:
    parts = [name, _words(event.get("round_stage", "")), event.get("node", "")]
    if "done" in event:
        of = f" of {event['total']}" if "total" in event else ""
        parts.append(f"{event['done']}{of}")
    parts += [shown(event.get("text", "")), _figures(event)]
    if "seconds" in event:
        parts.append(f"{event['seconds']:.1f} s")
    return f"[{_clock(elapsed)}] " + ": ".join(part for part in parts if part)


def _stage_cells(row: _Row, now: float) -> list[Text]:
    ended = row.seconds is not None
    seconds = row.seconds if row.seconds is not None else now - row.started
    told = row.text or ("" if ended else _words(row.round_stage))
    if row.total and not ended:
        told = f"{told} {row.done}/{row.total}".strip()
    return [
        Text("✓" if ended else "▸", style="green" if ended else "cyan"),
        Text(row.name, style="" if ended else "bold"),
        Text(f"{seconds:6.1f} s", style="dim"),
        Text(row.figures or told, style="" if row.figures else "dim"),
    ]


def _node_cells(row: _Row) -> list[Text]:
    filled = _BAR * min(row.done, row.total) // row.total if row.total else 0
    bar = Text("━" * filled, style="cyan")
    bar.append("━" * (_BAR - filled if row.total else 0), style="dim")
    counts = f"{row.done}/{row.total}" if row.total else ""
    told = " ".join(part for part in (row.text, row.figures) if part)
    return [
        Text(row.name),
        Text(_words(row.round_stage), style="dim"),
        bar,
        Text(counts),
        Text(told),
    ]


def _words(stage: str) -> str:
    return stage.replace("_", " ")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
