"""Members come, go and change keys, and one log goes on through all of it."""

from typing import Any

import pytest

from tapestry.artifacts.model_folder import POLICY
from tapestry.errors import RuleError, TapestryError
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_coordinator import coordinator_folder, log_publisher
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.member_events import (
    PauseProposal,
    PolicyChange,
    Removal,
)
from tapestry_governance.events.round_events import RoundOpened
from tests.scenarios.conftest import Found
from tests.support.federation import NAMES, Federation
from tests.support.newcomers import NEW, admission_of, admit, ask, turns
from tests.support.refusals import refused

pytestmark = pytest.mark.slow


def participants(federation: Federation) -> list[list[str]]:
    opened: list[Any] = federation.said(RoundOpened)
    return [[p.name for p in body.manifest.participants] for body in opened]


def test_a_fifth_member_is_admitted_trains_and_cosigns(found: Found) -> None:
    federation = found()
    federation.run()
    federation.approve()
    asked = ask(federation)
    sent = federation.directory / "nodes" / NEW / f"{NEW}.request"
    with refused(RuleError, "member-unknown"):
        coordinator_folder.enroll(federation.coordinator, sent)
    federation.decide(admission_of(asked), "fi", "fr", "id")
    assert coordinator_folder.enroll(federation.coordinator, sent) == NEW
    public = (federation.coordinator / "enrolled" / f"{NEW}.pub").read_text()
    assert public == f"{asked.transport_key}\n"
    federation.start(NEW)
    federation.cosign()  # brings its copy of the log, and its first entry
    federation.cosign()  # by old and new witnesses
    assert NEW in federation.view("fi").logged.members
    (turn,) = turns(federation)
    assert turn == len(federation.entries())
    release = federation.coordinator / "releases" / "base-1"
    federation.begin_another_run("second", base=str(release.resolve()))
    federation.run()
    first, second = participants(federation)
    assert first == sorted(NAMES)
    assert second == sorted([*NAMES, NEW])
    federation.bundle()
    audit = federation.audit()  # by the founding trust policy
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]
    (step,) = [step for step in audit.steps if step.name == "turns"]
    assert step.counts["turns"] == 1
    assert (
        audit.state.trust.witnesses
        != TrustPolicy.parse(
            (federation.coordinator / "trust-policy.txt").read_bytes()
        ).witnesses
    )


def test_one_member_goes_and_the_rest_train_under_a_new_policy(found: Found) -> None:
    federation = found()
    federation.run()
    federation.approve()
    policy = federation.view("fr").state.policy
    stricter = policy.model_copy(update={"version": 2, "epsilon_cap": "10"})
    federation.decide(PolicyChange(kind="policy", policy=stricter), "fi", "fr", "id")
    federation.decide(Removal(kind="remove", member="sw"), "fi", "fr", "id")
    release = federation.coordinator / "releases" / "base-1"
    federation.begin_another_run("second", base=str(release.resolve()))
    federation.run()
    federation.cosign()
    _, second = participants(federation)
    assert second == ["fi", "fr", "id"]
    state = federation.view("fr").state
    assert (state.policy, sorted(state.members)) == (stricter, ["fi", "fr", "id"])
    assert len(turns(federation)) == 1
    federation.bundle()
    audit = federation.audit()
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1]
    folders = sorted((federation.coordinator / "releases").iterdir())
    assert [path.name for path in folders] == ["base-1", "base-2"]
    policies = {(path / "tapestry" / POLICY).read_bytes() for path in folders}
    assert policies == {each.policy.encode() for each in audit.state.trusted}


def test_a_paused_federation_opens_no_round_until_members_resume(found: Found) -> None:
    federation = found()
    federation.cosign()
    federation.cosign()
    federation.decide(PauseProposal(kind="pause"), "fi", "fr")
    with pytest.raises(RuleError, match="paused"):
        federation.run()
    federation.decide(PauseProposal(kind="resume"), "fi", "fr", "id")
    federation.run()
    assert len(federation.closed()) == 1


def test_a_candidate_starts_no_run(found: Found) -> None:
    federation = found()
    federation.run()
    release = federation.coordinator / "releases" / "base-1"
    federation.begin_another_run("second", base=str(release.resolve()))
    with pytest.raises(TapestryError) as caught:
        federation.run()
    assert "approved" in str(caught.value)
    federation.approve()
    federation.run()
    assert len(federation.closed()) == 2


def test_a_node_that_was_away_steps_over_turns_a_few_at_a_time(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    federation.cosign()
    federation.kill("sw")
    admit(federation, "fi", "fr", "id")
    federation.decide(Removal(kind="remove", member="fi"), "fr", "id", NEW)
    policy = federation.view("fr").state.policy.model_copy(update={"version": 2})
    federation.decide(PolicyChange(kind="policy", policy=policy), "fr", "id", NEW)
    federation.cosign()
    assert len(turns(federation)) == 2
    monkeypatch.setattr(log_publisher, "MAX_NOTES", 1)
    federation.start("sw")
    for _ in range(4):
        federation.cosign()
    accepted = federation.nodes["sw"].mirror.accepted
    assert accepted is not None
    assert accepted.checkpoint.size == len(federation.entries())
    assert len(federation.nodes["sw"].mirror.turns()) >= 1
