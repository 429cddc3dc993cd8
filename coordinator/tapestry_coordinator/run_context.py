"""The state that the steps of one run share: folder, settings, nodes, log."""

from dataclasses import dataclass
from pathlib import Path

from tapestry.workloads.base import Workload
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.log_publisher import LogPublisher
from tapestry_coordinator.node_tracker import NodeTracker
from tapestry_coordinator.round import Notify
from tapestry_coordinator.settings import RunSettings
from tapestry_governance.log.writer import Log


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The parts that every step of a run may use.

    The replica of the model is not among them: it changes with each round, so a step
    that needs it takes it as an argument.
    """

    directory: Path  # of the coordinator
    settings: RunSettings
    workload: Workload
    grid: Grid  # refuses replies that are no messages
    trust: bytes  # the trust policy's file
    log: Log
    journal: Journal
    publisher: LogPublisher
    tracker: NodeTracker
    notify: Notify
