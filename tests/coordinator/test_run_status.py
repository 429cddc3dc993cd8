"""The state of all runs is read from files, by the log and each run's journal."""

import io
import json
import signal
from dataclasses import replace
from functools import partial
from itertools import count

import pytest

from tapestry.cli import console, live_status
from tapestry.metrics_page import render
from tapestry.protocol.folder_faults import FolderFault
from tapestry.protocol.messages import Kind, Reason
from tapestry_coordinator import run_status, service
from tapestry_coordinator.coordinator_metrics import CoordinatorMetrics
from tapestry_coordinator.run_folders import PROGRESS
from tapestry_coordinator.run_status import CoordinatorStatus, read_status
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
    assert str(run) == "run run: 1 of 1 rounds closed"


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


def test_the_current_run_and_votes_fit_a_terminal_after_many_runs(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()
    federation.run()
    for number in range(3):  # "a-2" comes before "run" in a folder
        federation.begin_another_run(f"a-{number}")
    federation.run()
    status = read_status(federation.coordinator)
    assert [run.run_id for run in status.runs] == ["run", "a-0", "a-1", "a-2"]
    (closed,) = status.runs[-1].rounds
    rounds = tuple(replace(closed, number=n) for n in range(1, 19))
    runs = tuple(replace(run, rounds=rounds) for run in status.runs)
    votes = (*status.votes, "a proposal")
    status = replace(status, serving=True, runs=runs, votes=votes)
    lines = list(status.lines())
    numbers = [line.split()[1] for line in lines if line.startswith("round ")]
    assert numbers == [str(n) for n in range(18, 8, -1)]
    assert "          and 8 earlier: --json lists them" in lines
    assert lines[-3:] == [
        "run a-1: 18 of 1 rounds closed; done",
        "run a-0: 18 of 1 rounds closed; done",
        "run run: 18 of 1 rounds closed; done",
    ]
    assert [len(run["rounds"]) for run in status.to_json()["runs"]] == [18] * 4
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("COLUMNS", "80")
    drawn = screen(monkeypatch, status)
    assert lines[-1] not in drawn
    for wanted in ("vote on a proposal", "run a-2: 18 of 1", "round 18 ", "round 9 "):
        assert wanted in drawn


def screen(monkeypatch: pytest.MonkeyPatch, status: CoordinatorStatus) -> str:
    """Return what a terminal gets of a status that is watched for one look."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def interrupt() -> None:
        raise KeyboardInterrupt

    terminal = Terminal()
    monkeypatch.setattr(console, "output", lambda: terminal)
    monkeypatch.setattr(live_status, "pause", interrupt)
    with pytest.raises(KeyboardInterrupt):
        live_status.watch(lambda: status, as_json=False)
    return terminal.getvalue().partition("\x1b[2K")[0]


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
    assert lines[1].startswith("vote on base-1, entry ")
    assert lines[1].endswith(": 0 of 3 yes")
    assert lines[4].startswith("fi          here since 20")
    by = f"cosigned by 4 of 4 members at {after.cosigned_at}"
    assert lines[-2] == f"{after.entries} are {by}"
    assert lines[-1] == "release base-1: candidate; 0 yes, 3 are needed (no vote)"
    fewer = replace(after, members=after.members[1:])  # fi left since
    by = f"cosigned by 3 of 3 members and by fi, no member now at {after.cosigned_at}"
    assert f"{after.entries} are {by}" in fewer.lines()
    monkeypatch.setattr(run_status, "software_digest", lambda: "sha256:" + "0" * 64)
    with working_on(federation.coordinator):
        strange = read_status(federation.coordinator)
    assert all("; other software: " in str(member) for member in strange.members)
    soon = replace(after, certificate_days=30)
    ends = "the certificate ends in 30 days: tapestry coordinator renew"
    assert list(soon.lines())[4] == ends


def test_the_step_at_which_a_run_is_is_its_last_whole_line(found: Found) -> None:
    federation = found()
    path = federation.run_folder / PROGRESS
    told = [{"stage": "round", "round": 2, "round_stage": "share_keys"}]
    path.write_text("".join(json.dumps(each) + "\n" for each in told) + '{"stage": "re')
    (run,) = read_status(federation.coordinator).runs
    assert run.doing == "round 2: share keys"
    assert str(run).endswith("0 of 1 rounds closed; round 2: share keys")
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
