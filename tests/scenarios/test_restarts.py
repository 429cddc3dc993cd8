"""A node that starts again goes on from its snapshot, and owes what it owed."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry.artifacts.safetensors_writer import write_tensors
from tapestry.model.replica import Replica
from tapestry.protocol.messages import ApplyResultRequest, Kind, Message, expect_body
from tapestry.storage import durable_files
from tapestry.workloads.workload_registry import open_workload
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_node.node import Node
from tapestry_node.node_state import NodeState
from tapestry_node.round.base_snapshots import FOLDER, BaseSnapshots
from tapestry_node.round.gate_check import GateCheck
from tapestry_node.round.result import ResultApplier
from tapestry_node.round.spot_checks import SpotChecks
from tapestry_node.settings import NodeSettings
from tests.scenarios.conftest import Found
from tests.scenarios.test_crash import check, nth
from tests.support.deaths import dies
from tests.support.federation import NAMES, Base, Deliver, Federation, Killed, lost
from tests.support.node_folders import fifo
from tests.support.settings_files import change_settings

Settings = Mapping[str, Any]
FULL: Settings = {
    "coordinator": {
        "training": {"parameterization": "full", "rank": None, "targets": None},
        "outer": {
            "optimizer": "adam",
            "momentum": None,
            "learning_rate": "0.001",
            "max_norm": "8",
        },
    },
    "institution": {"policy": {"parameterizations": ["full"]}},
}
KINDS = [
    pytest.param({}, id="low rank, momentum"),
    pytest.param(FULL, id="all parameters, adam", marks=pytest.mark.slow),
]


def of_rounds(
    found: Found, rounds: int, settings: Settings | None = None
) -> Federation:
    more = dict(settings or {})
    coordinator = {**more.pop("coordinator", {}), "rounds": rounds}
    return found(coordinator=coordinator, **more)


def at_offers(
    federation: Federation, numbers: Sequence[int], act: Callable[[], object]
) -> list[int]:
    """Let something happen to ``fr`` just before it gets its offers of some rounds.

    Returns:
        A list that takes, each time, the number of messages until then.
    """
    happened: list[int] = []

    def acts(name: str, request: Message, _deliver: Deliver) -> Message:
        happened.append(len(federation.wire.log))
        act()
        return federation.nodes[name].handle(request, name)

    def passes(_name: str, request: Message, deliver: Deliver) -> Message:
        return deliver(request)

    for number in range(1, max(numbers) + 1):
        fault = acts if number in numbers else passes
        federation.wire.on("fr", Kind.ADVERTISE_KEYS, fault)
    return happened


def results(federation: Federation, since: int) -> list[int]:
    """Rounds whose result was sent to ``fr``, after so many messages."""
    return [
        expect_body(each.request, ApplyResultRequest).round_number
        for each in federation.wire.log[since:]
        if each.node == "fr" and each.request.kind is Kind.APPLY_RESULT
    ]


def snapshots(federation: Federation) -> list[Path]:
    found = (federation.directory / "nodes" / "fr" / FOLDER).glob("*")
    return sorted(found, key=lambda path: int(path.stem))


def base_of(node: Node) -> ResultApplier:
    return node.base


def standing(federation: Federation) -> dict[str, Any]:
    """All that ``fr`` goes on from, of what its process holds."""
    base = base_of(federation.nodes["fr"])
    tensors = base.replica.parameters
    return {
        "tensors": {n: (t.dtype, t.shape, t.tobytes()) for n, t in tensors.items()},
        "hashes": base.replica.hashes,
        "types": base.replica.types,
        "digests": (base.replica.digest, base.replica.release_digest),
        "optimizer": (base.replica.optimizer.step, base.replica.optimizer.digest),
        "round": (base.run_id, base.applied, base.taken),
        "asks": base.asks(),
    }


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The codes of what was said of snapshots, each in one line."""
    said = [r.getMessage() for r in caplog.records if r.name.endswith("result")]
    assert all("\n" not in each and "is not used" in each for each in said)
    return [each.partition("[")[2].partition("]")[0] for each in said]


@pytest.mark.slow
@pytest.mark.parametrize("settings", KINDS)
def test_a_node_restarted_late_in_a_run_is_sent_no_result_again(
    found: Found, settings: Settings
) -> None:
    federation = of_rounds(found, 4, settings)

    def act() -> None:
        before = standing(federation)
        assert before["optimizer"][0] == 3
        federation.restart("fr")
        assert standing(federation) == before
        assert len(snapshots(federation)) == 2

    happened = at_offers(federation, [4], act)
    federation.run()
    assert results(federation, *happened) == [4]  # that of the round it was in
    assert [closed.included for closed in federation.closed()] == [NAMES] * 4
    check(federation, rounds=4)


@pytest.mark.slow
def test_a_node_restarted_after_rejected_rounds_is_sent_no_result_again(
    found: Found,
) -> None:
    """The first of them moved no tensor, the second came after a step."""
    federation = of_rounds(found, 4, {"coordinator": {"outer": {"max_norm": "3.9"}}})

    def act() -> None:
        before = standing(federation)
        federation.restart("fr")
        assert standing(federation) == before
        assert len(snapshots(federation)) == min(2, before["round"][1])

    def far(update: Any) -> Any:
        made[0] += 1
        is_bad = (made[0] - 1) // len(NAMES) in (0, 2)
        return np.full_like(update, 9) if is_bad else update

    made = [0]
    federation.poison = dict.fromkeys(NAMES, far)
    happened = at_offers(federation, [2, 4], act)
    federation.run()
    outcomes = [closed.outcome for closed in federation.closed()]
    assert outcomes == ["rejected", "applied", "rejected", "applied"]
    assert [results(federation, each) for each in happened] == [[2, 3, 4], [4]]
    check(federation, rounds=4)


@pytest.mark.slow
def test_a_round_whose_chunk_was_not_seen_is_taken_again_and_asked_about(
    found: Found,
) -> None:
    federation = of_rounds(found, 3)
    federation.run_until_killed(nth(Kind.CHECK_CHUNK, 2 * len(NAMES) + 1))
    before = {name: node.spots.asks() for name, node in federation.nodes.items()}
    assert all(before.values())
    for name in NAMES:
        assert base_of(federation.restart(name)).applied == 2
    asked = len(federation.wire.log)
    federation.run()
    assert results(federation, asked) == [3]
    assert len(federation.wire.replies(Kind.CHECK_CHUNK)) == 3 * len(NAMES)
    check(federation, rounds=3)


@pytest.mark.slow
def test_no_snapshot_spares_a_node_a_chunk_that_it_still_wants(found: Found) -> None:
    federation = of_rounds(found, 4)
    federation.wire.on("fr", Kind.CHECK_CHUNK, lost, times=100)

    def act() -> None:
        asks = federation.nodes["fr"].spots.asks()
        assert [ask.round_number for ask in asks] == [1, 2, 3]
        assert base_of(federation.restart("fr")).applied == 0
        federation.wire.faults["fr", Kind.CHECK_CHUNK].clear()

    happened = at_offers(federation, [4], act)
    federation.run()
    again = results(federation, *happened)
    assert again == [4, 1, 2, 3, 4]  # the first cannot be taken yet
    assert federation.nodes["fr"].store.pending_rounds("run") == []
    check(federation, rounds=4)


DEATHS: dict[str, tuple[object, str]] = {
    "the draw": (SpotChecks, "draw"),
    "the base in its state": (NodeState, "keep_base"),
    "the gate": (GateCheck, "check"),
    "the snapshot": (BaseSnapshots, "keep"),
    "an older one is removed": (durable_files, "remove_file"),
    "its bytes": (durable_files, "_write"),
    "its name": (durable_files, "_sync"),
    "the release": (NodeState, "keep_rebuilt"),
}


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("place", list(DEATHS))
def test_a_node_that_dies_around_its_snapshot_follows_as_before(
    found: Found, monkeypatch: pytest.MonkeyPatch, place: str, after: bool
) -> None:
    federation = of_rounds(found, 3, {"coordinator": {"release_every": 1}})
    kind = Kind.COSIGN if place == "the release" else Kind.APPLY_RESULT
    killed: list[int] = []

    def dies_once(name: str, request: Message, deliver: Deliver) -> Message | None:
        mirror = federation.nodes[name].mirror
        if not mirror.size or len(mirror.state.closed) < 3:
            federation.wire.on(name, kind, dies_once)
            return deliver(request)
        owner, method = DEATHS[place]
        with monkeypatch.context() as patch, suppress(Killed):
            dies(patch, owner, method, after=after)
            reply = deliver(request)
            federation.wire.on(name, kind, dies_once)
            return reply
        killed.append(len(federation.wire.log) + 1)
        left = federation.nodes[name].directory / FOLDER / "77.safetensors.new"
        left.write_bytes(b"half of it")
        federation.restart(name)
        assert not left.exists()
        return None

    federation.wire.on("fr", kind, dies_once)
    federation.run()
    assert len(killed) == 1
    assert results(federation, *killed) in ([], [3])
    assert len(snapshots(federation)) == 2
    check(federation, rounds=3)
    assert federation.refusals() == {}
    rebuilt = [node.store.rebuilt("run", 3) for node in federation.nodes.values()]
    assert len(set(rebuilt)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("is_restarted", [True, False])
def test_a_second_run_starts_from_the_given_base_whatever_snapshots_there_are(
    found: Found, caplog: pytest.LogCaptureFixture, is_restarted: bool
) -> None:
    """Until its first round, a node that starts goes on from the run before."""
    federation = of_rounds(found, 2)
    federation.run()
    ended = federation.digests()
    federation.begin_another_run("second")
    for name in NAMES if is_restarted else ():
        federation.restart(name)
    assert federation.digests() == ended
    federation.run_until_killed(nth(Kind.ADVERTISE_KEYS, len(NAMES) + 1))
    first, _, second = federation.closed()
    assert second.base_before == first.base_before == federation.base.replica.digest
    before = standing(federation)
    assert before["round"][:2] == ("second", 1)
    federation.restart("fr")
    assert standing(federation) == before
    assert warnings(caplog) == []
    snapshots(federation)[-1].unlink()
    federation.restart("fr")
    assert warnings(caplog) == []
    assert standing(federation)["round"][:2] == ("run", 2)  # that is an older one
    asked = len(federation.wire.log)
    federation.run()
    assert results(federation, asked)[0] == 1
    assert set(federation.digests().values()) == {federation.closed()[-1].base_after}
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


@pytest.mark.slow
@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize(
    "away",
    [
        pytest.param("", marks=pytest.mark.slow, id="none"),
        pytest.param("before it", marks=pytest.mark.slow),
        pytest.param("in it", marks=pytest.mark.slow),
        "both",
    ],
)
def test_a_run_goes_on_from_the_release_of_the_last_one_by_itself(
    found: Found, settings: Settings, away: str
) -> None:
    """The nodes' settings name the first base alone, and stay as they are."""
    federation = of_rounds(found, 2, settings)
    federation.run()
    given = federation.base.replica.digest
    federation.approve()
    release = federation.coordinator / "releases" / "base-1"
    federation.begin_another_run("second", base=str(release))
    if away in {"before it", "both"}:
        federation.restart("fr")
    if away in {"in it", "both"}:
        restarted = at_offers(federation, [2], lambda: federation.restart("fr"))
        federation.run()
        assert len(restarted) == 1
        assert results(federation, *restarted) in ([], [2])
    else:
        federation.run()
    first, second = federation.said(ReleasePublished)
    rounds = federation.closed()
    assert [each.outcome for each in rounds] == ["applied"] * 4
    assert (rounds[0].base_before, rounds[2].base_before) == (given, first.model_digest)
    assert federation.refusals() == {}
    assert (second.run_id, second.previous) == ("second", first.name)
    assert set(federation.digests().values()) == {rounds[-1].base_after}
    rebuilt = {node.store.rebuilt("second", 2) for node in federation.nodes.values()}
    assert rebuilt == {second.manifest_digest}
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


@pytest.mark.slow
def test_where_the_results_are_gone_a_node_goes_on_by_the_folder_of_a_release(
    found: Found, caplog: pytest.LogCaptureFixture
) -> None:
    """Both ends say so once, with what there is to do."""
    federation = of_rounds(found, 2)
    federation.run()
    federation.approve()
    release = federation.coordinator / "releases" / "base-1"
    ended = federation.begin_another_run("second", base=str(release), rounds=3)
    (ended / "journal.db").unlink()
    folder = federation.directory / "nodes" / "fr"
    shutil.rmtree(folder / FOLDER)
    node = federation.restart("fr")
    federation.run_until_killed(nth(Kind.ADVERTISE_KEYS, 2 * len(NAMES) + 1))
    assert [each.included for each in federation.closed()[2:]] == [
        ("fi", "id", "sw")
    ] * 2
    assert federation.refusals() == {"fr": "maintenance"}  # of the second round
    said = [each.getMessage() for each in caplog.records]
    for once in (
        "the results of run 'run' are missing here from round 1 on",
        f"members that lack results of run 'run' do not get them from {ended}",
    ):
        (words,) = (each for each in said if once in each)
        assert "the folder of the newest approved release" in words
        assert "base in node.toml, and its identity in policy.bases" in words
    for code in ("base-differs", "round-not-followed"):
        words = f"name its folder as base in node.toml [{code}]"
        assert any(words in each for each in said)
    named = federation.said(ReleasePublished)[0].model_digest
    policy = {"bases": [*node.settings.policy.bases, named]}
    changes = {"base": str(release), "policy": policy}
    change_settings(folder / "node.toml", NodeSettings, changes)
    federation.kill("fr")
    workload = open_workload("language", str(release))
    base = Base(workload=workload, replica=Replica.start(workload.given))
    federation.start("fr", base=base)
    federation.run()
    assert federation.closed()[-1].included == NAMES
    assert len(set(federation.digests().values())) == 1


# Snapshots that do not fit


@pytest.fixture(scope="module")
def ended(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation after three rounds, whose folder of ``fr`` tests may change."""
    place = tmp_path_factory.mktemp("ended") / "federation"
    federation = Federation(place, base, coordinator={"rounds": 3})
    with closing(federation):
        federation.run()
        yield federation


@pytest.fixture
def stopped(ended: Federation) -> Iterator[Federation]:
    """The same, with ``fr`` stopped; it gets its snapshots back."""
    folder = ended.nodes["fr"].directory / FOLDER
    ended.kill("fr")
    shutil.copytree(folder, folder.with_name("kept"))
    yield ended
    ended.nodes.pop("fr").close()
    shutil.rmtree(folder)
    folder.with_name("kept").rename(folder)
    ended.start("fr")


def _changed(old: bytes, new: bytes) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))

    return change


def _flipped(place: int) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)

    return change


def _older(path: Path) -> None:
    shutil.copy(min(path.parent.glob("*")), path)


def _foreign(path: Path) -> None:
    write_tensors(path, {"base/w": np.zeros(3, dtype=np.float32)})


def _linked(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "file-size-invalid"),
    "cut": (lambda path: os.truncate(path, 9_000), "tensor-layout-invalid"),
    "a moment": (_flipped(-2), "replica-differs"),
    "a step": (_changed(b'"step":"3"', b'"step":"2"'), "replica-differs"),
    "no step": (_changed(b'"step":"3"', b'"step":"-"'), "integer-not-canonical"),
    "a type": (_changed(b'"F32"', b'"F16"'), "tensor-size-differs"),
    "an older one": (_older, "replica-differs"),
    "another model's": (_foreign, "snapshot-tensor-unknown"),
    "a FIFO": (fifo, "file-not-plain"),
    "a device": (_linked, "link-not-allowed"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_snapshot_that_does_not_fit_is_named_and_an_older_one_is_used(
    stopped: Federation, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    change, code = FAULTS[fault]
    newer = snapshots(stopped)[-1]
    change(newer)
    stopped.start("fr")
    assert warnings(caplog) == [code]
    assert standing(stopped)["round"][:2] == ("run", 2)
    assert stopped.digests()["fr"] == stopped.closed()[1].base_after


def test_without_a_snapshot_that_fits_a_node_starts_from_the_given_base(
    stopped: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    for path in snapshots(stopped):
        _flipped(-2)(path)
    stopped.start("fr")
    assert warnings(caplog) == ["replica-differs"] * 2
    assert standing(stopped)["round"] == (None, 0, -1)
    assert stopped.digests()["fr"] == stopped.base.replica.digest


@pytest.mark.parametrize("name", ["7", "999999999"])
def test_a_snapshot_of_no_round_of_the_log_is_not_used(
    stopped: Federation, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    newer = snapshots(stopped)[-1]
    shutil.copy(newer, newer.with_name(f"{name}.safetensors"))
    newer.unlink()
    stopped.start("fr")
    expected = ["snapshot-round-unknown"] if name == "999999999" else []
    assert warnings(caplog) == expected
    assert standing(stopped)["round"][:2] == ("run", 2)
