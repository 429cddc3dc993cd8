"""What a node says that it spent: for one thing, with noise that adds up."""

import pytest

from tapestry_governance.events.privacy_events import DpAccounted
from tests.support.log_world import World, changed, without_noise


@pytest.fixture
def account() -> DpAccounted:
    world = World().found()
    return world.account(world.manifest())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"adapter": "fr-culture"}, "either a round or an adapter"),
        ({"round_number": None}, "either a round or an adapter"),
        ({"attempt": None}, "a round has an attempt"),
        ({"version": 1}, "an adapter has a version"),
    ],
)
def test_an_account_is_for_a_round_or_for_an_adapter(
    account: DpAccounted, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        changed(account, **change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clip_norm": "0"}, "are positive"),
        ({"sampling_rate": "1.5"}, r"lies in \(0, 1\]"),
        ({"noise_multiplier": "1.1"}, "do not add up"),
        ({"coordinates": 10}, "a grid goes with integer noise"),
        ({"mechanism": "poisson-subsampled-skellam"}, "noise that is shared"),
        ({"epsilon_fallback": "3"}, "fallback"),
        ({"shares": 7, "own_multiplier": "0.4"}, "own noise alone"),
        ({"shares": 2}, "own noise alone"),
        ({"own_multiplier": "1.5"}, "own noise alone"),
    ],
)
def test_a_loss_that_contradicts_itself_is_refused(
    account: DpAccounted, change: dict[str, object], reason: str
) -> None:
    assert account.promise is not None
    loss = account.promise.model_dump() | change
    with pytest.raises(ValueError, match=reason):
        changed(account, loss=loss)


def test_no_other_node_adds_noise_to_an_adapter() -> None:
    said = World().found().adapter_account()
    assert said.promise is not None
    fallback = said.promise.blocks[0].model_copy(update={"epsilon_fallback": "7"})
    shared = {"trust_model": "shared", "blocks": (fallback,)}
    changed(said, loss=said.promise.model_copy(update=shared))  # of rounds before it
    lie = said.promise.model_copy(update=shared | {"shares": 4, "own_multiplier": "2"})
    with pytest.raises(ValueError, match="adds noise to an adapter"):
        changed(said, loss=lie)


def test_without_noise_nothing_is_promised(account: DpAccounted) -> None:
    bare = without_noise(account)
    assert bare.promise is None
    assert DpAccounted.decode(bare.encode()) == bare
