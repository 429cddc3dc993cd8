"""A ledger is opened together with the version of the data that may train."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry_node.data_ledger import open_ledger, view_ledger
from tapestry_node.node_state import NodeState
from tapestry_node.training.trainer import Trainer
from tests.node.training.test_trainer import trainer
from tests.support.refusals import refused
from tests.support.unsigned_accounts import unsigned

NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path) -> NodeState:
    return NodeState(tmp_path / "node.db", clock=lambda: NOW)


def opened(state: NodeState, found: Trainer, *, days: int = 0) -> Trainer:
    settings = found._settings  # noqa: SLF001 - the node gives both
    now = NOW + timedelta(days=days)
    open_ledger(state, found, settings=settings, log=None, now=now)
    return found


def test_what_may_train_is_known_when_the_ledger_is_open(
    tmp_path: Path, state: NodeState
) -> None:
    found = opened(state, trainer(tmp_path / "data"))
    assert (found.count, found.holdings.version.version) == (4, 1)
    (tmp_path / "data" / "more.csv").write_text("5,5,5,5,5\n")
    with refused(ConfigError, "dataset-differs", match="1 of its records are new"):
        opened(state, trainer(tmp_path / "data"), days=8)
    with refused(ConfigError, "dataset-differs"):
        view_ledger(state, trainer(tmp_path / "data"))


def test_a_view_notes_nothing(tmp_path: Path, state: NodeState) -> None:
    found = trainer(tmp_path / "data")
    assert view_ledger(state, found).balance().spent == 0
    assert state.reading().number == 0
    opened(state, found)
    entries = state.reading().number
    view_ledger(state, found)
    assert state.reading().number == entries


def test_a_spent_ledger_goes_on_with_its_only_block(
    tmp_path: Path, state: NodeState
) -> None:
    """Single records have no other; rounds are refused one by one."""
    from tests.node.budget.test_ledger import charge

    found = opened(state, trainer(tmp_path / "data"))
    settings = found._settings  # noqa: SLF001 - the node gives both
    ledger = open_ledger(state, found, settings=settings, log=None, now=NOW)
    most = ledger.rounds_left(charge(1))
    for number in range(1, most + 1):
        ledger.reserve(charge(number))
        ledger.spend(charge(number), unsigned)
    again = opened(state, trainer(tmp_path / "data"), days=8)
    assert again.holdings.version.trains == (1,)
