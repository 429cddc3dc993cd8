"""The demo: the whole story on one machine, on real text and a real model.

Four institutions with private text in four languages train one base under secure
aggregation and differential privacy, grow an adapter per country, and leave a folder
that an auditor can check. Every figure of the report comes from this run.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tapestry.cli import console, corpora, federation, plans
from tapestry.cli.engines import run_flower, run_in_process
from tapestry.cli.evidence import Tap
from tapestry.cli.matrix import fill
from tapestry.cli.progress import Progress, live
from tapestry.cli.report import write_report
from tapestry.cli.statements import write_statements
from tapestry.cli.summary import summarize
from tapestry.config import CoordinatorSettings
from tapestry.dialogue import Dialogue
from tapestry.errors import ConfigError, ResourceError
from tapestry.replica import Replica
from tapestry.workloads.architectures import check_architecture
from tapestry.workloads.bases import open_base
from tapestry_coordinator.showing import EVIDENCE
from tapestry_governance.audit import verify
from tapestry_governance.bundle import add_sums, write_bundle
from tapestry_node.publishing import HELD_OUT

IN_PROCESS, FLOWER = "inprocess", "flower"  # how requests travel
_NEEDED = 3 << 30  # bytes on disk
_THREADS = 1024  # at most
_HELD_OUT = 16  # dialogues of each country, about


@dataclass(slots=True, kw_only=True)
class Story:
    """A demo under way."""

    out: Path
    engine: str
    scale: plans.Scale
    progress: Progress
    references: bool = False  # whether to train centrally, too
    seconds: dict[str, float] = field(default_factory=dict)
    members: list[plans.Member] = field(default_factory=list)
    genesis: str = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a piece of the work."""
        start = time.monotonic()
        yield
        taken = time.monotonic() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + taken

    @property
    def settings(self) -> CoordinatorSettings:
        """The run's plan."""
        return CoordinatorSettings.read(self.out / "coordinator" / "coordinator.toml")


def show(out: Path, *, engine: str, base: str, threads: int) -> None:
    """Run the demo with a view of its progress, and say what it left.

    Raises:
        ConfigError: The folder is in use, or a setting is wrong.
        ResourceError: The machine lacks something.
    """
    if not 0 <= threads <= _THREADS:
        raise ConfigError(f"--threads {threads} is not a number from 0 to {_THREADS}")
    _check_folder(out)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    started = time.monotonic()
    with live("Four institutions train one base") as progress:
        story = Story(
            out=out, engine=engine, scale=plans.scale_of(base), progress=progress
        )
        data = tell(story)
        write_report(data, out)
    _say_goodbye(out, data, time.monotonic() - started)


def tell(story: Story) -> dict[str, Any]:
    """Do it all, and return the numbers."""
    with story.stage("prepare"):
        story.progress({"stage": "prepare", "text": "reading the base"})
        workload = open_base(story.scale.base, coarse_evaluation=True)
        check_architecture(workload.module)  # before anything is prepared for it
        given = Replica.start(workload.parameters())
        _prepare(story, given)
    tap = Tap()
    if story.engine == FLOWER:
        run_flower(story.out, seconds=story.seconds, notify=story.progress)
    else:
        run_in_process(
            story.out,
            workload=workload,
            given=given,
            tap=tap,
            seconds=story.seconds,
            notify=story.progress,
        )
    _collect(story)
    matrix, samples = fill(story, workload=workload, given=given)
    story.progress({"stage": "report", "text": "writing"})
    audit = verify(story.out / "bundle")
    write_statements(audit, story.out / "privacy")
    return summarize(story, matrix=matrix, samples=samples, tap=tap, audit=audit)


def _prepare(story: Story, given: Replica) -> None:
    for country in corpora.COUNTRIES:
        story.progress({"stage": "prepare", "text": f"text of {country}"})
        place = story.out / "text" / country
        corpora.prepare(country, place, longest=plans.LONGEST)
    story.members = [_member(story.out, country) for country in corpora.COUNTRIES]
    founding = plans.founding(
        story.scale, story.members, base_digest=given.digest, models=Path("models")
    )
    story.genesis = federation.found(story.out, founding)
    _spread_held_out(story.out, [m.name for m in story.members])


def _member(out: Path, country: str) -> plans.Member:
    return plans.Member(
        name=country,
        country=country,
        data=out / "text" / country / "private",
        records=sum(map(len, _private(country).values())),
    )


def _private(country: str) -> dict[str, tuple[Dialogue, ...]]:
    return corpora.load(country, longest=plans.LONGEST).private


def _spread_held_out(out: Path, names: Sequence[str]) -> None:
    """Give everybody some public text; then forget the preparation's folder."""
    gate = out / "coordinator" / "held-out"
    gate.mkdir()
    for name in names:
        source = out / "text" / name / "held-out.jsonl"
        lines = source.read_text("utf-8").rstrip("\n").split("\n")
        text = "\n".join(lines[:: max(1, len(lines) // _HELD_OUT)]) + "\n"
        for place in (gate / f"{name}.jsonl", out / "nodes" / name / HELD_OUT):
            place.write_text(text, "utf-8")
    shutil.rmtree(out / "text")


def _collect(story: Story) -> None:
    """Put what is public where people look, and make the auditor's bundle."""
    coordinator = story.out / "coordinator"
    for name in ("releases", "adapters"):
        if (coordinator / name).exists():
            shutil.copytree(
                coordinator / name, story.out / name, copy_function=_link_or_copy
            )
    artifacts = {
        f"{path.name}": path for path in sorted((story.out / "adapters").glob("*"))
    }
    with _slim_releases(story.out) as releases:
        write_bundle(
            story.out / "bundle",
            public=coordinator / "log" / "public",
            trust=(coordinator / "policy.txt").read_bytes(),
            genesis=story.genesis,
            artifacts=artifacts | releases,
        )
    evidence = sorted((coordinator / EVIDENCE).glob("*"))
    add_sums(story.out / "bundle", {int(path.name): path for path in evidence})


@contextmanager
def _slim_releases(out: Path) -> Iterator[dict[str, Path]]:
    """Releases without their weights: the bundle names them by digest."""
    draft = out / ".slim"
    found: dict[str, Path] = {}
    for path in sorted((out / "releases").glob("*")):
        shutil.copytree(path / "tapestry", draft / path.name / "tapestry")
        found[path.name] = draft / path.name
    try:
        yield found
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; choose a folder with --out")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; choose another folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot make {out}: {error.strerror}") from error
    free = shutil.disk_usage(out).free
    if free < _NEEDED:
        raise ResourceError(
            f"{free >> 20} MiB free at {out}, {_NEEDED >> 20} are needed"
        )


def _say_goodbye(out: Path, data: dict[str, Any], seconds: float) -> None:
    console.say(f"done in {seconds:.0f} s, peak memory {data['peak_rss_mb']:.0f} MB")
    console.say(f"report    {out / 'report.html'}")
    console.say(f"check it  tapestry audit verify {out / 'bundle'}")
    releases = sorted((out / "releases").glob("base-*"))
    adapters = sorted((out / "adapters").glob("*"))
    if releases and adapters:
        console.say(
            f"talk      tapestry chat --base {releases[-1]} --adapter {adapters[0]}"
        )
