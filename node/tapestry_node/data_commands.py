"""``tapestry node data``: an institution looks at its records, and withdraws some."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, Command, CommandGroup, as_json
from tapestry.cli.exit_status import ExitStatus
from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, TapestryError
from tapestry_node.operator_commands import node_folder, read_folder

if TYPE_CHECKING:
    from tapestry.privacy.accounting import Steps
    from tapestry_node.settings import NodeSettings
    from tapestry_node.training.trainer import FoundData

_SECONDS = 2.0  # between two lines of progress


@click.group(cls=CommandGroup)
def data() -> None:
    """The private data of a node, on its own machine."""


@data.command(cls=Command)
@read_folder
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Steps of the round to be priced; default: of [adapter].",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Records expected in a step; default: of [adapter].",
)
@click.option(
    "--noise-multiplier",
    type=click.FloatRange(min=0, min_open=True),
    metavar="Z",
    help="Noise over clip norm; default: what [adapter] needs for its epsilon.",
)
@as_json
def check(
    folder: Path,
    steps: int | None,
    batch_size: int | None,
    noise_multiplier: float | None,
    as_json: bool,
) -> ExitStatus:
    """Read the data folder as a node would, and tell what is in it.

    Neither federation nor base is needed, and nothing is written or charged. Where the
    base is at hand, tokens are counted. What is told is for this terminal alone. A
    fault names file and line.
    """
    from tapestry.workloads.workload_registry import open_reader, open_survey
    from tapestry_node.folder_check import Findings
    from tapestry_node.settings import NodeSettings
    from tapestry_node.training.trainer import check_data

    settings = NodeSettings.read(folder / "node.toml")
    reader = open_reader(settings.workload)
    if reader is None:
        raise ConfigError(
            f"no reader for the data of workload {settings.workload!r}; install it",
            code="workload-unknown",
        )
    place, manifest = settings.data_in(folder)
    console.note(f"reading {place}")
    findings, watch = Findings(), _Progress().take
    try:
        found = check_data(
            place,
            reader,
            manifest=manifest,
            scratch=folder,
            watch=watch,
            survey=open_survey(
                settings.workload,
                base=settings.base,
                options=settings.adapter.options,
                begin=lambda name: console.note(f"counting {name.replace('_', ' ')}"),
            ),
        )
    except TapestryError as error:
        findings.add_error(error)
        if as_json:
            console.say_json({k: [*map(asdict, v)] for k, v in findings.of.items()})
        else:
            console.say("\n".join(findings.news()))
        return findings.status
    asked = (steps, batch_size, noise_multiplier)
    price = _price(settings, found.records, asked)
    if as_json:
        console.say_json(_as_json(found, price))
    else:
        for label, text in _lines(found, price):
            console.say(f"{label:<10}{text}")
    is_usage = isinstance(price, ConfigError) and any(asked)
    return ExitStatus.USAGE if is_usage else ExitStatus.HOLDS


@data.command(cls=Command)
@node_folder
@click.option(
    "--keys",
    "listed",
    type=PATH,
    metavar="FILE",
    required=True,
    help="The keys (ids) of the persons, one in a line; - for standard input.",
)
@click.option(
    "--plan", is_flag=True, help="Show what rests on them, and withdraw nobody."
)
@click.option(
    "--unknown", is_flag=True, help="Also persons whom no version has, as they wait."
)
@as_json
def withdraw(
    folder: Path, listed: Path, plan: bool, unknown: bool, as_json: bool
) -> None:
    """Train on some persons no more, from now on, also while the node runs.

    The log gets their number with the next version of the data, rounded down. Shown is
    what was trained on their blocks, and what it costs to make it again without them.
    Take their rows out of the folder as well.
    """
    from tapestry_node.data import withdrawal

    done = withdrawal.run(folder, listed, only_plan=plan, unknown=unknown)
    if as_json:
        console.say_json(done.to_json())
        return
    if not plan:
        console.say(f"withdrawn  {done.withdrawn} of {done.listed}; they train no more")
    for label, text in done.plan.lines():
        console.say(f"{label:<9}  {text}")


@data.command(cls=Command)
@node_folder
@as_json
def exchange(folder: Path, as_json: bool) -> None:
    """Say that most persons in the data are others than in the version before.

    A node asks for this where most of them are gone and as many are new. If the column
    of keys was exchanged, or keys are spelled in another way, put that right instead:
    the same persons would have a fresh budget, and only you can know.
    """
    from tapestry_node.data import withdrawal

    withdrawal.say_exchanged(folder)
    if as_json:
        console.say_json({"exchanged": True})
    else:
        console.say("noted: the persons of the next version may all be others")


class _Progress:
    """Tells on standard error how much is read, every two seconds at most."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _SECONDS

    def take(self, done: int, total: int) -> None:
        if done and time.monotonic() >= self._next:
            console.note(f"read {done >> 20} of {total >> 20} MiB")
            self._next = time.monotonic() + _SECONDS


def _steps(
    settings: "NodeSettings",
    records: int,
    asked: tuple[int | None, int | None, float | None],
) -> "Steps | None":
    """Describe the training that is priced: what is asked, the rest as [adapter].

    Edge cases:
        None where [adapter] has no noise and none is asked for: nothing is promised.
    """
    from tapestry.privacy import accounting
    from tapestry_node.data.data_versions import declared_count

    plan = settings.adapter
    steps, batch_size = asked[0] or plan.steps, asked[1] or plan.batch_size
    rate = accounting.sampling_rate(batch_size, records=declared_count(records))
    noise = asked[2]
    if noise is None:
        if plan.noise == "none":
            return None
        noise = accounting.calibrate(
            target_epsilon=decode_decimal(plan.epsilon),
            target_delta=decode_decimal(settings.policy.target_delta),
            sampling_rate=rate,
            steps=steps,
        )
    return accounting.Steps(noise_multiplier=noise, sampling_rate=rate, steps=steps)


def _price(
    settings: "NodeSettings",
    records: int,
    asked: tuple[int | None, int | None, float | None],
) -> dict[str, Any] | ConfigError | None:
    """Price the training, or say why it has no price; the counts stand without it."""
    from tapestry.privacy import accounting

    try:
        steps = _steps(settings, records, asked)
    except ConfigError as error:
        return error
    if steps is None:
        return None
    delta = decode_decimal(settings.policy.target_delta)
    epsilon = accounting.epsilon([steps], target_delta=delta)
    return {**asdict(steps), "epsilon": epsilon, "target_delta": delta}


def _lines(
    found: "FoundData", price: dict[str, Any] | ConfigError | None
) -> Iterator[tuple[str, str]]:
    described = ", ".join([*found.manifest.languages, found.manifest.licence])
    yield "manifest", described
    yield "records", str(found.records)
    if found.summary is not None:
        yield from found.summary.lines()
    for counts in found.counts.values():
        yield from counts.lines()
    if price is None:
        yield "price", "none: [adapter] has no noise; give --noise-multiplier"
        return
    if isinstance(price, ConfigError):
        yield "price", f"none: {price}"
        return
    yield "price", f"epsilon {price['epsilon']:.4f} at delta {price['target_delta']:g}"
    noise, rate = price["noise_multiplier"], price["sampling_rate"]
    yield "", f"{price['steps']} steps, noise multiplier {noise:g}, rate {rate:.6f}"


def _as_json(
    found: "FoundData", price: dict[str, Any] | ConfigError | None
) -> dict[str, Any]:
    refused = isinstance(price, ConfigError)
    return {
        "licence": found.manifest.licence,
        "languages": list(found.manifest.languages),
        "records": found.records,
        "census": None if found.summary is None else found.summary.to_json(),
        **{name: counts.to_json() for name, counts in found.counts.items()},
        "price": None if refused else price,
        "price_refused": str(price) if refused else None,
    }
