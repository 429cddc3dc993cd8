"""The base moves by published sums alone, and a false release gets no cosignature."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tapestry.artifacts.model_identity import ModelContent
from tapestry.errors import VerificationError
from tapestry.evaluation.acceptance import WORSE
from tapestry.model.replica import Replica, measure
from tapestry.protocol.secagg_messages import Result
from tapestry.protocol.stages import RoundStage
from tapestry.secagg.server import Unmasked
from tapestry.vectors import Layout
from tapestry_governance.events.round_events import (
    COORDINATOR_LOST,
    RoundAborted,
    RoundClosed,
    RoundOpened,
)
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused
from tapestry_node.round.base_snapshots import FOLDER, BaseSnapshots
from tapestry_node.round.result import EndedRound, ResultApplier
from tapestry_node.round.spot_checks import DISPUTES, SpotChecks, Taken
from tapestry_node.round.survivor_marks import ConsentMark
from tests.support.gate_models import gate_check, inputs, metrics
from tests.support.log_world import NAMES, World, changed, fake_digest, renamed
from tests.support.proposals import new_coordinator, new_key
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation

LAYOUT = Layout(tensors=(("w", (5, 10)),))
RUN = "run-1"
CONTENT = ModelContent(tensors={"w": np.zeros((5, 10), dtype=np.float32)})
WORKLOAD: Any = SimpleNamespace(given=CONTENT, card_fields={}, layout=lambda _: LAYOUT)


def given() -> Replica:
    return Replica.start(CONTENT)


@dataclass(frozen=True)
class Finished:
    """A round of four nodes that starts from the given base, and its end in a log."""

    federation: Federation
    total: Unmasked
    result: Result
    after: Replica

    def ended(self, **changes: object) -> EndedRound:
        manifest = self.federation.manifest
        names = tuple(self.federation.names())
        closed = RoundClosed(
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            attempt=1,
            outcome="applied",
            reason=None,
            included=names,
            dropped=(),
            commitments=(4, 5, 6, 7),
            aggregate_digest=self.result.sum_root,
            base_before=manifest.model_digest,
            base_after=self.after.digest,
            release_digest=self.after.release_digest,
            outer_digest=self.after.optimizer.digest,
            metrics=self.metrics(float(self.after.parameters["w"][0, 0])),
        )
        body = changed(closed, **changes)
        assert isinstance(body, RoundClosed)
        return EndedRound(manifest=manifest, closed=body, index=9)

    def metrics(self, value: float) -> dict[str, str]:
        """Spell the scores of a value, with the norm of this round's sum."""
        names = self.federation.names()
        total = self.federation.expected(names)
        manifest = self.federation.manifest
        norm = measure(total, survivors=len(names), manifest=manifest).norm
        return metrics(value, norm=norm)


@pytest.fixture(scope="module")
def finished() -> Finished:
    start = given()
    federation = Federation.of(
        4,
        length=LAYOUT.length,
        model_digest=start.digest,
        layout_digest=LAYOUT.digest,
        gate=inputs(),
    )
    total = federation.run()
    after = start.after(
        federation.expected(federation.names()),
        survivors=4,
        manifest=federation.manifest,
        layout=LAYOUT,
    )
    return Finished(federation, total, federation.result(total), after)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NodeState]:
    state = NodeState(tmp_path / "node.db")
    yield state
    state.close()


def _note(store: NodeState, closed: RoundClosed) -> None:
    store.dispute_gate(closed.run_id, closed.round_number, entry=b"disputed")


Applier = Callable[..., ResultApplier]


@pytest.fixture
def applier(tmp_path: Path, store: NodeState) -> Iterator[Applier]:
    """Build a node's base over a log, by default an empty one."""
    opened: list[LogMirror] = []

    def make(
        world: World | None = None,
        *,
        replica: Replica | None = None,
        wanted: int = 0,
        slope: float = 1.0,
    ) -> ResultApplier:
        known = world or World().found()
        mirror = LogMirror.open(
            tmp_path / f"mirror-{len(opened)}.db",
            trust=known.trust,
            genesis=known.genesis,
        )
        opened.append(mirror)
        if world is not None:
            mirror.extend(0, world.entries, world.note())
        return ResultApplier(
            BaseSnapshots(directory=tmp_path, given=replica or given()),
            mirror=mirror,
            store=store,
            spots=SpotChecks(store=store, wanted=wanted, folder=tmp_path),
            gate=gate_check(tmp_path, LAYOUT, partial(_note, store), slope=slope),
            workload=WORKLOAD,
        )

    yield make
    for mirror in opened:
        mirror.close()


def test_a_sum_that_holds_moves_the_base_to_the_one_in_the_log(
    applier: Applier, store: NodeState, finished: Finished
) -> None:
    base = applier(wanted=1)
    base.take(finished.ended(), finished.result, finished.total.chunks(), done=None)
    assert base.replica.digest == finished.after.digest
    assert base.replica.parameters["w"].any()
    assert base.applied == 1
    assert store.base(RUN, 1) == finished.after.digest
    assert [ask.round_number for ask in base.asks()] == [1]  # drawn with the sum


def test_a_round_that_the_log_did_not_apply_leaves_the_base(
    applier: Applier, finished: Finished
) -> None:
    base, before = applier(slope=-1000.0), given().digest
    score = -1000.0 * float(finished.after.parameters["w"][0, 0])
    assert score > 1  # more than the plan allows
    ended = finished.ended(
        outcome="rejected",
        reason=WORSE,
        base_after=before,
        release_digest=before,
        outer_digest=given().optimizer.digest,
        metrics=finished.metrics(score),
    )
    base.take(ended, finished.result, finished.total.chunks(), done=None)
    assert (base.replica.digest, base.applied) == (before, 1)


def test_a_good_step_that_the_log_rejects_is_disputed_for_good(
    applier: Applier, finished: Finished, store: NodeState
) -> None:
    base, before = applier(), given().digest
    ended = finished.ended(
        outcome="rejected",
        reason=WORSE,
        base_after=before,
        release_digest=before,
        outer_digest=given().optimizer.digest,
    )
    with refused(VerificationError, "gate-outcome-differs"):
        base.take(ended, finished.result, finished.total.chunks(), done=None)
    assert (base.replica.digest, base.applied) == (before, 0)
    assert store.disputed_gates() == [(RUN, 1)]
    base.check_sums("another-run", until=1)
    with refused(VerificationError, "gate-disputed"):
        base.check_sums(RUN, until=1)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aggregate_digest": "sha256:" + "0" * 64}, "sum-root-differs"),
        ({"included": ("n0001.example",)}, "survivor-list-differs"),
        ({"base_after": "sha256:" + "0" * 64}, "replica-differs"),
        ({"release_digest": "sha256:" + "0" * 64}, "replica-differs"),
        ({"outer_digest": "sha256:" + "0" * 64}, "replica-differs"),
        ({"metrics": metrics(0.0, norm=0.5)}, "gate-norm-differs"),
    ],
)
def test_an_end_that_differs_from_the_sum_leaves_the_base(
    applier: Applier, finished: Finished, changes: dict[str, object], code: str
) -> None:
    base = applier()
    if "included" in changes:
        changes = {**changes, "commitments": (4,)}
    ended = finished.ended(**changes)
    with refused(VerificationError, code):
        base.take(ended, finished.result, finished.total.chunks(), done=None)
    assert (base.replica.digest, base.applied) == (given().digest, 0)


def test_a_changed_chunk_of_the_sum_leaves_base_and_draws(
    applier: Applier, store: NodeState, finished: Finished
) -> None:
    base = applier(wanted=1)
    values = finished.total.values.copy()
    values[7] += 1
    chunks = replace(finished.total, values=values).chunks()
    with refused(VerificationError, "sum-root-differs"):
        base.take(finished.ended(), finished.result, chunks, done=None)
    assert (base.replica.digest, store.base(RUN, 1)) == (given().digest, None)
    assert base.asks() == []


def test_a_round_from_another_base_is_refused(
    applier: Applier, finished: Finished
) -> None:
    base = applier(replica=finished.after)
    with refused(VerificationError, "base-differs", match=finished.after.digest):
        base.take(finished.ended(), finished.result, finished.total.chunks(), done=None)


def test_a_member_compares_the_result_with_its_own_part_of_the_round(
    applier: Applier, finished: Finished
) -> None:
    chunks = finished.total.chunks()
    own = finished.federation.cohort[0].state
    applier().take(finished.ended(), finished.result, chunks, done=own)
    other = Federation.of(
        4,
        length=LAYOUT.length,
        model_digest=given().digest,
        layout_digest=LAYOUT.digest,
        attempt=2,
    )
    other.run()
    base = applier()
    done = other.cohort[0].state
    with refused(VerificationError, "own-entry-differs"):
        base.take(finished.ended(), finished.result, chunks, done=done)
    assert base.applied == 0


def test_the_end_of_a_round_is_found_within_the_entries_that_a_note_covers(
    applier: Applier,
) -> None:
    world = World().found()
    world.run_round(1)
    base, size = applier(world), len(world.entries)
    ended = base.ended("run", 1, within=size)
    assert (ended.closed.round_number, ended.index) == (1, size - 1)
    assert ended.manifest == world.manifest(1)
    for run, number, within in (
        ("run", 2, size),
        ("run", 1, size - 1),
        ("other", 1, size),
    ):
        with refused(Refused, "round-not-closed", match=f"{number} of '{run}'"):
            base.ended(run, number, within=within)


def released() -> World:
    world = World().found()
    world.run_round(1)
    world.add(world.release(1))
    return world


def test_a_release_is_cosigned_only_if_its_round_was_followed(
    applier: Applier, store: NodeState
) -> None:
    world = released()
    base = applier(world)
    with refused(Refused, "round-not-followed", match="base-1: round 1 "):
        base.check_releases()
    store.keep_base("run", 1, gives=world.base(1))
    with refused(Refused, "round-not-followed"):  # its release was not rebuilt
        base.check_releases()
    keep(store, world)
    base.check_releases()


@pytest.mark.parametrize("said", [None, (), NAMES[:3], NAMES])  # None: lost
def test_an_aborted_round_ends_with_the_survivors_that_were_consented_to(
    applier: Applier, store: NodeState, said: tuple[str, ...] | None
) -> None:
    world = World().found()
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    for name in NAMES:
        world.commit(name, manifest)
    store.take_consent(ConsentMark.of(manifest, NAMES[:3]))
    fits = said in {NAMES[:3], None}
    applier(world).check_ends()  # it has not ended
    aborted = RoundAborted(
        run_id="run",
        round_number=1,
        attempt=1,
        stage=RoundStage.UNMASK,
        reason=COORDINATOR_LOST if said is None else "quorum_missed",
        survivors=said or (),
    )
    signers = []
    if said is None:
        world.decide(new_coordinator(world, name="coordinator"))
        world.log_key, signers = new_key(world.log_key.name), [new_key("rivers")]
    world.append(world.entry(aborted, signers=signers))
    base, code = applier(world), "aborted-survivors-differ"
    for _ in range(2):
        with nullcontext() if fits else refused(VerificationError, code):
            base.check_ends()


def test_a_round_that_was_closed_is_no_question_of_its_abort(
    applier: Applier, store: NodeState
) -> None:
    world = World().found()
    manifest = world.run_round()
    store.take_consent(ConsentMark.of(manifest, NAMES))
    applier(world).check_ends()
    store.take_consent(ConsentMark.of(world.manifest(2), NAMES))
    applier(world).check_ends()  # of a round that the log does not know yet


def keep(store: NodeState, world: World) -> None:
    """Note that the round was followed and its release rebuilt, as is the log's."""
    store.keep_base("run", 1, gives=world.base(1))
    store.keep_rebuilt("run", 1, manifest=world.release(1).manifest_digest)


def test_a_run_goes_on_only_where_the_end_of_its_last_round_was_taken(
    applier: Applier,
) -> None:
    world = World().found()
    base = applier(world)
    base.check_followed("run")
    world.run_round()
    base = applier(world)
    with refused(Refused, "round-not-followed", match="round 1 of 'run'"):
        base.check_followed("run")
    base.check_followed("other")


def test_a_release_of_other_files_is_disputed_after_a_restart_too(
    applier: Applier, store: NodeState
) -> None:
    """Its parameters are right, and a settings file or the card is not."""
    world, other = released(), "sha256:" + "3" * 64
    store.keep_base("run", 1, gives=world.base(1))
    store.keep_rebuilt("run", 1, manifest=other)
    for _ in range(2):
        with refused(VerificationError, "manifest-differs", match=other):
            applier(world).check_releases()


def test_a_release_of_another_base_than_the_rounds_is_disputed_after_a_restart_too(
    applier: Applier, store: NodeState
) -> None:
    world = released()
    store.keep_base("run", 1, gives=world.base(2))
    base = applier(world)
    for _ in range(2):  # it is found again each time
        with refused(VerificationError, "release-model-differs", match=world.base(2)):
            base.check_releases()
    with refused(VerificationError, "release-model-differs"):
        applier(world).check_releases()


def test_a_release_waits_for_the_chunks_that_the_node_drew(
    applier: Applier, store: NodeState
) -> None:
    world = released()
    keep(store, world)
    store.keep_spots("run", 1, chunks=[3])
    base = applier(world, wanted=1)
    with refused(Refused, "sum-unchecked", match="base-1: chunks of round 1 "):
        base.check_releases()
    store.mark_verified("run", 1, chunk=3)
    base.check_releases()


def test_nothing_that_rests_on_a_false_sum_is_accepted(
    applier: Applier, store: NodeState
) -> None:
    world = released()
    keep(store, world)
    store.keep_spots("run", 1, chunks=[3])
    store.dispute_spot("run", 1, chunk=3)
    base = applier(world)
    with refused(VerificationError, "false-sum", match=f"round 1 .*{DISPUTES}/"):
        base.check_releases()
    with refused(VerificationError, "false-sum"):
        base.check_sums("run", until=1)
    base.check_sums("run", until=0)
    base.check_sums("another", until=9)


def test_a_release_with_a_quorum_ends_the_questions_about_its_rounds(
    applier: Applier, finished: Finished
) -> None:
    """Nor does a node that did not follow the round refuse it any more."""
    world = released()
    base = applier(world, wanted=1)
    manifest = world.manifest(1)
    base.spots.draw(Taken(manifest=manifest, result=finished.result, index=1))
    assert len(base.asks()) == 1
    base.mirror.accept_checkpoint(world.note(), world.now)
    assert base.asks() == []
    base.check_releases()


def unread(world: World, tmp_path: Path) -> int:
    """Put a file in the place of the snapshot of the newest round; reading it fails."""
    last = world.state.closed.last if world.state else None
    assert last is not None
    path = BaseSnapshots(directory=tmp_path, given=given()).path(last.index)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no tensors")
    return last.round_number


def tried(caplog: pytest.LogCaptureFixture) -> bool:
    """Say whether a snapshot was read."""
    said, records = caplog.text, len(caplog.records)
    caplog.clear()
    assert records <= 1
    return "[tensor-header-invalid]" in said


def test_a_snapshot_of_a_round_that_this_node_did_not_take_is_not_read(
    applier: Applier,
    store: NodeState,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World().found()
    world.run_round(1)
    number = unread(world, tmp_path)
    for gives in (None, world.base(2)):
        if gives is not None:
            store.keep_base("run", number, gives=gives)
        assert applier(world).taken == -1
        assert "[snapshot-not-taken]" in caplog.text
        assert not tried(caplog)
    store.keep_base("run", number, gives=world.base(1))
    assert applier(world).taken == -1
    assert tried(caplog)


def test_a_round_with_a_chunk_that_is_wanted_is_taken_again(
    applier: Applier,
    store: NodeState,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = released()
    keep(store, world)
    unread(world, tmp_path)
    store.keep_spots("run", 1, chunks=[3, 4])
    store.mark_verified("run", 1, chunk=3)
    applier(world)
    assert not tried(caplog)
    store.mark_verified("run", 1, chunk=4)
    applier(world)
    assert tried(caplog)


def test_a_round_whose_release_was_not_rebuilt_is_taken_again(
    applier: Applier,
    store: NodeState,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Later rounds are spared only once it was; its own base is what it needs."""
    world = released()
    store.keep_base("run", 1, gives=world.base(1))
    unread(world, tmp_path)
    (first,) = (tmp_path / FOLDER).iterdir()
    applier(world)
    assert tried(caplog)
    world.run_round(2)
    store.keep_base("run", unread(world, tmp_path), gives=world.base(2))
    caplog.clear()
    applier(world)  # which tries that of the first round
    assert tried(caplog)
    first.unlink()
    applier(world)
    assert not tried(caplog)
    keep(store, world)
    applier(world)
    assert tried(caplog)


@pytest.mark.parametrize("begun", ["given", "release", "unknown"])
def test_another_run_begins_with_the_given_base_or_what_the_last_one_gave(
    applier: Applier, finished: Finished, begun: str
) -> None:
    after = finished.after
    digests = {
        "given": given().digest,
        "release": after.release_digest,
        "unknown": fake_digest("unknown"),
    }
    world = World(rules={"bases": "any"}).found()
    manifest = renamed(world.manifest(), run_id="another", model_digest=digests[begun])
    world.add(RoundOpened(manifest=manifest))
    base = applier(world)
    base.take(finished.ended(), finished.result, finished.total.chunks(), done=None)
    base.enter(RUN)
    assert (base.replica.digest, base.applied) == (after.digest, 1)
    expected = after.of_release() if begun == "release" else given()
    if begun == "unknown":  # it stays where it is
        base.enter("another")
        assert (base.run_id, base.applied) == (RUN, 1)
        assert base.replica.digest == after.digest
        return
    for _ in range(2):
        base.enter("another")
        assert (base.replica.digest, base.applied) == (expected.digest, 0)
        assert base.replica.optimizer.step == 0
        assert base.taken == 9
    assert (
        base.origin("another", named=()) == digests[begun]
    )  # the log has no release of it


def test_a_run_goes_back_to_the_first_base_only_through_what_was_followed_here(
    applier: Applier, store: NodeState
) -> None:
    world = World().found()
    world.run_round(1)
    world.add(world.release(1))
    world.approve("base-1")
    goes_on = renamed(world.manifest(), run_id="another", model_digest=world.base(1))
    world.add(RoundOpened(manifest=goes_on))
    base = applier(world)
    store.keep_base("run", 1, gives=world.base(2))
    assert base.origin("another", named=()) == world.base(1)
    store.keep_base("run", 1, gives=world.base(1))
    assert base.origin("another", named=()) == world.base(0)
    assert base.origin("another", named={world.base(1)}) == world.base(1)
    store.keep_spots("run", 1, chunks=[0])
    store.dispute_spot("run", 1, chunk=0)
    with refused(VerificationError, "false-sum"):
        base.origin("another", named={world.base(0)})
    assert base.origin("another", named={world.base(1)}) == world.base(1)


def test_a_round_is_taken_where_no_snapshot_can_be_written(
    applier: Applier,
    finished: Finished,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / FOLDER).write_bytes(b"a file")
    base = applier()
    base.take(finished.ended(), finished.result, finished.total.chunks(), done=None)
    assert (base.replica.digest, base.taken) == (finished.after.digest, 9)
    assert "[file-unwritable]" in caplog.text


def test_a_snapshot_waits_for_the_gate(applier: Applier, finished: Finished) -> None:
    base = applier(slope=-1000.0)
    with refused(VerificationError, "gate-outcome-differs"):
        base.take(finished.ended(), finished.result, finished.total.chunks(), done=None)
    assert base.snapshots.held() == []
