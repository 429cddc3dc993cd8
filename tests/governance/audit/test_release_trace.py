"""From a release back to all that it rests on."""

import json
from pathlib import Path

import pytest

from tapestry_governance.audit.release_trace import trace
from tapestry_governance.audit.verify import verify
from tapestry_governance.events.round_events import RoundDisputed
from tests.support.adapter_folders import make_demo
from tests.support.commands import tapestry
from tests.support.log_world import NAMES


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dispute = RoundDisputed(
        run_id="run", round_number=2, attempt=1, subject="gate", chunk=None
    )
    folder = tmp_path_factory.mktemp("demo")
    return make_demo(folder, disputes=[dispute], newer={"max_attempt": 7})


def test_a_release_is_walked_to_rounds_accounts_disputes_and_votes(demo: Path) -> None:
    audit = verify(demo / "bundle")
    found, state = trace(audit, "base-2"), audit.state
    assert [(each.run, each.number) for each in found.rounds] == [
        ("run", 1),
        ("run", 2),
    ]
    for each, closed in zip(found.rounds, state.closed, strict=True):
        assert (each.opened, each.closed) == (closed.opened, closed.index)
        assert each.included == tuple(NAMES)
        assert each.accounts.keys() == set(NAMES)
        for member, index in each.accounts.items():
            (spent,) = [s for s in state.spending_of(member) if s.index == index]
            assert spent.round_number == each.number
        assert each.policy == each.number  # another one was adopted in between
        assert len(each.software) == 1
    assert [each.disputes for each in found.rounds] == [(), ("by fr: the gate",)]
    assert [vote.vote for vote in found.votes] == ["yes"] * 3
    assert found.count.standing == "approved"
    with pytest.raises(ValueError, match="base-7"):
        trace(audit, "base-7")


def test_it_is_printed_and_told_to_machines(demo: Path, tmp_path: Path) -> None:
    said = tapestry("audit", "trace", demo / "bundle", "base-2")
    assert said.exit_code == 0
    for part in ("round    run 2, entries", "DISPUTED by fr", "members  approved"):
        assert part in said.stdout
    told = json.loads(
        tapestry("audit", "trace", demo / "bundle", "base-2", "--json").stdout
    )
    assert (told["standing"], told["yes"], len(told["rounds"])) == ("approved", 3, 2)
    assert told["approved"] == max(vote["index"] for vote in told["votes"])
    candidate = make_demo(tmp_path, approved=False)
    found = tapestry("audit", "trace", candidate / "bundle", "base-2")
    assert found.exit_code == 5
    missing = tapestry("audit", "trace", demo / "bundle", "base-9")
    assert missing.exit_code == 3
    assert "no release base-9" in missing.stderr
