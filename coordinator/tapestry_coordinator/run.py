"""A run: rounds, releases and adapters, across restarts.

``main`` finishes the run of a coordinator's folder from any state: the log has the
decisions, the journal the steps in progress. A round that was open when a coordinator
died is aborted in the log, and the run goes on with the next number, since a node that
uploaded joins no second attempt.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from tapestry.errors import (
    ConfigError,
    InconsistentLog,
    PolicyError,
    ProtocolError,
    QuorumError,
    RuleError,
    TapestryError,
    VerificationError,
)
from tapestry.evaluation.held_out import read_held_out
from tapestry.evaluation.scorer import KnownScores, Scorer, gate_inputs
from tapestry.model.replica import Replica
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Result
from tapestry.protocol.stages import RoundStage
from tapestry.secagg.server import Unmasked
from tapestry.workloads.base import Workload
from tapestry.workloads.deferred_workload import loading
from tapestry.workloads.workload_registry import open_workload
from tapestry_coordinator import release_publisher
from tapestry_coordinator import round as rounds
from tapestry_coordinator.acceptance_gate import AcceptanceGate
from tapestry_coordinator.adapter_collector import collect_adapters
from tapestry_coordinator.catching_up import bring_up_to_date
from tapestry_coordinator.closing_event import closing_of, reason_of
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.led_log import open_led_log
from tapestry_coordinator.log_publisher import LogPublisher, event_of
from tapestry_coordinator.recovered_folder import lost_round
from tapestry_coordinator.refusals import end_the_run, in_words, lacks_base
from tapestry_coordinator.round import Notify, RoundContext, RoundOutcome
from tapestry_coordinator.round_plan import (
    StartingPoint,
    check_run,
    plan_round,
    software_of,
)
from tapestry_coordinator.run_context import RunContext
from tapestry_coordinator.run_folders import (
    HELD_OUT,
    PLAN,
    PROGRESS,
    current,
    run_folder,
    write_progress,
)
from tapestry_coordinator.run_requests import request_in
from tapestry_coordinator.settings import RunSettings
from tapestry_coordinator.spot_check_responder import SpotCheckResponder
from tapestry_coordinator.uploads import Uploads
from tapestry_governance.events.round_events import (
    COORDINATOR_LOST,
    RoundAborted,
    RoundClosed,
    RoundOpened,
)

_logger = logging.getLogger(__name__)
_FAILURES = 5  # aborted rounds in a row after which the run stops


def main(
    directory: Path,
    grid: Grid,
    *,
    workload: Workload | None = None,
    replica: Replica | None = None,
    notify: Notify | None = None,
    known_scores: KnownScores | None = None,
) -> None:
    """Finish the run of a coordinator that has not ended.

    Args:
        directory: Holds ``coordinator.toml``, ``trust-policy.txt``, ``keys/``, ``log/``
            and ``runs/``.
        grid: The nodes; its names are those of the transport's connections.
        workload: The given base, loaded; opened from settings if absent.
        replica: The given base, if it was read already.
        notify: Called with each progress event; writes ``progress.jsonl`` if absent.
        known_scores: Scores that other parties of this process computed.

    Raises:
        ConfigError: A file or setting is invalid, the folder is another run's, or the
            log has an open round of another run.
        ResourceError: The disk is full, or a file cannot be read or written.
        QuorumError: Too few nodes took part in several rounds in a row.
        PolicyError: So many nodes refuse for good that no cohort is left.
    """
    folder = run_folder(directory, current(directory))
    settings = RunSettings.read(folder / PLAN)
    if settings.run_id != folder.name:
        raise ConfigError(
            f"{folder / PLAN} has run_id {settings.run_id!r}, its folder another name;"
            " a run has one name",
            code="run-differs",
        )
    if workload is None:
        with loading():
            workload = open_workload(settings.training.workload, settings.base)
    run = Run(
        directory,
        grid,
        settings=settings,
        workload=workload,
        notify=notify or partial(write_progress, folder / PROGRESS),
        known_scores=known_scores,
    )
    try:
        run.finish(replica)
    finally:
        run.close()


def end_without_sum(
    manifest: RoundManifest,
    reason: str,
    *,
    stage: RoundStage | None = None,
    survivors: Sequence[str] = (),
) -> RoundAborted:
    """Return the event that ends a round without a sum."""
    return RoundAborted(
        run_id=manifest.run_id,
        round_number=manifest.round_number,
        attempt=manifest.attempt,
        stage=stage,
        reason=reason,
        survivors=tuple(survivors),
    )


def end_lost_round(directory: Path, publisher: LogPublisher) -> None:
    """Abort the round that is open in the log, if the journal of its run is lost.

    So it is where the log came back from a member's mirror (``recovered_folder``).

    Raises:
        IncompleteError: Members would not cosign its end.
    """
    manifest = lost_round(directory, publisher.state)
    if manifest is not None:
        _logger.warning("aborting the open round: the journal of its run is lost")
        is_replaced = publisher.state.has_other_lead
        reason = COORDINATOR_LOST if is_replaced else "coordinator_restarted"
        publisher.append_event(end_without_sum(manifest, reason))


class Run:
    """One run of one coordinator."""

    def __init__(
        self,
        directory: Path,
        grid: Grid,
        *,
        settings: RunSettings,
        workload: Workload,
        notify: Notify,
        known_scores: KnownScores | None = None,
    ) -> None:
        evaluation = workload.evaluation(settings.training.options)
        folder = run_folder(directory, settings.run_id)
        self._held_out = folder / HELD_OUT
        held_out = read_held_out(self._held_out, evaluation)
        journal = Journal(folder)
        log = open_led_log(directory, grid, deadline=settings.deadlines.cosign)
        self.workload = workload
        self.context = RunContext.over(
            log,
            directory,
            settings=settings,
            journal=journal,
            gate=gate_inputs(evaluation, held_out),
            notify=notify,
        )
        scorer = Scorer(workload=workload, evaluation=evaluation, held_out=held_out)
        if known_scores is not None:
            scorer = replace(scorer, known=known_scores)
        self.gate = AcceptanceGate(scorer=scorer, journal=journal)
        self.uploads = Uploads(folder)
        self.responder = SpotCheckResponder(
            directory,
            tracker=self.context.tracker,
            journal=journal,
            uploads=self.uploads,
        )
        self.replica = Replica.start(workload.given)
        self._failures, self._opened = 0, False  # in a row; whether one was opened

    def close(self) -> None:
        """Close the databases."""
        self.context.journal.close()
        self.context.log.close()

    def finish(self, replica: Replica | None) -> None:
        """Do the remaining steps of the run."""
        self.replica = replica or self.replica
        self._recover()
        if self._closed():  # a restart may have left a release or result due
            self._bring_up_to_date()
            self._release_if_due()
        if self._goes_on():
            check_run(
                self.context.settings,
                self.context.publisher.state,
                start=self._start,
            )
            self.gate.check(self.replica, folder=self._held_out)
        while self._goes_on():
            self._try_round()
            self._release_if_due()
        if not self._closed():  # it was ended before its first result
            return
        self._bring_up_to_date()
        self._release()
        if self.context.settings.adapters:
            here = self.context.tracker.wait_for_nodes()
            collect_adapters(self.context, here, asked=here)
        with suppress(QuorumError):  # between runs the log is cosigned again
            self.context.publisher.publish(self.context.grid.nodes())

    def _goes_on(self) -> bool:
        """Return whether a round is left, and no operator asked to end the run."""
        folder = run_folder(self.context.directory, self.context.settings.run_id)
        is_left = self._closed() < self.context.settings.rounds
        return is_left and request_in(folder) != "end"

    def _release_if_due(self) -> None:
        closed = self._closed()
        if closed and closed % self.context.settings.release_every == 0:
            self._release()

    def _release(self) -> None:
        """Publish the base, and erase the uploads that led to it."""
        try:
            release_publisher.release(self.context, self.replica, self.workload)
        except QuorumError:  # too many lack the result, or chunks that they ask for
            self._bring_up_to_date()
            release_publisher.release(self.context, self.replica, self.workload)
        for number in self.uploads.rounds():
            self.uploads.forget(number)

    def _bring_up_to_date(self, *, then_opens: bool = False) -> list[str]:
        """Wait for nodes, and send them what they lack; returns those that are there.

        Where a round opens next, a log that all have cosigned as it is waits for the
        opening, with which nodes hand in their entries; before a release they have to
        do so here.
        """
        present = self.context.tracker.wait_for_nodes(
            members=self.context.publisher.state.active
        )
        bring_up_to_date(self.responder, present, then_opens=then_opens)
        return present

    def _closed(self) -> int:
        return sum(row.status == "closed" for row in self.context.journal.rounds())

    def _recover(self) -> None:
        """Replay the closed rounds of this run, and abort the one that was open.

        Raises:
            ConfigError: A round of another run is open; its folder alone knows whose
                sum may be known.
        """
        run_id = self.context.settings.run_id
        end_lost_round(self.context.directory, self.context.publisher)
        for closed in self.context.publisher.state.closed:
            if closed.run_id != run_id:
                continue  # its journal is in the folder of that run
            (entry,) = self.context.log.entries(closed.index, closed.index + 1)
            body = event_of(entry)
            if not isinstance(body, RoundClosed):
                raise InconsistentLog(
                    f"entry {closed.index} of the log is {body.type}, want"
                    f" {RoundClosed.type}",
                    code="closing-entry-missing",
                )
            self._replay(body)
        current = self.context.publisher.state.open_round
        if current is not None:
            number, other = current.manifest.round_number, current.manifest.run_id
            if other != run_id:
                raise ConfigError(
                    f"round {number} of run {other!r} is open in the log; end that run"
                    f" in its own folder, and bring its log here for run {run_id!r}",
                    code="run-unfinished",
                )
            survivors = self.context.journal.survivors(number)
            self._abort(None, "coordinator_restarted", survivors)
        for row in self.context.journal.rounds():
            if row.status == "open":
                self._give_up(row.number)

    def _replay(self, closed: RoundClosed) -> None:
        number, journal = closed.round_number, self.context.journal
        result = Result.decode(journal.result(number))
        if closed.outcome == "applied":
            manifest = RoundManifest.decode(journal.row(number).manifest)
            self.replica = self.replica.after(
                journal.load_sum(number),
                survivors=len(result.transcript.uploads),
                manifest=manifest,
                layout=self.workload.layout(manifest.training),
            )
        here = (self.replica.digest, self.replica.release_digest)
        if here != (closed.base_after, closed.release_digest):
            raise VerificationError(
                f"replaying round {number} gives base {self.replica.digest}, the log"
                f" says {closed.base_after}; put the base, journal.db and sums/ back",
                code="replica-differs",
            )
        journal.settle(number, "closed")

    def _try_round(self) -> None:
        """Run a round; one that fails is aborted, and several in a row end the run.

        Raises:
            QuorumError: Several rounds in a row failed.
            PolicyError: So many nodes refuse for good that no cohort is left.
            RuleError, ConfigError: No such round is possible; waiting does not help.
        """
        outcome = RoundOutcome()
        try:
            self._round(outcome)
        except InconsistentLog:
            raise
        except (QuorumError, ProtocolError, VerificationError, RuleError) as error:
            current = self.context.publisher.state.open_round
            if isinstance(error, RuleError) and current is None:
                raise
            self._fail(error, outcome, None if current is None else current.manifest)
        else:
            self._failures, self._opened = 0, False

    def _fail(
        self, error: TapestryError, outcome: RoundOutcome, plan: RoundManifest | None
    ) -> None:
        """Abort a round; raise if no other round of the run can succeed."""
        said = str(error)
        if plan and outcome.refused:
            reasons = in_words(outcome.refused, asked=len(plan.participants))
            said = f"round {plan.round_number}: {reasons}; {error}"
        _logger.warning("aborting the round at stage %s: %s", outcome.stage, said)
        self._abort(outcome.stage, reason_of(error, outcome), outcome.survivors)
        for name in outcome.bad_dealers:
            _logger.warning("leaving node %s out of the run: bad shares", name)
            self.context.journal.leave_out(name, "bad_shares")
        self._failures += 1
        self._opened |= plan is not None
        if plan is None:  # status says so at once
            self.context.notify({"stage": "round", "waits": said})
        if plan and lacks_base(outcome.refused, plan):
            said = (
                f"no member keeps its base, {self.context.settings.base}"
                f" ({plan.model_digest}), any more; plan another run from the newest"
                f" approved release; {said}"
            )
        if plan and end_the_run(outcome.refused, plan):
            raise PolicyError(f"the run ends: {said}", code="plan-refused") from error
        if self._failures >= _FAILURES:
            if self._opened:  # otherwise it cost nothing, and is tried again later
                said = f"the run ends after {_FAILURES} failed rounds in a row: {said}"
            raise QuorumError(
                said,
                code="rounds-failed" if self._opened else "nodes-too-few",
            ) from error

    def _round(self, outcome: RoundOutcome) -> None:
        present = self._bring_up_to_date(then_opens=True)
        manifest = plan_round(
            self.context.settings,
            self.context.publisher.state,
            present=self._able(present),
            round_number=self._next_number(),
            start=self._start,
        )
        journal = self.context.journal
        journal.open_round(manifest.round_number, manifest.encode())
        self.context.publisher.append_event(RoundOpened(manifest=manifest))
        self._tell(manifest, {"round_stage": RoundStage.OPEN})
        context = RoundContext(
            grid=self.context.grid,
            deadlines=self.context.settings.deadlines,
            checkpoint=self.context.publisher.publish(present),
            approve=self.context.publisher.approve,
            register=self.context.publisher.add,
            keep=partial(self.uploads.keep, manifest.round_number),
            ask_consent=partial(
                self.context.journal.ask_consent, manifest.round_number
            ),
            notify=self.context.notify,
        )
        self.context.tracker.show_held_out(present)
        total = rounds.run(manifest, context, outcome=outcome)
        self._close_round(manifest, total, outcome)
        self.context.publisher.publish(present)
        self.context.tracker.announce(manifest.round_number)
        self.context.tracker.catch_up(present)
        self.responder.respond(present)

    def _able(self, present: Sequence[str]) -> list[str]:
        """Return those that may take part; who rests or has other software waits."""
        left_out = self.context.journal.left_out()
        allowed = software_of(self.context.publisher.state)
        runs = self.context.tracker.software
        return [
            name
            for name in present
            if name not in left_out | self.context.tracker.rests
            and runs.get(name) in allowed
        ]

    @property
    def _start(self) -> StartingPoint:
        return StartingPoint(
            model_digest=self.replica.digest,
            workload=self.workload,
            gate=self.context.tracker.gate,
        )

    def _next_number(self) -> int:
        """Return one more than the number of the run's last round in the log."""
        last = self.context.publisher.state.last
        return last[1] + 1 if last and last[0] == self.context.settings.run_id else 1

    def _abort(
        self, stage: RoundStage | None, reason: str, survivors: Sequence[str]
    ) -> None:
        """End the open round without a sum; survivors may have consented to one."""
        current = self.context.publisher.state.open_round
        if current is None:
            return
        manifest = current.manifest
        self.context.publisher.append_event(
            end_without_sum(manifest, reason, stage=stage, survivors=survivors)
        )
        self._give_up(manifest.round_number)
        self._tell(manifest, {"text": "aborted"})

    def _give_up(self, number: int) -> None:
        """Mark a round as aborted; its uploads stay masked for good."""
        self.uploads.forget(number)  # first, since a restart repeats this if open
        self.context.journal.settle(number, "aborted")

    def _close_round(
        self, manifest: RoundManifest, total: Unmasked, outcome: RoundOutcome
    ) -> None:
        """Test the sum at the gate, take the step, and log the outcome."""
        outcome.stage = RoundStage.EVALUATE
        self._tell(manifest, {"round_stage": outcome.stage})
        verdict = self.gate.judge(manifest, total, replica=self.replica)
        base = self.replica if verdict.reason else verdict.replica
        result = Result(
            transcript=total.transcript,
            sum_root=total.sum_root,
            model_digest=base.digest,
        )
        self.context.journal.store_sum(manifest.round_number, total.values)
        self.context.journal.store_result(manifest.round_number, result.encode())
        closed = closing_of(manifest, result, outcome, verdict=verdict, base=base)
        self.context.publisher.append_event(closed, refs=closed.commitments)
        self.replica = base
        self.context.journal.settle(manifest.round_number, "closed")
        scores = {"measure": verdict.measure, "scores": verdict.scores}
        news = {**scores, "norm": verdict.norm}
        self._tell(manifest, {"round_stage": RoundStage.CLOSE, **news})

    def _tell(self, manifest: RoundManifest, event: Mapping[str, object]) -> None:
        rounds = {"round": manifest.round_number, "of": self.context.settings.rounds}
        self.context.notify({"stage": "round", **rounds, **event})
