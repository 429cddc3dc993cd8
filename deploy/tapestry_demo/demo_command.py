"""The work of ``tapestry demo``: four institutions on one machine.

Four institutions with private text in four languages train one base under secure
aggregation and differential privacy, grow an adapter per country, and leave a folder
that an auditor can check. Every figure of the report comes from this run.
"""

import os
import shlex
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from tapestry.cli import console
from tapestry.cli.progress import ProgressEvent, live
from tapestry.errors import ConfigError, ResourceError
from tapestry_coordinator.superlink.config_files import check_home
from tapestry_coordinator.superlink.service_process import HOME
from tapestry_demo import scenario
from tapestry_demo.demo_folder import (
    FINISHED,
    Record,
    check_space,
    claim_begun,
    claim_new,
    free_folder,
    unfinished_folder,
)
from tapestry_demo.demo_run import FLOWER, IN_PROCESS, DemoRun
from tapestry_demo.demo_stages import run_demo
from tapestry_demo.interrupts import interruptible
from tapestry_demo.report.page import write_report
from tapestry_demo.shell_command import command
from tapestry_demo.wire_tap import WireTap

_DEFAULT = "smollm2"
_THREADS = 1024  # at most
_SMALLEST = 256 << 20  # bytes on disk, whatever the base
_NEEDED = {"smollm2": 3 << 30, "tiny": _SMALLEST}
_COPIES = 10  # of a base's files: releases, cache and sums, in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The options of the command line; None is the default, or as the demo began."""

    engine: str | None = None  # how requests travel; in this process by default
    base: str | None = None  # a name or folder; SmolLM2 by default
    threads: int = 0  # of torch; 0 for all cores
    references: bool = False  # train centrally as well


def start_or_resume(out: Path | None, options: DemoOptions, *, resume: bool) -> None:
    """Run the demo with a view of its progress, and print its results.

    Without ``out`` it takes the next free folder, or the last unfinished one.

    Raises:
        ConfigError: The folder is in use or holds no demo, or a setting is wrong.
        ResourceError: A package, a port or space on the disk is missing.
        TapestryError: A stage of the demo failed.
        KeyboardInterrupt: The user stopped the demo.
    """
    if not 0 <= options.threads <= _THREADS:
        raise ConfigError(
            f"--threads {options.threads} is not a number from 0 to {_THREADS}",
            code="setting-out-of-range",
        )
    threads = options.threads or usable_cores()
    if resume:
        _go_on(out or unfinished_folder(), options, threads=threads)
    else:
        record = Record(
            engine=options.engine or IN_PROCESS,
            base=spelled_base(options.base or _DEFAULT),
            references=options.references,
        )
        _begin(out or free_folder(), record, threads=threads)


def _begin(out: Path, record: Record, *, threads: int) -> None:
    """Start a demo in a folder; a demo that fails at once leaves no folder."""
    if record.engine == FLOWER:
        check_home(out / "coordinator" / HOME)
    check_space(out, needed=needed_bytes(record.base))
    with claim_new(out) as claim:
        try:
            record.write(out)
            _work(out, record, threads=threads)
        except Exception:
            if "prepare" not in record.done:
                claim.withdraw()
            raise


def _go_on(out: Path, options: DemoOptions, *, threads: int) -> None:
    """Go on with a demo that was stopped."""
    with claim_begun(out) as record:
        record.references = record.references or options.references
        for option, given, begun in (
            ("engine", options.engine, record.engine),
            ("base", spelled_base(options.base) if options.base else None, record.base),
        ):
            if given not in (None, begun):
                raise ConfigError(
                    f"{out} was begun with --{option} {begun}, not {given}: leave"
                    f" --{option} out, or begin again in another folder",
                    code="demo-option-differs",
                )
        if FINISHED in record.done:
            console.say(f"{out} is finished; there is nothing left to do")
            _print_next_steps(out)
        else:
            _work(out, record, threads=threads)


def _work(out: Path, record: Record, *, threads: int) -> None:
    """Run the stages that are left; where that stops, print how to go on."""
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
                figures = run_demo(demo)
                write_report(figures, out)
                demo.once(FINISHED, lambda: None)
        except BaseException:
            if stop.requested or "prepare" in record.done:
                with suppress(ResourceError):  # then the last state is good enough
                    record.write(out)
                _say_how_to_go_on(out)
            stop.check()  # an interruption may have become another error on its way
            raise
    taken, memory = time.monotonic() - started, figures.peak_rss_mb or 0.0
    console.say(f"done in {taken:.0f} s, peak memory {memory:.0f} MB")
    _print_next_steps(out)


def usable_cores() -> int:
    """Count the cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    return (len(allowed(0)) if allowed else os.cpu_count()) or 1


def spelled_base(base: str) -> str:
    """Spell a base so that every process finds it: a folder by its absolute path."""
    known = base in scenario.SCALES or not Path(base).is_dir()
    return base if known else str(Path(base).absolute())


def needed_bytes(base: str) -> int:
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
