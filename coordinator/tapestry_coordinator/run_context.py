"""The state that the steps of one run share: folder, settings, nodes, log."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tapestry.protocol.round_manifest import GateInputs
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.led_log import LedLog
from tapestry_coordinator.log_publisher import LogPublisher
from tapestry_coordinator.node_tracker import NodeTracker
from tapestry_coordinator.round import Notify
from tapestry_coordinator.settings import RunSettings
from tapestry_governance.log.writer import Log


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The parts that every step of a run may use, also after its last round.

    The model is not among them: between two runs none is loaded, and a step that needs
    it takes it as an argument.
    """

    directory: Path  # of the coordinator
    settings: RunSettings
    grid: Grid  # refuses replies that are no messages
    trust: bytes  # the trust policy's file
    log: Log
    journal: Journal
    publisher: LogPublisher
    tracker: NodeTracker
    notify: Notify

    @classmethod
    def over(
        cls,
        log: LedLog,
        directory: Path,
        *,
        settings: RunSettings,
        journal: Journal,
        gate: GateInputs,
        notify: Notify,
    ) -> Self:
        """Join the parts of a run over an open log."""
        tracker = NodeTracker(
            settings=settings,
            grid=log.members,
            publisher=log.publisher,
            journal=journal,
            directory=directory,
            gate=gate,
        )
        return cls(
            directory=directory,
            settings=settings,
            grid=log.members,
            trust=log.trust,
            log=log.publisher.log,
            journal=journal,
            publisher=log.publisher,
            tracker=tracker,
            notify=notify,
        )
