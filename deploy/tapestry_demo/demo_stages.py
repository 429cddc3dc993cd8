"""The stages of the demo: preparation, rounds, collection, audit, evaluation."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from tapestry.errors import ConfigError
from tapestry.model.replica import Replica
from tapestry.workloads.language.base_models import open_base
from tapestry.workloads.language.dialogue import Dialogue
from tapestry.workloads.language.public_text import FILE as HELD_OUT
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_coordinator.audit_bundle import collect_bundle
from tapestry_coordinator.run_folders import HELD_OUT as GATE_DATA
from tapestry_coordinator.run_folders import run_folder
from tapestry_demo import corpora, local_federation, scenario
from tapestry_demo.cross_evaluation import fill
from tapestry_demo.demo_run import FLOWER, DemoRun
from tapestry_demo.report.data import RunFigures
from tapestry_demo.report.summary import summarize
from tapestry_demo.runners import run_flower, run_in_process
from tapestry_governance.audit.privacy_statement import write_statements
from tapestry_governance.cli.folder_checks import audited
from tapestry_governance.events.federation_events import GivenBase

_CANARIES = 20  # pieces of private text of each country to look for on the wire
_HELD_OUT = 12  # dialogues of each country, about


def run_demo(demo: DemoRun) -> RunFigures:
    """Run all stages that are not done yet, and return the figures of the report.

    Raises:
        TapestryError: A stage failed, or the bundle does not verify. Then there is no
            report, and the kind of error is the kind of verdict.
    """
    with demo.stage("prepare"):
        demo.progress({"stage": "prepare", "text": "reading the base"})
        workload = open_base(demo.scale.base)
        workload.check_private()  # before anything is prepared for it
        given = Replica.start(workload.given)
        check_base(demo, given)
        demo.members = [member_of(demo.out, country) for country in corpora.COUNTRIES]
        demo.once("prepare", partial(prepare, demo, given))
    demo.once("rounds", partial(_run, demo, workload, given))
    demo.once("collect", partial(_collect, demo))
    audit = audited(demo.out / "bundle", trust=None)
    matrix, samples = fill(demo, workload=workload, given=given)
    demo.progress({"stage": "report", "text": "writing"})
    write_statements(audit.state, demo.out / "privacy")
    return summarize(demo, matrix=matrix, samples=samples, tap=demo.tap, audit=audit)


def check_base(demo: DemoRun, given: Replica) -> None:
    """Require that a demo goes on from the base that it began with."""
    known = demo.record.base_digest
    if known not in ("", given.digest):
        raise ConfigError(
            f"base {demo.scale.base} is {given.digest} now; {demo.out} was begun on"
            f" {known}: put that one back, or begin again in another folder",
            code="demo-base-differs",
        )
    demo.record.base_digest = given.digest


def _run(demo: DemoRun, workload: LanguageWorkload, given: Replica) -> None:
    """Run rounds and adapters, or what is left of them."""
    if demo.engine == FLOWER:
        run_flower(demo.out, seconds=demo.seconds, notify=demo.progress)
        return
    demo.tap.wanted = choose_canaries([member.name for member in demo.members])
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


def prepare(demo: DemoRun, given: Replica) -> None:
    """Found the federation anew, over the files of an interrupted call."""
    _remove(demo.out, "text", "coordinator", "nodes")
    for country in corpora.COUNTRIES:
        demo.progress({"stage": "prepare", "text": f"text of {country}"})
        place = demo.out / "text" / country
        corpora.prepare(country, place, longest=scenario.LONGEST)
    base = GivenBase(model=given.digest, parameters=given.manifest.parameters)
    founding = scenario.founding(demo.scale, demo.members, base=base)
    demo.record.genesis = local_federation.found(demo.out, founding)
    _spread_held_out(demo.out, [m.name for m in demo.members])


def member_of(out: Path, country: str) -> scenario.DemoMember:
    """Return the institution of a country, with the number of its records."""
    return scenario.DemoMember(
        name=country,
        country=country,
        data=out / "text" / country / "private",
        records=sum(map(len, _private(country).values())),
    )


def _private(country: str) -> dict[str, tuple[Dialogue, ...]]:
    return corpora.load(country, longest=scenario.LONGEST).private


def choose_canaries(countries: Sequence[str]) -> tuple[bytes, ...]:
    """Choose the longest private turns of each country that no public text holds."""
    loaded = [corpora.load(name, longest=scenario.LONGEST) for name in countries]
    public = "\n".join(turn for each in loaded for turn in _turns(each.held_out))
    chosen: list[str] = []
    for each in loaded:
        turns = set(_turns(each.private))
        own = sorted((t for t in turns if t not in public), key=lambda t: (-len(t), t))
        chosen += own[:_CANARIES]
    return tuple(turn.encode() for turn in chosen)


def _turns(dialogues: Mapping[str, Sequence[Dialogue]]) -> Iterator[str]:
    """List each turn of all topics."""
    return (turn for rows in dialogues.values() for each in rows for turn in each.turns)


def _spread_held_out(out: Path, names: Sequence[str]) -> None:
    """Give coordinator and nodes some public text; delete the folder of all text."""
    gate = run_folder(out / "coordinator", scenario.RUN) / GATE_DATA
    gate.mkdir()
    for name in names:
        source = out / "text" / name / "held-out.jsonl"
        lines = source.read_text("utf-8").rstrip("\n").split("\n")
        text = "\n".join(lines[:: max(1, len(lines) // _HELD_OUT)]) + "\n"
        for place in (gate / f"{name}.jsonl", out / "nodes" / name / HELD_OUT):
            place.write_text(text, "utf-8")
    shutil.rmtree(out / "text")


def _collect(demo: DemoRun) -> None:
    """Copy the public artifacts to the demo's folder, and write the audit bundle."""
    _remove(demo.out, "releases", "adapters", "bundle")
    coordinator = demo.out / "coordinator"
    for name in ("releases", "adapters"):
        if (coordinator / name).exists():
            shutil.copytree(
                coordinator / name, demo.out / name, copy_function=link_or_copy
            )
    collect_bundle(coordinator, demo.out / "bundle")


def link_or_copy(source: str, target: str) -> None:
    """Link a file, or copy it where the file system has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _remove(out: Path, *names: str) -> None:
    """Remove the unfinished files of an earlier call."""
    for name in names:
        if (out / name).exists():
            shutil.rmtree(out / name)
