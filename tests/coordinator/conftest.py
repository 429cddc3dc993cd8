"""The given base, built once; and federations that end with their test."""

from collections.abc import Iterator
from contextlib import contextmanager

from tapestry_coordinator import run as driver
from tapestry_coordinator.settings import RunSettings
from tests.support.federation import Federation
from tests.support.federation_fixtures import Found, base, found
from tests.support.operated_adapters import settled

__all__ = ["Found", "base", "found", "opened_run", "settled"]


@contextmanager
def opened_run(federation: Federation) -> Iterator[driver.Run]:
    """Open a coordinator's run over a federation, as a new process would."""
    folder = federation.coordinator
    run = driver.Run(
        folder,
        federation.wire,
        settings=RunSettings.read(federation.run_folder / "run.toml"),
        workload=federation.base.workload,
        notify=federation.events.append,
    )
    try:
        yield run
    finally:
        run.close()
