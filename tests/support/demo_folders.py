"""Demos without their training: folders that were begun, members, foundings, runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tapestry.cli.progress import ProgressEvent
from tapestry_coordinator.settings import RunSettings
from tapestry_demo import scenario
from tapestry_demo.demo_folder import Record
from tapestry_demo.demo_run import DemoRun
from tapestry_demo.local_federation import Founding
from tapestry_governance.events.federation_events import GivenBase
from tests.support.federation import write_text
from tests.support.settings_files import merged, run_settings

DIGEST = "sha256:" + "0" * 64


def begun(name: str, *done: str, **fields: Any) -> Path:
    """A folder in which a demo was begun."""
    folder = Path(name)
    folder.mkdir()
    Record(engine="inprocess", base="tiny", done=list(done), **fields).write(folder)
    return folder


def demo_members(
    folder: Path, *, records: Iterable[int] = (200, 400, 300)
) -> list[scenario.DemoMember]:
    """Members with a little text of their own, who declare so many records."""
    return [
        scenario.DemoMember(
            name=name,
            country=name,
            data=write_text(folder / "text", name),
            records=count,
        )
        for name, count in zip(("fi", "fr", "id", "sw"), records, strict=False)
    ]


def demo_founding(
    members: list[scenario.DemoMember],
    *,
    scale: scenario.DemoScale = scenario.SCALES["tiny"],
    base_digest: str = DIGEST,
) -> Founding:
    """What these members agree on."""
    base = GivenBase(model=base_digest, parameters=base_digest)
    return scenario.founding(scale, members, base=base)


def demo_run(
    folder: Path, *, events: list[ProgressEvent] | None = None, **fields: Any
) -> DemoRun:
    """A demo of the tiny base in a folder."""
    return DemoRun(
        out=folder,
        scale=scenario.SCALES["tiny"],
        record=Record(engine="inprocess", base="tiny", **fields),
        progress=(events if events is not None else []).append,
    )


def demo_settings(**changes: Any) -> RunSettings:
    """The plan of a small run, with some settings changed."""
    return RunSettings.model_validate(merged(run_settings(), changes))
