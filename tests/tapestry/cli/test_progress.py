"""The live view: a table for people at a terminal, lines for everybody else."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tapestry.cli import progress as module
from tapestry.cli.progress import STAGES, ProgressEvent, live
from tapestry.protocol.stages import RoundStage

STAGE = RoundStage.COLLECT_MASKED_INPUTS


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _run(*events: ProgressEvent) -> list[str]:
    stream = io.StringIO()
    with live("A run", stream=stream) as progress:
        for event in events:
            progress(event)
    return stream.getvalue().splitlines()


def _board(clock: _Clock, *events: ProgressEvent) -> str:
    board = module.Board(title="A run", clock=clock, started=0.0)
    for event in events:
        board.apply(event)
        clock.now += 1.0
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(board)
    return console.export_text()


def test_each_phase_of_each_round_gets_a_line() -> None:
    lines = _run(
        {"stage": "prepare", "text": "four nodes"},
        {"stage": "round", "round": 2, "of": 4, "round_stage": RoundStage.OPEN},
        {
            "stage": "round", "round": 2, "of": 4, "round_stage": RoundStage.CLOSE,
            "norm": 0.9123, "measure": "bits_per_byte", "score": 2.1,
            "seconds": 41.04,
        },
    )  # fmt: skip
    assert lines == [
        "A run",
        "[0:00] prepare: four nodes",
        "[0:00] round 2 of 4: open",
        "[0:00] round 2 of 4: close: 2.100 bits per byte, norm 0.912: 41.0 s",
    ]


def test_steps_within_a_phase_do_not_flood_a_file() -> None:
    steps: list[ProgressEvent] = [
        {"stage": "adapter", "node": "italy", "done": n, "total": 900}
        for n in range(900)
    ]
    assert len(_run(*steps)) == 2


def test_a_long_phase_reports_from_time_to_time() -> None:
    clock, stream = _Clock(), io.StringIO()
    board = module.Board(title="A run", clock=clock, started=0.0)
    lines = module.PlainView(board=board, stream=stream)
    for step in range(25):
        lines.take({"stage": "central", "done": step, "total": 25})
        clock.now += 1.0
    assert stream.getvalue().splitlines() == [
        "[0:00] central: 0 of 25",
        "[0:10] central: 10 of 25",
        "[0:20] central: 20 of 25",
    ]


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"stage": "rounds"},
        {"stage": "round", "round_stage": "nap"},
        {"stage": "round", "x": 1},
    ],
    ids=["nothing", "stage", "round stage", "field"],
)
def test_unknown_words_are_a_bug_of_the_caller(event: ProgressEvent) -> None:
    with pytest.raises(ValueError, match="no such"):
        _run(event)


def test_the_table_shows_the_progress_of_each_node() -> None:
    shown = _board(
        _Clock(),
        {"stage": "prepare", "seconds": 3.0},
        {"stage": "round", "round": 1, "of": 4, "round_stage": STAGE},
        {
            "stage": "round", "round": 1, "of": 4, "round_stage": STAGE,
            "node": "italy", "done": 3, "total": 8,
        },
    )  # fmt: skip
    assert "✓  prepare" in shown
    assert "▸  round 1 of 4" in shown
    assert "italy  collect masked inputs  ━━━━━━━━━━━━  3/8" in shown


def test_the_next_stage_ends_the_one_before() -> None:
    shown = _board(_Clock(), {"stage": "prepare"}, {"stage": "report"})
    assert "✓  prepare     1.0 s" in shown
    assert "▸  report" in shown


def test_nodes_of_a_phase_leave_with_it() -> None:
    shown = _board(
        _Clock(),
        {
            "stage": "round",
            "round": 1,
            "round_stage": RoundStage.COLLECT_MASKED_INPUTS,
            "node": "spain",
        },
        {"stage": "round", "round": 1, "round_stage": RoundStage.UNMASK},
    )
    assert "spain" not in shown


def test_a_terminal_gets_the_table_and_it_stays_at_the_end() -> None:
    stream = _Terminal()
    with live("A run", stream=stream) as progress:
        progress({"stage": "evaluate", "text": "held-out text"})
    assert "held-out text" in stream.getvalue()
    assert "✓" in stream.getvalue()


def test_an_error_leaves_the_stage_open_and_passes_on() -> None:
    stream = _Terminal()

    def broken() -> None:
        with live("A run", stream=stream) as progress:
            progress({"stage": "evaluate"})
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()
    assert "✓" not in stream.getvalue()


_EVENTS = st.fixed_dictionaries(
    {"stage": st.sampled_from(STAGES)},
    optional={
        "round": st.integers(1, 9),
        "of": st.integers(1, 9),
        "round_stage": st.sampled_from(RoundStage),
        "node": st.sampled_from(("italy", "spain")),
        "done": st.integers(0, 20),
        "total": st.integers(0, 10),
        "text": st.text(max_size=10),
        "measure": st.text(max_size=10),
        "score": st.floats(0, 9),
        "norm": st.floats(),
        "seconds": st.floats(0, 99),
    },
)


@given(st.lists(_EVENTS, max_size=6))
def test_no_order_of_events_breaks_the_view(events: list[ProgressEvent]) -> None:
    assert "A run" in _board(_Clock(), *events)
    assert _run(*events)[0] == "A run"


class _Ascii(_Terminal):
    encoding = "ascii"


@pytest.mark.parametrize(
    ("stream", "variables"),
    [
        (io.StringIO, {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}),
        (_Terminal, {"TERM": "dumb"}),
        (_Ascii, {"TERM": "xterm"}),
    ],
    ids=["a file, with colour forced", "a dumb terminal", "an ASCII terminal"],
)
def test_what_cannot_draw_gets_lines_without_control_codes(
    monkeypatch: pytest.MonkeyPatch,
    stream: type[io.StringIO],
    variables: dict[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    shown = stream()
    with live("A run", stream=shown) as progress:
        progress({"stage": "prepare", "text": "text of Україна"})
    lines = shown.getvalue().splitlines()
    assert len(lines) == 2
    assert "\x1b" not in shown.getvalue()
    assert shown.getvalue().isascii() is (stream is _Ascii)


def test_a_terminal_gets_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = _Terminal()
    with live("A run", stream=shown) as progress:
        progress({"stage": "prepare", "text": "four nodes"})
    assert "\x1b" in shown.getvalue()
