"""A coordinator that repeats a round without one member, to subtract two sums."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tapestry.errors import TapestryError
from tapestry.protocol.messages import Kind, Message
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.round_events import RoundOpened
from tapestry_node.round.survivor_marks import ConsentMark, plan_digest
from tapestry_node.settings import NodeSettings
from tests.scenarios.conftest import Found
from tests.scenarios.test_crash import nth
from tests.support.federation import NAMES, Federation, lost
from tests.support.settings_files import NO_NOISE, change_settings

VICTIM = "sw"
OTHERS = tuple(name for name in NAMES if name != VICTIM)
REJECTED = {"max_norm": "0.0001"}  # no mean update is as short


def noiseless(found: Found, **coordinator: Any) -> Federation:
    return found(
        coordinator={"privacy": NO_NOISE, "rounds": 2, **coordinator},
        policy={"noise": ("none",)},
        institution={"policy": {"noise": ["none"]}},
    )


def second_round() -> Callable[[str, Message], bool]:
    """Say when the first node is about to be offered the second round."""
    return nth(Kind.ADVERTISE_KEYS, len(NAMES) + 1)


def goes_on_without_the_victim(federation: Federation) -> None:
    federation.wire.on(VICTIM, Kind.COLLECT_MASKED_INPUTS, lost, times=99)
    with suppress(TapestryError):  # it gives up after some rounds
        federation.run()


def reveals(federation: Federation) -> list[str]:
    """The nodes that revealed shares, in order."""
    revealed = federation.wire.replies(Kind.UNMASK)
    return [e.node for e in revealed if e.reply and e.reply.kind is not Kind.REFUSAL]


def refusals(caplog: pytest.LogCaptureFixture) -> set[str]:
    """The nodes that refused to consent since it differs from an earlier round."""
    said = [record.getMessage() for record in caplog.records]
    rule = "would show sw alone; wait for the same nodes"
    return {
        each.split(":")[0]
        for each in said
        if "refused check_consistency" in each
        and rule in each
        and "[survivors-vary]" in each
    }


def name_exception(federation: Federation, digest: str) -> None:
    """Let everybody but the victim name an exception, and start again."""
    for name in OTHERS:
        settings = federation.nodes[name].directory / "node.toml"
        changes = {"policy": {"varying_survivors": [digest]}}
        change_settings(settings, NodeSettings, changes)
        federation.restart(name)


@pytest.mark.parametrize("again", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("ends", ["rejected", "aborted"])
def test_a_round_that_was_opened_is_not_repeated_without_a_member(
    found: Found, caplog: pytest.LogCaptureFixture, ends: str, again: bool
) -> None:
    """Whatever the log says became of it, the shares of its sum were revealed."""
    federation = noiseless(found, outer=REJECTED if ends == "rejected" else {})
    third = nth(Kind.UNMASK, 4)  # three shares are enough to open the sum
    federation.run_until_killed(second_round() if ends == "rejected" else third)
    if again:
        for name in NAMES:
            federation.restart(name)
    before = reveals(federation)
    assert before == list(NAMES if ends == "rejected" else OTHERS)
    goes_on_without_the_victim(federation)
    assert refusals(caplog) == set(OTHERS)
    assert reveals(federation) == before
    outcomes = [each.outcome for each in federation.closed()]
    assert outcomes == (["rejected"] if ends == "rejected" else [])


def test_a_rejected_round_is_repeated_with_the_same_nodes(found: Found) -> None:
    federation = noiseless(found, outer=REJECTED)
    federation.run()
    closed = federation.closed()
    assert [(c.outcome, c.included) for c in closed] == [("rejected", NAMES)] * 2
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


def test_a_set_that_members_name_is_opened_on_a_base_that_was(found: Found) -> None:
    """One absent member does not freeze a base for good."""
    federation = noiseless(found, outer=REJECTED)
    federation.run_until_killed(second_round())
    manifest = federation.said(RoundOpened)[-1].manifest
    mark = ConsentMark.of(manifest, OTHERS)
    name_exception(federation, mark.exception(OTHERS))
    federation.wire.on(VICTIM, Kind.COLLECT_MASKED_INPUTS, lost, times=99)
    federation.run()
    assert [c.included for c in federation.closed()] == [NAMES, OTHERS]


@pytest.mark.parametrize("named", [False, True])
def test_survivors_vary_over_applied_rounds_only_in_a_plan_that_members_name(
    found: Found, caplog: pytest.LogCaptureFixture, named: bool
) -> None:
    federation = noiseless(found)
    federation.run_until_killed(second_round())
    if named:
        manifest = federation.said(RoundOpened)[-1].manifest
        name_exception(federation, plan_digest(manifest))
    goes_on_without_the_victim(federation)
    included = [c.included for c in federation.closed()]
    assert included == [NAMES, OTHERS][: 1 + named]
    assert refusals(caplog) == (set() if named else set(OTHERS))


def test_with_noise_survivors_vary_freely(found: Found) -> None:
    """The ledger counts what each round shows."""
    federation = found(coordinator={"rounds": 2})
    federation.wire.on(VICTIM, Kind.COLLECT_MASKED_INPUTS, lost)
    federation.run()
    assert [c.included for c in federation.closed()] == [OTHERS, NAMES]
    assert federation.nodes["fr"].store.reading().consents == []


def test_a_folder_restored_whole_uploads_for_no_round_that_the_log_knows(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    """Also its mirror of the log is the older one, and learns of the upload later."""
    federation = noiseless(found)
    folder = federation.directory / "nodes" / "fr"
    shutil.copytree(folder, federation.directory / "backup")
    federation.run_until_killed(nth(Kind.CHECK_CONSISTENCY, 1))
    assert federation.committed()["fr", 1] == 1
    federation.kill("fr")
    shutil.rmtree(folder)
    shutil.copytree(federation.directory / "backup", folder)
    federation.start("fr")
    with suppress(TapestryError):
        federation.run()
    assert federation.committed()["fr", 1] == 1
    said = [record.getMessage() for record in caplog.records]
    assert any("fr: refused" in each and "[state-restored]" in each for each in said)


def test_a_list_that_was_asked_for_counts_as_opened_by_the_log_alone(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    """No node has consented, and the coordinator might say that they have."""
    federation = noiseless(found)
    federation.run_until_killed(nth(Kind.CHECK_CONSISTENCY, 1))
    assert all(n.store.reading().consents == [] for n in federation.nodes.values())
    goes_on_without_the_victim(federation)
    assert federation.aborted()[0].survivors == NAMES
    assert refusals(caplog) == set(OTHERS)
    assert reveals(federation) == []
