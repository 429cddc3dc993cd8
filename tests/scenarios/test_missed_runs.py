"""A member that was away for the end of one run and the start of the next catches up.

It is sent what it says it lacks, in its own order and out of the folders of earlier
runs, and takes part in the rounds that follow.
"""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tapestry.protocol.messages import (
    ApplyResultRequest,
    Kind,
    Message,
    Reason,
    Refusal,
    encode_message,
    expect_body,
)
from tapestry_coordinator import service
from tapestry_coordinator.settings import RunSettings
from tapestry_coordinator.superlink.outcome import Outcome, write_outcome
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_node.round.base_snapshots import FOLDER
from tests.scenarios.conftest import Found
from tests.scenarios.test_crash import nth
from tests.scenarios.test_restarts import base_of
from tests.scenarios.test_service import NAMES as VOTERS
from tests.scenarios.test_service import Site, found_by_commands, run
from tests.support.federation import (
    NAMES,
    Deliver,
    Federation,
    answered,
    lost,
    write_lines,
)
from tests.support.settings_files import change_settings

OTHERS = NAMES[1:]  # ``fi`` is the member that was away
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_LOOK_SECONDS", 0.0)


def away_at_the_end(found: Found, *, rounds: int = 2) -> Federation:
    """End a run without ``fi`` in its last round, and approve what it gave."""
    short = {"deadlines": {"advertise_keys": 1}}
    federation = found(coordinator={"rounds": rounds, **short})
    offers = count(1)

    def look(node: str, message: Message) -> None:
        is_offer = (node, message.kind) == ("fi", Kind.ADVERTISE_KEYS)
        if is_offer and next(offers) == rounds:
            federation.kill("fi")

    federation.wire.before = look
    federation.run()
    federation.wire.before = lambda _name, _message: None
    assert federation.closed()[-1].included == OTHERS
    federation.approve()
    return federation


def begin(federation: Federation, run_id: str, *, rounds: int = 2) -> Path:
    """Begin a run with the newest release, judged by other public text."""
    release = federation.said(ReleasePublished)[-1].name
    base = str(federation.coordinator / "releases" / release)
    ended = federation.begin_another_run(run_id, base=base, rounds=rounds)
    write_lines(federation.run_folder / "held-out" / "fr.jsonl", [f"texte {run_id}"])
    return ended


def sent(federation: Federation, name: str = "fi") -> list[tuple[str, int]]:
    """The results that were sent to a node, in order."""
    bodies = [
        expect_body(each.request, ApplyResultRequest)
        for each in federation.wire.log
        if each.node == name and each.request.kind is Kind.APPLY_RESULT
    ]
    return [(body.run_id, body.round_number) for body in bodies]


def end(federation: Federation) -> None:
    federation.run()
    write_outcome(federation.run_folder, Outcome())


def tend(federation: Federation, *, looks: int) -> None:
    calls = count()
    service.tend_log(
        federation.coordinator, federation.wire, until=lambda: next(calls) >= looks
    )


def snapshots(federation: Federation) -> int:
    return len(list((federation.directory / "nodes" / "fi" / FOLDER).glob("*")))


def holds(federation: Federation) -> bool:
    federation.bundle()
    return federation.audit().verdict is AuditVerdict.HOLDS


def test_it_catches_up_within_the_next_run_and_takes_part_in_it(found: Found) -> None:
    federation = away_at_the_end(found)
    begin(federation, "second", rounds=3)
    federation.run_until_killed(nth(Kind.ADVERTISE_KEYS, len(OTHERS) + 1))
    assert federation.closed()[-1].included == OTHERS
    federation.wire.log.clear()
    node = federation.start("fi")
    federation.run()
    after = [("second", number) for number in (1, 3, 4)]  # the second was aborted
    assert sent(federation) == [("run", 2), *after]
    rounds = [each.included for each in federation.closed()]
    assert rounds == [NAMES, OTHERS, OTHERS, NAMES, NAMES]
    release = federation.said(ReleasePublished)[-1]
    assert node.store.rebuilt("second", 4) == release.manifest_digest
    assert set(federation.digests().values()) == {federation.closed()[-1].base_after}
    assert federation.refusals() == {}
    assert snapshots(federation) == 3  # the approved release's, and the last two
    assert holds(federation)


def test_a_member_away_for_whole_runs_takes_their_results_between_two_runs(
    found: Found,
) -> None:
    federation = away_at_the_end(found)
    for run_id in ("second", "third"):
        begin(federation, run_id)
        federation.run()
        federation.approve()
    write_outcome(federation.run_folder, Outcome())
    federation.wire.log.clear()
    federation.start("fi")
    tend(federation, looks=2)
    after = [(run_id, number) for run_id in ("second", "third") for number in (1, 2)]
    assert sent(federation) == [("run", 2), *after]
    assert all(sent(federation, name) == [] for name in OTHERS)
    begin(federation, "fourth", rounds=1)
    federation.run()
    assert federation.closed()[-1].included == NAMES
    assert len(set(federation.digests().values())) == 1
    assert snapshots(federation) <= 4
    assert holds(federation)


def test_a_member_that_is_started_again_while_it_catches_up_keeps_its_place(
    found: Found,
) -> None:
    federation = away_at_the_end(found, rounds=3)
    begin(federation, "second")
    end(federation)
    federation.wire.log.clear()
    federation.start("fi")

    def restarts(name: str, request: Message, deliver: Deliver) -> Message:
        deliver(request)
        federation.restart(name)
        return encode_message(Refusal(reason=Reason.MAINTENANCE))

    federation.wire.on("fi", Kind.APPLY_RESULT, restarts, times=2)
    for _ in range(3):  # each begins without what the last one noted of failures
        tend(federation, looks=1)
    assert sent(federation) == [("run", 3), ("second", 1), ("second", 2)]
    assert len(set(federation.digests().values())) == 1


def test_a_result_that_is_not_the_next_one_is_refused(found: Found) -> None:
    """Whoever asks, and in whatever order: the node goes its own way."""
    federation = away_at_the_end(found)
    begin(federation, "second")
    federation.run()
    requests, node = results(federation), federation.start("fi")
    federation.cosign()
    before = node.replica.digest
    for key in (("second", 1), ("second", 2)):
        assert reason(node.handle(requests[key], "fi")) is Reason.BASE_MISMATCH
        assert node.refused is not None
        assert node.refused.code == "result-not-next"
        assert "next is round 2 of 'run'" in node.refused.detail
    body = expect_body(requests["second", 2], ApplyResultRequest)
    for run_id, code in (("third", "round-not-closed"), ("run", "signature-invalid")):
        other = body.model_copy(update={"run_id": run_id})  # under another name
        request = encode_message(other, requests["second", 2].attachments)
        assert reason(node.handle(request, "fi")) is Reason.NOT_IN_LOG
        assert node.refused is not None
        assert node.refused.code == code
    assert node.replica.digest == before
    assert base_of(node).applied == 1
    taken = federation.nodes["fr"]
    assert taken.handle(requests["run", 1], "fr").kind is Kind.RECEIPT  # once more
    assert taken.replica.digest == federation.closed()[-1].base_after


def test_without_the_data_of_the_gate_nothing_of_a_round_is_noted(
    found: Found,
) -> None:
    """A release whose round is noted as followed is not asked for any more."""
    federation = away_at_the_end(found)
    requests, node = results(federation), federation.start("fi")
    federation.cosign()
    held_out = federation.directory / "nodes" / "fi" / "held-out"
    held_out.rename(held_out.with_name("kept"))
    assert reason(node.handle(requests["run", 2], "fi")) is Reason.MAINTENANCE
    assert node.refused is not None
    assert node.refused.code == "held-out-missing"
    assert node.store.base("run", 2) is None
    held_out.with_name("kept").rename(held_out)
    assert node.handle(requests["run", 2], "fi").kind is Kind.RECEIPT
    assert node.store.base("run", 2) is not None


def results(federation: Federation) -> dict[tuple[str, int], Message]:
    """The requests by which ``fr`` was shown results."""
    return {
        (body.run_id, body.round_number): each.request
        for each in federation.wire.log
        if each.node == "fr" and each.request.kind is Kind.APPLY_RESULT
        for body in [expect_body(each.request, ApplyResultRequest)]
    }


def reason(reply: Message) -> Reason:
    return expect_body(reply, Refusal).reason


def test_a_member_that_takes_no_result_is_asked_ever_more_rarely(found: Found) -> None:
    federation = away_at_the_end(found)
    begin(federation, "second", rounds=6)
    federation.start("fi")
    federation.wire.log.clear()
    refuses = answered(encode_message(Refusal(reason=Reason.INTERNAL)))
    for fault in (lost, refuses):
        federation.wire.on("fi", Kind.APPLY_RESULT, fault, times=50)
    federation.run()
    assert sent(federation) == [("run", 2)] * 2  # twice in 12 passes; then it waits
    assert [each.included for each in federation.closed()[2:]] == [OTHERS] * 6


def test_a_run_from_an_older_release_whose_snapshot_is_gone_is_followed_again(
    found: Found,
) -> None:
    federation = found(coordinator={"rounds": 2, "release_every": 1})
    federation.run()
    federation.approve()
    base = str(federation.coordinator / "releases" / "base-1")
    federation.begin_another_run("second", base=base, rounds=2)
    folder = federation.directory / "nodes" / "fi" / FOLDER
    oldest, *_ = sorted(folder.glob("*"), key=lambda path: int(path.stem))
    oldest.unlink()
    federation.wire.log.clear()
    federation.run()
    found_out, *after = sent(federation)  # with the first offer
    assert found_out == ("second", 1)
    assert after == [("run", 1), ("second", 1), ("second", 2)]
    assert [each.included for each in federation.closed()[2:]] == [OTHERS, NAMES]
    assert len(set(federation.digests().values())) == 1


# A service and members of their own


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = found_by_commands(tmp_path, [*VOTERS, "valle"])
    try:
        yield site
    finally:
        for name in list(site.processes):
            site.stop(name)


def included(site: Site, run_id: str) -> list[list[str]]:
    """The members in the sum of each closed round of a run."""
    (rounds,) = (r["rounds"] for r in site.status()["runs"] if r["run"] == run_id)
    return [each["included"] for each in rounds if each["status"] == "closed"]


def plan(site: Site, run_id: str, *more: str) -> None:
    """Plan a run that waits for no one for long."""
    site.plan(run_id, *more)
    path = site.coordinator / "queue" / run_id / "run.toml"
    deadlines = dict.fromkeys(RunSettings.read(path).deadlines.model_dump(), 20)
    deadlines["collect_masked_inputs"] = 60
    change_settings(path, RunSettings, {"deadlines": deadlines})


def test_a_member_stopped_before_a_runs_end_is_in_a_sum_of_the_next_one(
    site: Site, tmp_path: Path
) -> None:
    plan(site, "run-1", "--base", "tiny", "--rounds", "3")
    site.lead()
    for name in (*VOTERS, "valle"):
        site.start(name, "node", "run")
    site.wait(lambda: site.closed("run-1") >= 1)
    assert site.stop("valle") == 0
    site.wait(lambda: site.ended("run-1"))
    assert included(site, "run-1")[-1] == sorted(VOTERS)
    site.approve("base-1")
    assert site.stop("rivers") == 0
    plan(site, "run-2", "--rounds", "40")
    site.lead()
    site.wait(lambda: site.closed("run-2") >= 1)
    site.start("valle", "node", "run")
    site.wait(lambda: "valle" in included(site, "run-2")[-1])
    run("coordinator", "end", site.coordinator, "run-2")
    site.wait(lambda: site.ended("run-2"))
    assert "valle" not in included(site, "run-2")[0]
    log = (site.place / "valle.log").read_text()
    assert "the results of run 'run-1' are missing here from round" in log
    bundle = tmp_path / "for the auditor"
    run("coordinator", "bundle", site.coordinator, "-o", bundle)
    run("audit", "verify", bundle)
