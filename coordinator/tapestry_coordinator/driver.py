"""A run: rounds, releases and adapters, across restarts.

``main`` works in a coordinator's folder and finishes its run, whatever was done
already: the log says what is decided, the journal what was under way. A round that
was open when a coordinator died is aborted in the log, and the run goes on with the
next number, since whoever uploaded joins no second attempt.
"""

import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tapestry.config import CoordinatorSettings, number
from tapestry.encoding import canonical_json, encode_fraction
from tapestry.errors import ProtocolError, QuorumError, TapestryError
from tapestry.keys import SigningKey
from tapestry.low_rank import round_seed
from tapestry.protocol import (
    Kind,
    Message,
    Participant,
    RoundManifest,
    recommended_threshold,
)
from tapestry.replica import Replica
from tapestry.secagg.chunks import cut
from tapestry.secagg.messages import Result
from tapestry.secagg.unmasking import Unmasked
from tapestry.software import software_digest
from tapestry.workloads import Workload
from tapestry.workloads.bases import open_base
from tapestry_coordinator import publishing
from tapestry_coordinator import round as rounds
from tapestry_coordinator.bulletin import Bulletin
from tapestry_coordinator.evaluating import bits_per_byte, mean_of, read_held_out
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.round import Attendance, Notify, Table
from tapestry_governance.events import (
    Dropped,
    RoundAborted,
    RoundClosed,
    RoundOpened,
    roster_digest,
)
from tapestry_governance.log import Log
from tapestry_governance.trust import Trust

_logger = logging.getLogger(__name__)
PROGRESS = "progress.jsonl"
_PATIENCE = 0.5  # seconds between looks for nodes
_FAILURES = 5  # aborted rounds in a row after which the run stops


def _scribe(path: Path) -> Notify:
    """Write events where another process can follow them."""

    def notify(event: dict[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    return notify


def main(
    directory: Path,
    grid: Grid,
    *,
    workload: Workload | None = None,
    replica: Replica | None = None,
    notify: Notify | None = None,
) -> None:
    """Finish the run of a coordinator's folder.

    Args:
        directory: Holds ``coordinator.toml``, ``policy.txt``, ``keys/``, ``log/``
            and ``held-out/``.
        grid: The nodes.
        workload: The given base, loaded; opened from settings if absent.
        replica: The given base's parameters, if they were read already.
        notify: Told how far the run is; by default ``progress.jsonl`` is written.

    Raises:
        ConfigError, ResourceError: A file or setting is not as it must be.
        QuorumError: Too few nodes for too long.
    """
    settings = CoordinatorSettings.read(directory / "coordinator.toml")
    if workload is None:
        cache = directory / settings.models
        workload = open_base(settings.base, cache=cache)
    run = Run(
        directory,
        grid,
        settings=settings,
        workload=workload,
        notify=notify or _scribe(directory / PROGRESS),
    )
    try:
        run.finish(replica)
    finally:
        run.close()


class Run:
    """One run of one coordinator."""

    def __init__(
        self,
        directory: Path,
        grid: Grid,
        *,
        settings: CoordinatorSettings,
        workload: Workload,
        notify: Notify,
    ) -> None:
        """Open log and journal."""
        self.directory, self.settings, self.grid = directory, settings, grid
        self.workload, self.notify = workload, notify
        self.trust = (directory / "policy.txt").read_bytes()
        log_key = SigningKey.load(directory / "keys" / "log.key")
        self.log = Log.open(directory / "log", key=log_key)
        self.bulletin = Bulletin(
            self.log,
            trust=Trust.parse(self.trust),
            key=SigningKey.load(directory / "keys" / "author.key"),
            grid=grid,
            deadline=settings.deadlines.cosign,
        )
        self.journal = Journal(directory)
        self.held_out = read_held_out(directory / "held-out")
        self.replica = Replica.start({})
        self.applied: dict[str, int] = {}
        self._failures = 0

    def close(self) -> None:
        """Close the databases."""
        self.journal.close()
        self.log.close()

    def finish(self, replica: Replica | None) -> None:
        """Do what is left of the run."""
        self.replica = replica or Replica.start(self.workload.parameters())
        self._recover()
        self.gather(least=len(self.bulletin.state.members))
        self.bulletin.publish(self.grid.nodes())
        while self._closed() < self.settings.rounds:
            self._round()
            if self._closed() and self._closed() % self.settings.release_every == 0:
                publishing.release(self)
        publishing.release(self)
        if self.settings.adapters:
            publishing.collect_adapters(self)
        self.bulletin.publish(self.grid.nodes())

    def _closed(self) -> int:
        return sum(row.status == "closed" for row in self.journal.rounds())

    def _recover(self) -> None:
        """Replay the closed rounds, and abort the one that was open."""
        for closed in self._closed_events():
            row = self._row(closed.round_number)
            if row is None or row.result is None:
                raise ProtocolError(f"the journal lacks round {closed.round_number}")
            if closed.outcome == "applied":
                self._apply(row.manifest, row.result, closed.round_number)
            if self.replica.digest != closed.base_after:
                raise ProtocolError(
                    f"replaying round {closed.round_number} gives "
                    f"{self.replica.digest}, the log says {closed.base_after}"
                )
            self.journal.settle(closed.round_number, "closed")
        if self.bulletin.state.open_round is not None:
            self._abort("restart", "coordinator_restarted")
        for row in self.journal.rounds():
            if row.status == "open":
                self.journal.settle(row.number, "aborted")

    def _closed_events(self) -> list[RoundClosed]:
        from tapestry_coordinator.bulletin import event_of

        events = map(event_of, self.log.entries(0, self.log.size))
        return [e for e in events if isinstance(e, RoundClosed)]

    def _row(self, round_number: int) -> Any:
        rows = {row.number: row for row in self.journal.rounds()}
        return rows.get(round_number)

    def _apply(self, manifest: bytes, result: bytes, round_number: int) -> None:
        decoded = RoundManifest.decode(manifest)
        names = Result.decode(result).transcript.survivors.names
        self.replica = self._after(decoded, self.journal.load_sum(round_number), names)

    def _after(
        self, manifest: RoundManifest, total: Any, names: Iterable[str]
    ) -> Replica:
        order = [p.name for p in manifest.participants]
        return self.replica.after(
            total,
            places=tuple(order.index(name) + 1 for name in names),
            manifest=manifest,
            layout=self.workload.layout(manifest.training),
        )

    def gather(self, *, least: int = 0) -> list[str]:
        """Wait for nodes, learn where they are, and bring them up to date.

        Raises:
            QuorumError: Fewer than the floor came within the offer's deadline.
        """
        end = time.monotonic() + self.settings.deadlines.offer
        names: list[str] = []
        while True:
            names = self.grid.nodes()
            if len(names) >= least or time.monotonic() > end:
                break
            time.sleep(_PATIENCE)
        if len(names) < self.settings.secagg.min_cohort:
            raise QuorumError(
                f"{len(names)} nodes are here, at least "
                f"{self.settings.secagg.min_cohort} are needed"
            )
        hello = Message(kind=Kind.HELLO)
        replies = self.grid.exchange(
            dict.fromkeys(names, hello), deadline=self.settings.deadlines.cosign
        )
        present = [name for name, reply in replies if self._meet(name, reply)]
        return sorted(present)

    def _meet(self, name: str, reply: Message) -> bool:
        if reply.kind is not Kind.IDENTITY:
            return False
        try:
            body = reply.json()
            self.bulletin.learn_size(name, int(body["size"]))
            self.applied[name] = int(body["applied"])
        except (ProtocolError, KeyError, TypeError, ValueError):
            _logger.warning("%s did not say where it is", name)
            return False
        return True

    def _catch_up(self, names: list[str]) -> None:
        for row in self.journal.rounds():
            if row.status == "closed":
                late = [n for n in names if self.applied.get(n, 0) < row.number]
                self._send_result(row.number, late)

    def _send_result(self, round_number: int, names: list[str]) -> None:
        if not names:
            return
        row = self._row(round_number)
        body = {
            "round_number": round_number,
            "checkpoint": self.bulletin.checkpoint.decode(),
            "result": Result.decode(row.result).model_dump(mode="json"),
        }
        request = Message(
            kind=Kind.RESULT,
            body=canonical_json(body),
            attachments=cut(self.journal.load_sum(round_number)),
        )
        waited = self.settings.deadlines.result
        requests = dict.fromkeys(names, request)
        for name, reply in self.grid.exchange(requests, deadline=waited):
            if reply.kind is Kind.RECEIPT:
                self.applied[name] = round_number
            else:
                _logger.warning("%s does not take round %d", name, round_number)

    def _round(self) -> None:
        """Open, run and close one round; an abort is logged and tried anew."""
        present = self.gather(least=len(self.bulletin.state.members))
        self.bulletin.publish(present)
        self._catch_up(present)
        manifest = self._plan(present)
        self.journal.open_round(manifest.round_number, manifest.encode())
        self.bulletin.say(RoundOpened(manifest=manifest))
        attendance = Attendance()
        self._tell(manifest, "open")
        try:
            note = self.bulletin.publish(present)
            table = Table(
                grid=self.grid,
                deadlines=self.settings.deadlines,
                checkpoint=note,
                register=self.bulletin.add,
                notify=self.notify,
            )
            total = rounds.run(manifest, table, attendance=attendance)
        except TapestryError as error:
            _logger.warning("round %d aborted: %s", manifest.round_number, error)
            self._abort(attendance.phase, "quorum_missing")
            self._failures += 1
            if self._failures >= _FAILURES:
                raise QuorumError(
                    f"{_FAILURES} rounds in a row failed: {error}"
                ) from error
            return
        self._failures = 0
        self._close_round(manifest, total, attendance)
        self.bulletin.publish(present)
        self._send_result(manifest.round_number, present)

    def _abort(self, phase: str, reason: str) -> None:
        current = self.bulletin.state.open_round
        if current is None:
            return
        manifest = current.manifest
        self.bulletin.say(
            RoundAborted(
                run_id=manifest.run_id,
                round_number=manifest.round_number,
                attempt=manifest.attempt,
                phase=phase,
                reason=reason,
            )
        )
        self.journal.settle(manifest.round_number, "aborted")
        self._tell(manifest, "aborted")

    def _plan(self, names: list[str]) -> RoundManifest:
        settings, state = self.settings, self.bulletin.state
        round_number = 1 + max((r.number for r in self.journal.rounds()), default=0)
        seed = round_seed(
            settings.run_id, round_number, model_digest=self.replica.digest
        )
        training = settings.training.plan(factor_seed=seed)
        layout = self.workload.layout(training)
        secagg = settings.secagg
        members = state.members
        return RoundManifest(
            protocol="tapestry-secagg/1",
            federation=settings.federation,
            run_id=settings.run_id,
            round_number=round_number,
            attempt=1,
            model_digest=self.replica.digest,
            layout_digest=layout.digest,
            software_digest=software_digest(),
            policy_digest=state.policy.digest,
            roster_digest=roster_digest(state.charter.members),
            participants=tuple(
                Participant(name=name, key=members[name].node)
                for name in names
                if name in members
            ),
            max_colluding=secagg.max_colluding,
            threshold=recommended_threshold(
                len(names), max_colluding=secagg.max_colluding
            ),
            min_cohort=secagg.min_cohort,
            ring_bits=32,
            length=layout.length,
            clip_norm=secagg.clip_norm,
            clip_value=secagg.clip_value,
            scale_bits=secagg.scale_bits,
            weighting="uniform",
            training=training,
            privacy=settings.privacy,
            outer=settings.outer,
            deadlines=settings.deadlines.model_dump(),
            post_quantum=None,
        )

    def _close_round(
        self, manifest: RoundManifest, total: Unmasked, attendance: Attendance
    ) -> None:
        """Gate the sum, step, and log what came of it."""
        names = total.transcript.survivors.names
        self._tell(manifest, "evaluate")
        candidate, reason, norm, scores = self._judge(manifest, total)
        base = candidate if reason is None else self.replica
        result = Result(
            transcript=total.transcript,
            sum_root=total.sum_root,
            model_digest=base.digest,
        )
        self.journal.store_sum(manifest.round_number, total.values)
        self.journal.store_result(manifest.round_number, result.encode())
        metrics = {f"bits_per_byte/{k}": encode_fraction(v) for k, v in scores.items()}
        dropped = sorted(set(attendance.dropped) - set(names))
        closed = RoundClosed(
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
            outcome="applied" if reason is None else "rejected",
            reason=reason,
            included=names,
            dropped=tuple(
                Dropped(name=n, phase=attendance.dropped[n]) for n in dropped
            ),
            commitments=tuple(attendance.commitments[name] for name in names),
            aggregate_digest=total.sum_root,
            base_before=manifest.model_digest,
            base_after=base.digest,
            outer_digest=base.optimizer.digest,
            metrics={**metrics, "mean_norm": encode_fraction(norm)},
        )
        self.bulletin.say(closed, refs=closed.commitments)
        self.replica = base
        self.journal.settle(manifest.round_number, "closed")
        event = {"stage": "round", "round": manifest.round_number, "phase": "close"}
        self.notify({**event, "outcome": closed.outcome, "bits_per_byte": scores})

    def _judge(
        self, manifest: RoundManifest, total: Unmasked
    ) -> tuple[Replica, str | None, float, dict[str, float]]:
        """Try the step; a reason code says why it is not taken."""
        before = self._scores()
        try:
            mean = total.mean()
        except ProtocolError:
            return self.replica, "sum_out_of_range", 0.0, before
        norm = float(np.linalg.norm(mean.astype(np.float64)))
        if norm > number(manifest.outer.max_norm):
            return self.replica, "norm_too_large", norm, before
        names = total.transcript.survivors.names
        candidate = self._after(manifest, total.values, names)
        after = self._evaluate(candidate)
        limit = mean_of(before) + number(manifest.outer.max_loss_increase)
        if not mean_of(after) <= limit:
            return self.replica, "held_out_worse", norm, after
        self.journal.set_fact("scores", canonical_json(_plain(after)).decode())
        return candidate, None, norm, after

    def _scores(self) -> dict[str, float]:
        """Scores of the current base, remembered between rounds."""
        key = f"scores {self.replica.digest}"
        known = self.journal.facts().get(key)
        if known is not None:
            from tapestry.encoding import decode_json

            return {k: number(v) for k, v in decode_json(known.encode()).items()}
        return self._evaluate(self.replica)

    def _evaluate(self, replica: Replica) -> dict[str, float]:
        self.workload.load(replica.parameters)
        scores = bits_per_byte(
            self.workload,
            self.held_out,
            sequence_length=self.settings.training.sequence_length,
        )
        text = canonical_json(_plain(scores)).decode()
        self.journal.set_fact(f"scores {replica.digest}", text)
        return scores

    def _tell(self, manifest: RoundManifest, phase: str) -> None:
        event = {"stage": "round", "round": manifest.round_number, "phase": phase}
        self.notify({**event, "of": self.settings.rounds})


def _plain(scores: dict[str, float]) -> dict[str, str]:
    return {name: encode_fraction(value) for name, value in scores.items()}
