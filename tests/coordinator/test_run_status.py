"""The state of all runs is read from files, by the log and each run's journal."""

import json
import signal
from dataclasses import replace
from functools import partial
from itertools import count

import pytest

from tapestry.metrics_page import render
from tapestry.protocol.folder_faults import FolderFault
from tapestry.protocol.messages import Kind, Reason
from tapestry_coordinator import run_status, service
from tapestry_coordinator.coordinator_metrics import CoordinatorMetrics
from tapestry_coordinator.run_folders import PROGRESS
from tapestry_coordinator.run_status import read_status
from tapestry_coordinator.superlink.outcome import working_on
from tapestry_node.open_folder import OpenFolder
from tapestry_node.refusing_node import RefusingNode
from tests.node.test_node_metrics import values
from tests.support.federation import NAMES
from tests.support.federation_fixtures import Found
from tests.support.processes import process


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


@pytest.mark.slow
def test_watch_tells_two_runs_through_a_pipe(found: Found) -> None:
    federation = found()
    federation.run()
    federation.begin_another_run("next")
    federation.run()
    folder = federation.coordinator
    wanted = [str(line) for line in read_status(folder).lines()]
    with process("coordinator", "status", folder, "--watch") as watch:
        assert watch.stdout is not None
        told = [watch.stdout.readline() for _ in wanted]
        watch.send_signal(signal.SIGINT)
        rest, complaint = watch.communicate()
    assert [line.rstrip("\n").split("  ", 1)[1] for line in told] == wanted
    assert (rest, watch.returncode) == ("", 130), complaint


def test_members_cosignatures_and_certificate_are_told(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    before = read_status(federation.coordinator)
    assert (before.serving, before.cosigned, before.cosigned_at) == (False, 0, "")
    assert [member.name for member in before.members] == list(NAMES)
    federation.run()
    with working_on(federation.coordinator):
        after = read_status(federation.coordinator)
    assert after.serving
    assert all(member.here and member.same_software for member in after.members)
    assert after.cosigned == after.entries
    assert len(after.cosigners) == len(NAMES)
    lines = list(after.lines())
    assert lines[0] == "serving"
    assert lines[1].startswith("fi          here since 20")
    by = f"cosigned by 4 of 4 members at {after.cosigned_at}"
    assert lines[-3] == f"{after.entries} are {by}"
    assert lines[-2] == "release base-1: candidate; 0 yes, 3 are needed (no vote)"
    assert lines[-1].startswith("vote on base-1, entry ")
    assert lines[-1].endswith(": 0 of 3 yes")
    monkeypatch.setattr(run_status, "software_digest", lambda: "sha256:" + "0" * 64)
    with working_on(federation.coordinator):
        strange = read_status(federation.coordinator)
    assert all("; other software: " in str(member) for member in strange.members)
    soon = replace(after, certificate_days=30)
    assert list(soon.lines())[-1] == (
        "the certificate ends in 30 days: tapestry coordinator renew"
    )


def test_the_step_at_which_a_run_is_is_its_last_whole_line(found: Found) -> None:
    federation = found()
    path = federation.run_folder / PROGRESS
    told = [{"stage": "round", "round": 2, "round_stage": "share_keys"}]
    path.write_text("".join(json.dumps(each) + "\n" for each in told) + '{"stage": "re')
    (run,) = read_status(federation.coordinator).runs
    assert run.doing == "round 2: share keys"
    assert next(run.lines()).endswith("0 of 1 rounds closed; round 2: share keys")
    for text in ("", "[]\n", "not JSON\n", '{"round": 1}\n'):
        path.write_text(text)
        (run,) = read_status(federation.coordinator).runs
        assert run.doing == ""


def test_a_refusal_is_named_with_the_node_and_its_reason(found: Found) -> None:
    """The node's own status says the rest, in the words of its log."""
    federation = found(institutions={NAMES[0]: {"policy": {"max_colluding": 2}}})
    federation.run()
    (run,) = read_status(federation.coordinator).runs
    said = f"{NAMES[0]} refused: {Reason.LOCAL_POLICY.words} (local_policy)"
    assert said in [line.strip() for line in run.lines()]
    assert run.to_json()["rounds"][0]["refused"] == {NAMES[0]: "local_policy"}


@pytest.mark.slow
def test_a_member_that_refuses_shows_with_its_reason(found: Found) -> None:
    """By what it says when it is greeted, or by its answer to the last offer."""
    federation = found(
        coordinator={"secagg": {"min_cohort": 3}, "rounds": 1},
        institutions={"fr": {"policy": {"epsilon_limit": "0.001"}}},
    )
    federation.run()
    federation.kill("fi")
    folder = OpenFolder.open(federation.directory / "nodes" / "fi")
    node = RefusingNode(folder, FolderFault.RECORDS_MISSING)
    federation.wire.handlers["fi"] = partial(node.handle, connection="fi")
    calls = count()
    service.tend_log(
        federation.coordinator, federation.wire, until=lambda: next(calls) >= 2
    )
    folder.close()
    with working_on(federation.coordinator):
        status = read_status(federation.coordinator)
    why = {member.name: member.refuses for member in status.members}
    spent = "budget_exhausted"
    assert why == {"fi": "records-missing", "fr": spent, "id": None, "sw": None}
    fi, fr, sw, _ = map(str, status.members)
    said = "refuses: records-missing, its data have no records"
    assert fi.endswith(said)
    assert fr.endswith(f"refuses: {spent}, the privacy budget does not cover it")
    assert "refuses" not in sw
    told = status.to_json()["members"][0]
    assert (told["refuses"], told["words"]) == ("records-missing", said[26:])
    asked = [e.request.kind for e in federation.wire.log if e.node == "fi"]
    assert asked[-1] is Kind.HELLO  # and nothing else, for it can do nothing


@pytest.mark.parametrize("damage", [b"", b"junk", b'{"xx":"junk"}'])
def test_damaged_heads_are_told_and_cost_nothing_else(
    found: Found, damage: bytes
) -> None:
    federation = found()
    federation.run()
    place = federation.coordinator / "log" / "public" / "outbox.json"
    place.write_bytes(damage)
    (said,) = read_status(federation.coordinator).overdue
    assert said.startswith("the heads of outboxes cannot be read: ")
    assert "outbox.json" in said
    shown = values(render(CoordinatorMetrics(federation.coordinator).read()))
    members = shown["tapestry_coordinator_members"]
    assert shown["tapestry_coordinator_outbox_overdue"] == members
