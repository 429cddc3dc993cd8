"""The demo: the whole story on one machine, on real text and a real model.

Four institutions with private text in four languages train one base under secure
aggregation and differential privacy, grow an adapter per country, and leave a folder
that an auditor can check. Every figure of the report comes from this run.
"""

import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tapestry.cli import console
from tapestry.cli.progress import Progress, ProgressEvent, live
from tapestry.errors import ConfigError, ResourceError
from tapestry.model.replica import Replica
from tapestry.settings import CoordinatorSettings
from tapestry.workloads.language.base_models import open_base
from tapestry.workloads.language.dialogue import Dialogue
from tapestry.workloads.language.public_text import FILE as HELD_OUT
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_coordinator.spot_check_responder import EVIDENCE
from tapestry_coordinator.superlink.config_files import check_home
from tapestry_demo import corpora, local_federation, scenario
from tapestry_demo.cross_evaluation import fill
from tapestry_demo.demo_folder import (
    FINISHED,
    Record,
    check_space,
    claim_begun,
    claim_new,
    free_folder,
    unfinished_folder,
)
from tapestry_demo.interrupts import interruptible
from tapestry_demo.report.page import write_report
from tapestry_demo.report.summary import summarize
from tapestry_demo.runners import ENGINE_FOLDER, run_flower, run_in_process
from tapestry_demo.shell_command import command
from tapestry_demo.wire_tap import WireTap
from tapestry_governance.audit.bundle import add_sums, write_bundle
from tapestry_governance.audit.statement_files import write_statements
from tapestry_governance.cli.folder_checks import audited

IN_PROCESS, FLOWER = "inprocess", "flower"  # how requests travel
SLIM = ".slim"  # releases on their way into the bundle
_DEFAULT = "smollm2"
_THREADS = 1024  # at most
_CANARIES = 20  # pieces of private text of each country to look for on the wire
_HELD_OUT = 12  # dialogues of each country, about
_SMALLEST = 256 << 20  # bytes on disk, whatever the base
_NEEDED = {"smollm2": 3 << 30, "tiny": _SMALLEST}
_COPIES = 10  # of a base's files: releases, cache and sums, in float32


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
        """How requests travel."""
        return self.record.engine

    @property
    def seconds(self) -> dict[str, float]:
        """How long each piece of the work took, over all calls."""
        return self.record.seconds

    @property
    def settings(self) -> CoordinatorSettings:
        """The run's plan."""
        return CoordinatorSettings.read(self.out / "coordinator" / "coordinator.toml")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a piece of the work."""
        start = time.monotonic()
        yield
        taken = time.monotonic() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + taken

    def once(self, step: str, act: Callable[[], None]) -> None:
        """Take a step unless an earlier call of the program did; remember it."""
        if step in self.record.done:
            return
        act()
        self.record.done.append(step)
        self.save()

    def save(self) -> None:
        """Write down how far this came."""
        self.record.tap = self.tap.state()
        self.record.write(self.out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line asks of a demo; None: the default, or as it was begun."""

    engine: str | None = None  # how requests travel; in this process by default
    base: str | None = None  # a name or folder; SmolLM2 by default
    threads: int = 0  # of torch; 0 for all cores
    references: bool = False  # train centrally as well


def show(out: Path | None, wishes: Wishes, *, resume: bool) -> None:
    """Run the demo with a view of its progress, and say what it left.

    Args:
        out: The folder; by default the next free one, or the last unfinished one.
        wishes: How to run it.
        resume: Go on with a demo that was stopped.

    Raises:
        ConfigError: The folder is in use or no demo's, or a setting is wrong.
        ResourceError: The machine lacks something.
        KeyboardInterrupt: It was stopped.
    """
    if not 0 <= wishes.threads <= _THREADS:
        raise ConfigError(
            f"--threads {wishes.threads} is not a number from 0 to {_THREADS}"
        )
    threads = wishes.threads or _cores()
    if resume:
        _go_on(out or unfinished_folder(), wishes, threads=threads)
    else:
        record = Record(
            engine=wishes.engine or IN_PROCESS,
            base=_named(wishes.base or _DEFAULT),
            references=wishes.references,
        )
        _begin(out or free_folder(), record, threads=threads)


def _begin(out: Path, record: Record, *, threads: int) -> None:
    """Start a demo in a folder; one that fails at once leaves no folder."""
    if record.engine == FLOWER:
        check_home(out / ENGINE_FOLDER)
    check_space(out, needed=_needed(record.base))
    with claim_new(out) as claim:
        try:
            record.write(out)
            _work(out, record, threads=threads)
        except Exception:
            if "prepare" not in record.done:
                claim.withdraw()
            raise


def _go_on(out: Path, wishes: Wishes, *, threads: int) -> None:
    """Go on with a demo that was stopped."""
    with claim_begun(out) as record:
        record.references = record.references or wishes.references
        for option, given, begun in (
            ("engine", wishes.engine, record.engine),
            ("base", _named(wishes.base) if wishes.base else None, record.base),
        ):
            if given not in (None, begun):
                raise ConfigError(
                    f"{out} was begun with --{option} {begun}, not {given}: leave"
                    f" --{option} out, or begin again in another folder"
                )
        if FINISHED in record.done:
            console.say(f"{out} is finished; there is nothing left to do")
            _print_next_steps(out)
        else:
            _work(out, record, threads=threads)


def _work(out: Path, record: Record, *, threads: int) -> None:
    """Do what is left of a demo; say how to go on where it stops."""
    started = time.monotonic()
    torch.set_num_threads(threads)
    tap = WireTap.restore(record.tap)
    with interruptible() as stop:
        try:
            with live(f"Four institutions train one base; results go to {out}") as show:

                def progress(event: ProgressEvent) -> None:
                    stop.check()
                    show(event)

                demo = DemoRun(
                    out=out,
                    scale=scenario.scale_of(record.base),
                    record=record,
                    progress=progress,
                    tap=tap,
                )
                data = run_demo(demo)
                write_report(data, out)
                demo.once(FINISHED, lambda: None)
        except BaseException:
            if stop.requested or "prepare" in record.done:
                with suppress(ResourceError):  # then the last state is good enough
                    record.write(out)
                _say_how_to_go_on(out)
            stop.check()  # whatever an interruption made of itself on its way here
            raise
    taken, memory = time.monotonic() - started, data["peak_rss_mb"]
    console.say(f"done in {taken:.0f} s, peak memory {memory:.0f} MB")
    _print_next_steps(out)


def run_demo(demo: DemoRun) -> dict[str, Any]:
    """Do it all, and return the numbers.

    Raises:
        TapestryError: Something failed, or the bundle does not verify: then there is
            no report, and the kind of error is the kind of verdict.
    """
    with demo.stage("prepare"):
        demo.progress({"stage": "prepare", "text": "reading the base"})
        workload = open_base(demo.scale.base, coarse_evaluation=True)
        workload.check_private()  # before anything is prepared for it
        given = Replica.start(workload.parameters())
        _check_base(demo, given)
        demo.members = [_member(demo.out, country) for country in corpora.COUNTRIES]
        demo.once("prepare", partial(_prepare, demo, given))
    demo.once("rounds", partial(_run, demo, workload, given))
    demo.once("collect", partial(_collect, demo))
    audit = audited(demo.out / "bundle", trust=None)
    matrix, samples = fill(demo, workload=workload, given=given)
    demo.progress({"stage": "report", "text": "writing"})
    write_statements(audit, demo.out / "privacy")
    return summarize(demo, matrix=matrix, samples=samples, tap=demo.tap, audit=audit)


def _check_base(demo: DemoRun, given: Replica) -> None:
    """See that a demo goes on from the base that it began with."""
    known = demo.record.base_digest
    if known not in ("", given.digest):
        raise ConfigError(
            f"base {demo.scale.base} is {given.digest} now; {demo.out} was begun on"
            f" {known}: put that one back, or begin again in another folder"
        )
    demo.record.base_digest = given.digest


def _run(demo: DemoRun, workload: LanguageWorkload, given: Replica) -> None:
    """Run rounds and adapters, or what is left of them."""
    if demo.engine == FLOWER:
        run_flower(demo.out, seconds=demo.seconds, notify=demo.progress)
        return
    demo.tap.wanted = _canaries([member.name for member in demo.members])
    try:
        run_in_process(
            demo.out,
            workload=workload,
            given=given,
            tap=demo.tap,
            seconds=demo.seconds,
            notify=demo.progress,
        )
    finally:
        demo.record.tap = demo.tap.state()


def _prepare(demo: DemoRun, given: Replica) -> None:
    """Found the federation; what an interrupted call left of it is made anew."""
    _remove(demo.out, "text", "coordinator", "nodes")
    for country in corpora.COUNTRIES:
        demo.progress({"stage": "prepare", "text": f"text of {country}"})
        place = demo.out / "text" / country
        corpora.prepare(country, place, longest=scenario.LONGEST)
    founding = scenario.founding(
        demo.scale, demo.members, base_digest=given.digest, models=Path("models")
    )
    demo.record.genesis = local_federation.found(demo.out, founding)
    _spread_held_out(demo.out, [m.name for m in demo.members])


def _member(out: Path, country: str) -> scenario.DemoMember:
    return scenario.DemoMember(
        name=country,
        country=country,
        data=out / "text" / country / "private",
        records=sum(map(len, _private(country).values())),
    )


def _private(country: str) -> dict[str, tuple[Dialogue, ...]]:
    return corpora.load(country, longest=scenario.LONGEST).private


def _canaries(countries: Sequence[str]) -> tuple[bytes, ...]:
    """The longest private turns of each country that stand in no public text."""
    loaded = [corpora.load(name, longest=scenario.LONGEST) for name in countries]
    public = "\n".join(turn for each in loaded for turn in _turns(each.held_out))
    chosen: list[str] = []
    for each in loaded:
        turns = set(_turns(each.private))
        own = sorted((t for t in turns if t not in public), key=lambda t: (-len(t), t))
        chosen += own[:_CANARIES]
    return tuple(turn.encode() for turn in chosen)


def _turns(dialogues: Mapping[str, Sequence[Dialogue]]) -> Iterator[str]:
    """Each turn of all topics."""
    return (turn for rows in dialogues.values() for each in rows for turn in each.turns)


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


def _collect(demo: DemoRun) -> None:
    """Put what is public where people look, and make the auditor's bundle."""
    _remove(demo.out, "releases", "adapters", "bundle", SLIM)
    coordinator = demo.out / "coordinator"
    for name in ("releases", "adapters"):
        if (coordinator / name).exists():
            shutil.copytree(
                coordinator / name, demo.out / name, copy_function=_link_or_copy
            )
    artifacts = {
        f"{path.name}": path for path in sorted((demo.out / "adapters").glob("*"))
    }
    with _slim_releases(demo.out) as releases:
        write_bundle(
            demo.out / "bundle",
            public=coordinator / "log" / "public",
            trust=(coordinator / "trust-policy.txt").read_bytes(),
            genesis=demo.record.genesis,
            artifacts=artifacts | releases,
        )
    evidence = sorted((coordinator / EVIDENCE).glob("*"))
    add_sums(demo.out / "bundle", {int(path.name): path for path in evidence})


@contextmanager
def _slim_releases(out: Path) -> Iterator[dict[str, Path]]:
    """Releases without their weights: the bundle names them by digest."""
    draft = out / SLIM
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


def _remove(out: Path, *names: str) -> None:
    """Remove what an earlier call left half done."""
    for name in names:
        if (out / name).exists():
            shutil.rmtree(out / name)


def _cores() -> int:
    """Count the cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    return (len(allowed(0)) if allowed else os.cpu_count()) or 1


def _named(base: str) -> str:
    """Spell a base so that every process finds it: a folder by its absolute path."""
    known = base in scenario.SCALES or not Path(base).is_dir()
    return base if known else str(Path(base).absolute())


def _needed(base: str) -> int:
    """Estimate how many bytes a demo takes on disk."""
    files = Path(base).glob("*.safetensors")
    return _NEEDED.get(base) or _SMALLEST + _COPIES * sum(
        f.stat().st_size for f in files
    )


def _say_how_to_go_on(out: Path) -> None:
    words = command("demo", "--out", out, "--resume")
    console.note(f"what is done is kept in {out}; go on with: {words}")


def _print_next_steps(out: Path) -> None:
    console.say(f"report    {shlex.quote(str(out / 'report.html'))}")
    console.say(f"check it  {command('audit', 'verify', out / 'bundle')}")
    releases = sorted((out / "releases").glob("base-*"))
    adapters = sorted((out / "adapters").glob("*"))
    if releases and adapters:
        words = ("--base", releases[-1], "--adapter", adapters[0])
        console.say(f"talk      {command('chat', *words)}")
