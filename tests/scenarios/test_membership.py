"""Members come, go and change keys, and one log goes on through all of it."""

from typing import Any

import pytest

from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_demo import local_federation
from tapestry_governance import member_folder
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.member_events import Admission
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.founding_files import (
    CharterFile,
    Invitation,
    RequestFile,
    open_charter,
    read_document,
)
from tests.scenarios.conftest import Found
from tests.support.federation import NAMES, Federation, write_text
from tests.support.settings_files import merged, node_settings

pytestmark = pytest.mark.slow

NEW = "pl"


def ask(federation: Federation, name: str) -> RequestFile:
    """Make the folder of an institution that joins a federation which is there."""
    folder = federation.directory / "nodes" / name
    invitation = read_document(federation.coordinator / "simulated.invite", Invitation)
    data = write_text(federation.directory / "more", "fr")
    settings = merged(node_settings(federation.base.replica.digest), {})
    institution = local_federation.Institution(name=name, data=data, settings=settings)
    local_federation.ask(folder, institution, invitation)
    document = read_document(
        federation.coordinator / "simulated.charter", CharterFile, limit=1 << 20
    )
    charter = open_charter(document)
    asked = member_folder.request_for(folder, charter)
    member_folder.join(folder, charter)
    return asked


def turns(federation: Federation) -> list[int]:
    folder = federation.coordinator / "log" / "public" / "turns"
    return sorted(int(path.name) for path in folder.glob("*"))


def participants(federation: Federation) -> list[list[str]]:
    opened: list[Any] = federation.said(RoundOpened)
    return [[p.name for p in body.manifest.participants] for body in opened]


def test_a_fifth_member_is_admitted_trains_and_cosigns(found: Found) -> None:
    federation = found()
    federation.run()
    federation.approve()
    asked = ask(federation, NEW)
    admission = Admission(
        kind="admit", request=asked.request, possession=asked.possession
    )
    federation.decide(admission, "fi", "fr", "id")
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
