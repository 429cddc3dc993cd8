"""The base as this node follows it: from published sums, by its own steps.

After a round its sum travels, not the base. The node compares the sum with the log and
the plan of the round, takes the step itself, and compares the outcome. The outcome of
each round is kept on the disk, and with it what this node disputes. So is the base, and
a restart goes on from there (``base_snapshots``).

A node cosigns a log with a *new* release only if it has rebuilt all of the release and
found the same: parameters, settings files and card (``model.release_draft``), and if it
has seen the chunks that it drew of the sums (``spot_checks``).
Withholding the result of a round from the members therefore gets no cosignature for a
release of it. A disputed release is never cosigned again, until the operator has looked
into it. The same holds for a sum that the node has seen to be false, with a proof that
convinces any reader of the log: it cosigns nothing that rests on the sum, and trains no
more in that run, nor in one that goes on from it.

A release is new beyond the last checkpoint that this node has accepted. One within it
has its quorum of members who followed its round or trust those who did, and to refuse
it would stop the federation instead of the release. So a node can return and cosign
before it has followed what it missed.

A node that was away refuses only until it has the results; they are shown to it under
a checkpoint of the others, and that may be an older one. While more nodes lack the
result than the quorum can do without, the release waits for them. It takes results in
its own order alone, through as many runs as it missed (``missed_rounds``).
"""

import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tapestry.errors import IncompleteError, ResourceError, VerificationError
from tapestry.model.release_draft import ReleaseDraft
from tapestry.model.replica import Replica, measure
from tapestry.protocol.messages import ChunkRequest, Reason, RoundName
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Result
from tapestry.secagg.chunks import assemble
from tapestry.secagg.client_states import Cohort, SharesRevealed
from tapestry.secagg.transcript import check_own, check_sum_chunks, check_transcript
from tapestry.workloads.base import Workload
from tapestry_governance.events.round_events import (
    RoundAborted,
    RoundClosed,
    RoundOpened,
)
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.rules.round_records import ReleaseRecord, RoundKey
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused
from tapestry_node.round.admission import first_round
from tapestry_node.round.base_snapshots import BaseSnapshots, check_base
from tapestry_node.round.gate_check import GateCheck, Step
from tapestry_node.round.missed_rounds import goals, next_round, tell_missing
from tapestry_node.round.release_bases import (
    ends_of_releases,
    has_release,
    read_release,
)
from tapestry_node.round.spot_checks import DISPUTES, SpotChecks, Taken
from tapestry_node.round.survivor_marks import ConsentMark

_logger = logging.getLogger(__name__)
Chunks = Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRound:
    """A round and its end, from the log."""

    manifest: RoundManifest
    closed: RoundClosed
    index: int  # of its end in the log


class ResultApplier:
    """The base that this node holds, and how it came about."""

    def __init__(
        self,
        snapshots: BaseSnapshots,
        *,
        mirror: LogMirror,
        store: NodeState,
        spots: SpotChecks,
        gate: GateCheck,
        workload: Workload,
    ) -> None:
        """Go on from the newest snapshot that fits, or start from the given base.

        Guarantees:
            After a restart the node owes what it owed before. Of a round that a
            snapshot spares it

            * the draw was made, and its chunks were seen or are asked for no more: a
              round with a chunk that is still wanted is taken again, since its result
              is needed to ask;
            * the step was this node's own and is in its state, with the same outcome;
            * the gate was checked: the snapshot was written after that. A dispute is
              in the state;
            * a release is rebuilt, here at the latest, or its round is taken again;
            * consents, disputes and releases are compared again, all of them.

        Edge cases:
            A policy that asks for spot checks only since this start has none of the
            rounds that a snapshot spares: they were taken without a draw.
        """
        self.snapshots = snapshots
        self.replica, self.applied = snapshots.given, 0
        self._ended_run: Replica | None = None  # of the run before, or of a release
        self._unread = set[str]()  # bases whose snapshot is there and cannot be used
        self._told: str | None = None  # the run of which the operator was told last
        self.run_id: str | None = None  # of the round that was applied last
        self.taken = -1  # log index of the end of that round
        self.mirror, self._store, self._workload = mirror, store, workload
        self.spots, self._gate = spots, gate
        self._ended = 0  # consents whose round has ended as it must
        self._compared = 0  # how much of the log's releases was compared
        self._uncompared: list[tuple[str, int]] = []  # rounds taken since, likewise
        snapshots.sweep()
        if mirror.size:
            self._resume()
            with suppress(VerificationError):  # found again when it matters
                self._rebuild()
                self._compare_releases()

    def _resume(self) -> None:
        """Go on from the newest snapshot that fits; without one stay where it is."""
        for index in self.snapshots.held():
            try:
                if self._take_up(index):
                    return
            except (IncompleteError, ResourceError, VerificationError) as error:
                _logger.warning(
                    "%s is not used: %s [%s]; an older snapshot or the given base is",
                    *(self.snapshots.path(index), error, error.code),
                )

    def _take_up(self, index: int) -> bool:
        """Go on from a snapshot; False if its round has to be taken again.

        Raises:
            VerificationError: The log has no end of a round there, this node has not
                taken it, or the snapshot is not of the base that it gave.
        """
        ends = self.mirror.state.closed.newest_first()
        if all(each.index != index for each in ends):
            raise VerificationError(
                f"no round was closed at entry {index} of the log",
                code="snapshot-round-unknown",
            )
        closed = self.mirror.body(index, RoundClosed)
        run_id, number = closed.run_id, closed.round_number
        if self._store.base(run_id, number) != closed.release_digest:
            raise VerificationError(
                f"this node's state does not say that round {number} gave"
                f" {closed.release_digest}",
                code="snapshot-not-taken",
            )
        if self._owes(run_id, number):
            return False
        self.replica, self.applied = self.snapshots.read(index, closed), number
        self.run_id, self.taken = run_id, index
        return True

    def _owes(self, run_id: str, number: int) -> bool:
        """Say whether something is left to do of a round up to this one.

        A chunk that was drawn and not seen needs the result of its round, and a release
        that was not rebuilt the base of its own.
        """
        state, accepted = self.mirror.state, self._accepted_size()
        since = state.released_round(run_id, within=accepted)
        drawn = self._store.pending_rounds(run_id)
        return any(since < each <= number for each in drawn) or any(
            release.round_number < number
            and self._store.rebuilt(run_id, release.round_number) is None
            for release in state.releases_since(accepted)
            if release.run_id == run_id
        )

    def enter(self, run_id: str, *, again: bool = False) -> None:
        """Go to the base that another run begins with, where one begins.

        ``again`` goes back to it in the run that was followed last.

        It is the given base, or a release to which this node followed a run. The outer
        optimizer starts anew, also where the last run ended with an equal base.

        Edge cases:
            Where that base is not here, this node stays where it is, so that it loses
            no place among results that it catches up with.
        """
        if run_id == self.run_id and not again:
            return
        ended = self._ended_run if self.run_id is None else self.replica
        begins = self.snapshots.given
        if self.mirror.size and run_id in self.mirror.state.runs:
            base = first_round(self.mirror, run_id).model_digest
            if base != begins.digest:
                if ended is None or base != ended.release_digest:
                    ended = self._read(base)
                if ended is None:
                    return
                begins = ended.of_release()
        self._ended_run = ended
        self.replica, self.applied, self.run_id = begins, 0, None

    def _read(self, base: str) -> Replica | None:
        """Read the base of a release; what cannot be read is not asked for again."""
        found = read_release(
            base, mirror=self.mirror, store=self._store, snapshots=self.snapshots
        )
        if found is None:
            self._unread.add(base)
        return found

    def _is_here(self, base: str) -> bool:
        """Return whether a run can begin with a base; its snapshot is not read yet."""
        ended = self._ended_run if self.run_id is None else self.replica
        if base == self.snapshots.given.digest:
            return True
        if ended is not None and base == ended.release_digest:
            return True
        return base not in self._unread and has_release(
            base, state=self.mirror.state, store=self._store, snapshots=self.snapshots
        )

    def lacks(self) -> RoundName | None:
        """Name the round whose result this node takes next, if it lacks one."""
        if not self.mirror.size:
            return None
        state, store = self.mirror.state, self._store
        ways = goals(
            state,
            accepted=self._accepted_size(),
            is_followed=lambda each: store.base(each.run_id, each.round_number),
        )
        at = self.run_id, self.applied
        for way in ways:
            found = next_round(*way, mirror=self.mirror, at=at, is_here=self._is_here)
            if found is not None:
                if found.run_id not in (self._told, state.last and state.last[0]):
                    tell_missing(found)
                    self._told = found.run_id
                return found
        return None

    def is_next(self, ended: EndedRound) -> bool:
        """Return whether this node takes the result of a round now.

        Guarantees:
            No request changes the order: of all results the node takes the one alone
            that it lacks next by its own log. One that it has taken it takes no more.

        Raises:
            Refused: It has not taken the round, and lacks another one first, or none.
        """
        lacks, run_id, number = (
            self.lacks(),
            ended.closed.run_id,
            ended.closed.round_number,
        )
        if lacks is not None and (lacks.run_id, lacks.round_number) == (run_id, number):
            return True
        if self._store.base(run_id, number) is not None:
            return False
        first = f"round {lacks.round_number} of {lacks.run_id!r}" if lacks else "none"
        raise Refused(
            Reason.BASE_MISMATCH,
            f"round {number} of {run_id!r} was shown; the result that is taken here"
            f" next is {first}",
            code="result-not-next",
        )

    def origin(self, run_id: str, *, named: Collection[str]) -> str:
        """Return the base that a run goes back to, through what was followed here.

        Where a run began with what an earlier one gave on this node, by its own steps
        and to a published release, it goes back to where that one began; no further
        than to a base that is ``named`` by the node's policy.

        Raises:
            VerificationError: It goes back through a sum or an outcome of a gate that
                this node has seen to be false.
        """
        state = self.mirror.state
        while (base := first_round(self.mirror, run_id).model_digest) not in named:
            for release in state.released.newest_first():
                made = self._store.base(release.run_id, release.round_number)
                if release.index < state.runs[run_id] and made == base:
                    break
            else:
                break
            self.check_sums(release.run_id, until=release.round_number)
            run_id = release.run_id
        return base

    def ended(self, run_id: str, number: int, *, within: int) -> EndedRound:
        """Find the end of a run's round within the first entries of the log.

        Raises:
            Refused: The log has not closed the round there.
        """
        found = self.mirror.state.closed_round(number, run_id, within=within)
        if found is None:
            said = (
                f"the log has not closed round {number} of {run_id!r} within {within}"
                " entries"
            )
            raise Refused(Reason.NOT_IN_LOG, said, code="round-not-closed")
        return EndedRound(
            manifest=self.mirror.body(found.opened, RoundOpened).manifest,
            closed=self.mirror.body(found.index, RoundClosed),
            index=found.index,
        )

    def take(
        self,
        ended: EndedRound,
        result: Result,
        chunks: Chunks,
        *,
        done: SharesRevealed | None,
    ) -> None:
        """Take the step of a round by its result and the chunks of its sum.

        ``done`` is this node's state of the round, if it was in it to the end.

        Guarantees:
            The base moves only to the one that the log names, only by a sum that the
            log names, and only if the plan of the round allows that sum. What the
            round gives here is on the disk before a difference is reported.

        Raises:
            VerificationError: Base, transcript, sum or outcome differ from the log's,
                or from what this node did itself; the base stays as it is.
        """
        manifest, closed = ended.manifest, ended.closed
        again = closed.round_number <= self.applied  # a snapshot before it was lost
        self.enter(manifest.run_id, again=again)
        if manifest.model_digest != self.replica.digest:
            raise VerificationError(
                f"round {manifest.round_number} starts from {manifest.model_digest}, "
                f"here is {self.replica.digest}",
                code="base-differs",
            )
        self._gate.require(manifest)  # before anything is noted
        _check_result(ended, result, chunks)
        if done is not None:
            check_own(done, result)
        step = self._step(ended, result, chunks)
        after = step.after if closed.outcome == "applied" else step.before
        # The draw comes first, so that no node holds the base without one.
        self.spots.draw(Taken(manifest=manifest, result=result, index=ended.index))
        released = after.release_digest
        self._store.keep_base(closed.run_id, closed.round_number, gives=released)
        self._uncompared.append((closed.run_id, closed.round_number))
        check_base(after, closed)
        self._gate.check(manifest, closed, step)
        self._unread.discard(released)
        self.replica, self.applied = after, closed.round_number
        self.run_id, self.taken = closed.run_id, ended.index
        releases = ends_of_releases(self.mirror.state) if self.mirror.size else ()
        self.snapshots.keep(ended.index, after, releases=releases)
        self._rebuild()

    def check_followed(self, run_id: str) -> None:
        """Refuse to go on in a run of which a round's end was not taken here.

        A rejected round leaves the base as it is, so the base alone does not show that
        its result was withheld, and with it the chance to dispute the outcome.

        Raises:
            Refused: The log has closed a round of the run whose result is not here.
        """
        last = self.mirror.state.closed.last
        if last is not None and last.run_id == run_id and last.index > self.taken:
            raise Refused(
                Reason.MAINTENANCE,
                f"the result of round {last.round_number} of {run_id!r} was not shown;"
                " if it does not come, and the release that the run began with was not"
                " followed here, name its folder as base in node.toml",
                code="round-not-followed",
            )

    def check_ends(self) -> None:
        """Refuse to cosign that a round ended without the survivors consented to here.

        Only rounds without noise have marks. Their sum may be known to the coordinator
        once this node has consented, whatever came of it. Of one that was lost, and
        replaced by vote, the survivors may be unknown: the mark of here counts on.

        Raises:
            VerificationError: An attempt was aborted whose end does not name them.
        """
        state = self.mirror.state
        for mark in self._store.reading().consents[self._ended :]:
            key = (mark.run, mark.round_number, mark.attempt)
            current = state.open_round
            if key not in state.rounds or (current and current.key == key):
                return  # not yet
            if not state.is_closed(key):
                self._check_abort(mark, key)
            self._ended += 1

    def _check_abort(self, mark: ConsentMark, key: RoundKey) -> None:
        """Compare the survivors of an aborted attempt with those consented to."""
        ended = self.mirror.state.aborted_round(key)
        said: tuple[str, ...] = ()
        if ended is not None:
            body = self.mirror.body(ended.index, RoundAborted)
            if body.is_unknown:
                return
            said = body.survivors
        if said != mark.survivors:
            raise VerificationError(
                f"the log ends attempt {mark.attempt} of round {mark.round_number} of"
                f" {mark.run!r} with survivors {list(said)}; this node consented to"
                f" open the sum of {list(mark.survivors)}",
                code="aborted-survivors-differ",
            )

    def check_releases(self) -> None:
        """Refuse to cosign a release that is not what its round gave here.

        Raises:
            VerificationError: This node disputes a release.
            Refused: This node has not followed the round of a new release.
        """
        state = self.mirror.state
        self._rebuild()
        self._compare_releases()
        disputed = [*self._store.disputed_sums(), *self._store.disputed_gates()]
        for run_id, number in disputed:
            if number <= state.released_round(run_id, within=state.size):
                self.check_sums(run_id, until=number)
        for release in state.releases_since(self._accepted_size()):
            if self._store.rebuilt(release.run_id, release.round_number) is None:
                raise Refused(
                    Reason.BASE_MISMATCH,
                    f"{release.name}: round {release.round_number} was not followed",
                    code="round-not-followed",
                )
            self._check_seen(release)

    def _compare_releases(self) -> None:
        """Compare new releases, and rounds that were taken since, with one another.

        Raises:
            VerificationError: A release is not what its round gave here; the next
                call finds it again.
        """
        state = self.mirror.state
        late = [state.release_of(*key) for key in self._uncompared]
        new = state.releases_since(self._compared)
        for release in [*new, *(each for each in late if each is not None)]:
            here = self._store.base(release.run_id, release.round_number)
            entry = state.releases[release.name]
            if here not in {None, entry.model_digest}:
                raise VerificationError(
                    f"{release.name} is {entry.model_digest}, round"
                    f" {release.round_number} gives {here} here",
                    code="release-model-differs",
                )
            made = self._store.rebuilt(release.run_id, release.round_number)
            if made not in {None, entry.manifest_digest}:
                raise VerificationError(
                    f"{release.name} has manifest {entry.manifest_digest}, rebuilt here"
                    f" it has {made}",
                    code="manifest-differs",
                )
        self._compared = state.size
        self._uncompared.clear()

    def _rebuild(self) -> None:
        """Rebuild the release of the base that is held here, if there is one, once.

        Raises:
            VerificationError: The log names other parameters than the release has.
        """
        if self.run_id is None or not self.mirror.size:
            return
        key = self.run_id, self.applied
        release = self.mirror.state.release_of(*key)
        if release is None or self._store.rebuilt(*key) is not None:
            return
        first = self.mirror.body(self.mirror.state.runs[self.run_id], RoundOpened)
        draft = ReleaseDraft(
            name=release.name,
            round_number=self.applied,
            first=first.manifest,
            replica=self.replica,
            given=self._workload.given,
            card_fields=self._workload.card_fields,
        )
        said = self.mirror.state.releases[release.name].parameters_digest
        if draft.parameters_digest != said:
            raise VerificationError(
                f"{release.name} has parameters {said} in the log, rebuilt here"
                f" {draft.parameters_digest}",
                code="release-parameters-differ",
            )
        self._store.keep_rebuilt(
            self.run_id, self.applied, manifest=draft.manifest.digest
        )

    def check_sums(self, run_id: str, *, until: int) -> None:
        """Refuse what rests on a sum or an outcome that this node has seen to be false.

        Raises:
            VerificationError: The sum of a round up to ``until``, or the outcome of its
                gate, is false.
        """
        for number in self._store.disputed(run_id):
            if number <= until:
                raise VerificationError(
                    f"the sum of round {number} is false; the proof is in {DISPUTES}/",
                    code="false-sum",
                )
        for run, number in self._store.disputed_gates():
            if run == run_id and number <= until:
                raise VerificationError(
                    f"the outcome of round {number} is not the gate's, by the scores"
                    " that were computed here",
                    code="gate-disputed",
                )

    def asks(self) -> list[ChunkRequest]:
        """List the chunks that this node wants to see, of sums not yet released."""
        if self.mirror.size:
            state, accepted = self.mirror.state, self._accepted_size()
            for run_id in self.spots.runs():
                until = state.released_round(run_id, within=accepted)
                self.spots.forget(run_id, until=until)
        return self.spots.asks()

    def _check_seen(self, release: ReleaseRecord) -> None:
        """Demand what was drawn of the rounds since the last release with a quorum.

        Raises:
            Refused: A chunk was not shown yet.
        """
        since = self.mirror.state.released_round(
            release.run_id, within=self._accepted_size()
        )
        for number in self.spots.pending_rounds(release.run_id):
            if since < number <= release.round_number:
                raise Refused(
                    Reason.SUM_UNCHECKED,
                    f"{release.name}: chunks of round {number} were not shown",
                    code="sum-unchecked",
                )

    def _accepted_size(self) -> int:
        """Count the entries that a quorum has cosigned, by this node's knowledge."""
        accepted = self.mirror.accepted
        return accepted.checkpoint.size if accepted else 0

    def _step(self, ended: EndedRound, result: Result, chunks: Chunks) -> Step:
        """Step as the rules demand, whatever the log says of a sum they forbid."""
        manifest = ended.manifest
        survivors = len(result.transcript.uploads)
        total = assemble(chunks, length=manifest.length)
        found = measure(total, survivors=survivors, manifest=manifest)
        before = after = self.replica
        if found.fault is None:
            after = before.after(
                total,
                survivors=survivors,
                manifest=manifest,
                layout=self._workload.layout(manifest.training),
            )
        return Step(before=before, after=after, measured=found)


def _check_result(ended: EndedRound, result: Result, chunks: Chunks) -> None:
    manifest, closed = ended.manifest, ended.closed
    check_transcript(Cohort.of(manifest), result.transcript)
    check_sum_chunks(result, chunks, length=manifest.length)
    if result.sum_root != closed.aggregate_digest:
        raise VerificationError(
            f"the sum of round {closed.round_number} has root {result.sum_root}, the"
            f" log names {closed.aggregate_digest}",
            code="sum-root-differs",
        )
    if (summed := result.transcript.survivors.names) != closed.included:
        raise VerificationError(
            f"round {closed.round_number} summed {', '.join(summed)}, the log includes"
            f" {', '.join(closed.included)}",
            code="survivor-list-differs",
        )
