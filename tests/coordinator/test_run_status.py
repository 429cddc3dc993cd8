"""The state of all runs is read from files, by the log and each run's journal."""

from tapestry.protocol.messages import Reason
from tapestry_coordinator.run_status import read_status
from tests.support.federation import NAMES
from tests.support.federation_fixtures import Found


def test_a_run_goes_from_nothing_to_its_rounds(found: Found) -> None:
    federation = found()
    before = read_status(federation.coordinator)
    (run,) = before.runs
    assert (run.closed, run.planned, run.rounds, run.end) == (0, 1, (), "")
    federation.run()
    after = read_status(federation.coordinator)
    assert after.entries == len(federation.entries()) > before.entries
    (run,) = after.runs
    (closed,) = run.rounds
    assert (closed.status, closed.outcome) == ("closed", "applied")
    assert closed.included == NAMES
    assert next(run.lines()) == "run run: 1 of 1 rounds closed"


def test_a_refusal_is_named_with_the_node_and_its_reason(found: Found) -> None:
    """The node's own status says the rest, in the words of its log."""
    federation = found(institutions={NAMES[0]: {"policy": {"max_colluding": 2}}})
    federation.run()
    (run,) = read_status(federation.coordinator).runs
    said = f"{NAMES[0]} refused: {Reason.LOCAL_POLICY.words} (local_policy)"
    assert said in [line.strip() for line in run.lines()]
    assert run.to_json()["rounds"][0]["refused"] == {NAMES[0]: "local_policy"}
