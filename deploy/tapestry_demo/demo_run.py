"""A demo under way: its folder, its scale, and the record of its progress."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tapestry.cli.progress import Progress
from tapestry_coordinator.run_folders import PLAN, run_folder
from tapestry_coordinator.settings import RunSettings
from tapestry_demo import scenario
from tapestry_demo.demo_folder import Record
from tapestry_demo.wire_tap import WireTap

IN_PROCESS, FLOWER = "inprocess", "flower"  # how requests travel


@dataclass(slots=True, kw_only=True)
class DemoRun:
    """A demo under way."""

    out: Path
    scale: scenario.DemoScale
    record: Record
    progress: Progress
    tap: WireTap = field(default_factory=WireTap)
    members: list[scenario.DemoMember] = field(default_factory=list)

    @property
    def engine(self) -> str:
        """The way in which requests travel: in this process, or over Flower."""
        return self.record.engine

    @property
    def seconds(self) -> dict[str, float]:
        """The seconds that each stage took, over all calls of the program."""
        return self.record.seconds

    @property
    def settings(self) -> RunSettings:
        """The run's plan."""
        return RunSettings.read(self.run_folder / PLAN)

    @property
    def run_folder(self) -> Path:
        """The folder of the demo's one run."""
        return run_folder(self.out / "coordinator", scenario.RUN)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of the work."""
        start = time.monotonic()
        yield
        taken = time.monotonic() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + taken

    def once(self, step: str, act: Callable[[], None]) -> None:
        """Run a step unless an earlier call of the program did; then record it."""
        if step in self.record.done:
            return
        act()
        self.record.done.append(step)
        self.save()

    def save(self) -> None:
        """Write the record of the progress."""
        self.record.tap = self.tap.state()
        self.record.write(self.out)
