"""How a round ends: names in order, one commitment each, a reason where rejected."""

import pytest

from tapestry.protocol.stages import RoundStage
from tapestry_governance.events.round_events import Dropped, RoundClosed
from tests.support.log_world import World, changed

LOST = Dropped(name="id", stage=RoundStage.SHARE_KEYS)


@pytest.fixture
def closed() -> RoundClosed:
    world = World().found()
    return world.closing(world.manifest(), {"de": 5, "es": 6, "fr": 7})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"included": ("es", "de", "fr")}, "in order"),
        ({"included": ("de", "de", "fr")}, "distinct"),
        (
            {"dropped": (Dropped(name="id", stage=RoundStage.SHARE_KEYS),) * 2},
            "distinct",
        ),
        ({"commitments": (5, 6)}, "one commitment per included node"),
        ({"outcome": "rejected"}, "a rejected round has a reason"),
        ({"reason": "norm"}, "an applied one has none"),
    ],
)
def test_a_closing_that_contradicts_itself_is_refused(
    closed: RoundClosed, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        changed(closed, **change)


def test_a_rejected_round_says_why(closed: RoundClosed) -> None:
    rejected = changed(closed, outcome="rejected", reason="norm")
    assert RoundClosed.decode(rejected.encode()) == rejected
