"""The two ways to run a federation, and how each tells of its progress."""

from tapestry.cli.progress import ProgressEvent
from tapestry_demo.runners import StageTimer


def test_a_round_has_one_name_whoever_tells_of_it() -> None:
    seen: list[ProgressEvent] = []
    clock = StageTimer(seen.append, {})
    for number, fields in (
        (1, {"of": 2, "phase": "open"}),
        (1, {"phase": "keys"}),
        (2, {"phase": "training", "node": "italy"}),
        (3, {"of": 2, "phase": "open"}),
    ):
        clock({"stage": "round", "round": number, **fields})
    named = [(event["round"], event["of"]) for event in seen]
    assert named == [(1, 2), (1, 2), (2, 2), (3, 3)]
