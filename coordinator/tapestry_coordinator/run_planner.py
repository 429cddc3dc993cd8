"""Planning of a run: its settings from a few wishes, and what it costs each member.

The noise is the least that keeps the promise of the institution with the fewest
records, by what members declared, or else by their requests, which round down.

Guarantees:
    A run is queued only if it keeps every member within the policy's epsilon over the
    whole log, and if a first round of it can be planned. The folder of a run that waits
    is whole.
"""

import math
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import tomli_w

from tapestry.encoding import decode_decimal, encode_decimal
from tapestry.errors import ConfigError, RuleError
from tapestry.evaluation.held_out import read_held_out
from tapestry.evaluation.scorer import gate_inputs
from tapestry.html.numbers import SPACE, duration, size
from tapestry.inputs.setting_faults import validated
from tapestry.inputs.setting_values import to_toml
from tapestry.model.replica import Replica
from tapestry.privacy import accounting
from tapestry.protocol.round_manifest import Options, RoundManifest
from tapestry.protocol.stages import SECAGG_STAGES
from tapestry.settings import write_new
from tapestry.storage import durable_files
from tapestry.workloads.base import Workload
from tapestry.workloads.workload_registry import open_workload
from tapestry_coordinator.log_publisher import event_of
from tapestry_coordinator.log_reader import read_settled
from tapestry_coordinator.members_seen import own_limits
from tapestry_coordinator.round_plan import StartingPoint, check_run
from tapestry_coordinator.run_folders import (
    HELD_OUT,
    PLAN,
    QUEUE,
    run_folder,
    unfinished,
    waiting,
)
from tapestry_coordinator.settings import DEADLINES, RunSettings
from tapestry_governance.audit.privacy_accounts import steps_of
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import Admission, CharterAccepted
from tapestry_governance.events.round_events import RoundClosed, RoundOpened
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.kept_releases import MOST_APPROVED, kept_releases

WORKLOAD = "language"
_UPDATE_NORM = 128.0  # of a node's update, L2
_LAST = 5  # closed rounds by which the time of another is estimated


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The decisions of a coordinator about a run."""

    name: str
    base: str
    held_out: Path
    rounds: int
    epsilon: float  # of the run, for the member with the fewest records
    steps: int  # a round
    batch_size: int  # records, on average
    learning_rate: float
    clip_norm: float  # of a record's gradient, L2
    rank: int  # 0: all parameters
    targets: tuple[str, ...]  # empty: chosen from the model
    options: Options


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A run in the queue, and its price."""

    folder: Path
    base: str  # the release with which it begins, or the model
    noise_multiplier: float
    epsilon: Mapping[str, float]  # of the run, by member
    epsilon_after: Mapping[str, float]  # with all that the log has of the member
    cap: float
    refusing: Mapping[str, float]  # members above their own limit, and that limit
    upload: int  # bytes a node sends in a round
    disk: int  # bytes the coordinator keeps of a round until it is released
    rounds: int
    seconds: float | None  # of a round, by such rounds of the log; None: there are none
    most_seconds: int  # of a round, by the deadlines of its stages

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "folder": str(self.folder),
            "base": self.base,
            "noise_multiplier": self.noise_multiplier,
            "epsilon": dict(self.epsilon),
            "epsilon_after": dict(self.epsilon_after),
            "refusing": dict(self.refusing),
            "upload_bytes": self.upload,
            "disk_bytes": self.disk,
            "round_seconds": self.seconds,
            "most_round_seconds": self.most_seconds,
        }

    def lines(self) -> Iterator[str]:
        """Yield it as lines of text."""
        yield f"begins   with {self.base}"
        yield f"noise    multiplier {self.noise_multiplier:.4g}"
        for name, epsilon in self.epsilon.items():
            after = self.epsilon_after[name]
            yield (
                f"epsilon  {name}: {epsilon:.3f}; with what is spent {after:.3f} of"
                f" {self.cap:g}"
            )
        for name, limit in self.refusing.items():
            yield f"refused  by {name}, whose own limit is {limit:g}: without it, then"
        yield f"seconds  {self._time()}"
        yield f"upload   {_spelled(size(self.upload))} from each node in a round"
        kept = _spelled(size(self.disk))
        yield f"disk     {kept} here for each round until its release"
        yield f"queued   {self.folder}"

    def _time(self) -> str:
        most = _spelled(duration(self.most_seconds))
        if self.seconds is None:
            return f"not measured yet; the stages of a round end after {most} at most"
        one, total = self.seconds, self.seconds * self.rounds
        return (
            f"{one:.0f} in a round, {total:.0f} in all, by the last such rounds of the"
            f" log; the stages of a round end after {most} at most"
        )


def _spelled(text: str) -> str:
    """Spell a number and its unit for a terminal of any encoding."""
    return text.replace(SPACE, " ")


def newest_release(directory: Path) -> str:
    """Return the full path of the release that members approved last.

    Raises:
        ConfigError: No release was published, or none is approved yet.
    """
    state, _ = read_settled(directory)
    if not state.standing:
        last = state.released.last
        said = (
            f"{last.name} waits for the members' votes: tapestry governance list shows"
            " them"
            if last
            else "it has published none"
        )
        raise ConfigError(
            f"{directory} has no approved release to start from, {said}; or name the"
            " model, as in --base smollm2",
            code="release-missing",
        )
    return str((directory / "releases" / state.standing[-1]).resolve())


def plan_run(directory: Path, wish: Wish) -> PlannedRun:
    """Plan a run and put it into the queue.

    Raises:
        ConfigError: A setting is invalid, the model or the held-out data do not fit,
            a run of this name is there, or members keep the base no more.
        RuleError: A member would spend more than the policy allows, or too many more
            than they allow themselves.
    """
    place = directory / QUEUE / wish.name
    if place.exists() or run_folder(directory, wish.name).exists():
        raise ConfigError(
            f"{directory} has a run {wish.name!r} already; choose another name",
            code="run-exists",
        )
    state, entries = read_settled(directory)
    records = _records(state, entries)
    noise = _noise(wish, records, state)
    settings = _settings(wish, state, noise)
    workload = open_workload(WORKLOAD, wish.base)
    first = _first_round(settings, state, workload, wish)
    begins = _begins_with(state, first.model_digest) or wish.base
    epsilon, after = _prices(settings, state, records, ahead=_ahead(directory, state))
    cap = decode_decimal(state.policy.epsilon_cap)
    if over := sorted(name for name, value in after.items() if value > cap):
        raise RuleError(
            f"after this run {', '.join(over)} would have spent more than epsilon"
            f" {cap:g}, which the policy allows; plan fewer rounds or steps, or less"
            " --epsilon",
            code="epsilon-above-cap",
        )
    refusing = _refusing(directory, after, state)
    _queue(place, settings, wish)
    return PlannedRun(
        folder=place,
        base=begins,
        noise_multiplier=noise,
        epsilon=epsilon,
        epsilon_after=after,
        cap=cap,
        refusing=refusing,
        rounds=wish.rounds,
        seconds=_measured(first, entries),
        most_seconds=sum(settings.deadlines.of(stage) for stage in SECAGG_STAGES),
        upload=4 * first.length,
        disk=4 * first.length * (len(records) + 1),
    )


def _refusing(
    directory: Path, after: Mapping[str, float], state: FederationState
) -> dict[str, float]:
    """Return the members that will refuse a run by their own limits, as they said.

    Raises:
        RuleError: The others are fewer than a round needs.
    """
    limits = own_limits(directory)
    found = {
        name: limits[name] for name in after if after[name] > limits.get(name, math.inf)
    }
    if len(after) - len(found) < state.policy.min_cohort:
        said = ", ".join(f"{name} (its own limit is {found[name]:g})" for name in found)
        raise RuleError(
            f"this run would be refused by {said}, and a round needs"
            f" {state.policy.min_cohort} of {len(after)} members; plan fewer rounds or"
            " steps, or less --epsilon. Limits are those of the last greetings: one"
            " that was raised since counts when its node has been connected",
            code="epsilon-above-own-limits",
        )
    return found


def _records(state: FederationState, entries: Sequence[bytes]) -> dict[str, int]:
    """Return how many records each member has at least."""
    asked = {
        body.request.name: body.request.records
        for body in map(event_of, entries)
        if isinstance(body, CharterAccepted)
    }
    for ballot in state.ballots.values():
        if isinstance(ballot.proposal, Admission):
            asked[ballot.proposal.request.name] = ballot.proposal.request.records
    return {
        name: known.records if (known := state.data.get(name)) else asked[name]
        for name in sorted(state.active)
    }


def _noise(wish: Wish, records: Mapping[str, int], state: FederationState) -> float:
    """Find the least noise multiplier, rounded up to six digits.

    Raises:
        ConfigError: A member has fewer records than a batch.
    """
    few = [name for name, count in records.items() if count < wish.batch_size]
    if few:
        raise ConfigError(
            f"{', '.join(few)} may have fewer records than a batch of"
            f" {wish.batch_size}; plan with a smaller --batch-size",
            code="batch-above-records",
        )
    fewest = min(records.values())
    noise = accounting.calibrate(
        target_epsilon=wish.epsilon,
        target_delta=decode_decimal(state.policy.max_delta),
        sampling_rate=accounting.sampling_rate(wish.batch_size, records=fewest),
        steps=wish.rounds * wish.steps,
    )
    return math.ceil(noise * 1e6) / 1e6


def _settings(wish: Wish, state: FederationState, noise: float) -> RunSettings:
    policy, norm = state.policy, encode_decimal(_UPDATE_NORM)
    draft = {
        "run_id": wish.name,
        "rounds": wish.rounds,
        "release_every": wish.rounds,
        "base": wish.base,
        "adapters": False,
        "training": _training(wish),
        "privacy": {
            "noise": "local",
            "unit": "record",
            "adjacency": "add-remove",
            "clip_norm": encode_decimal(wish.clip_norm),
            "noise_multiplier": encode_decimal(noise),
            "target_delta": policy.max_delta,
        },
        "secagg": {
            "max_colluding": policy.max_colluding,
            "min_cohort": policy.min_cohort,
            "clip_norm": norm,
            "clip_value": "64",
            "scale_bits": 20,
        },
        "outer": {
            "optimizer": "mean",
            "learning_rate": "1",
            "max_norm": norm,
            "max_loss_increase": "0.05",
        },
        "deadlines": dict(DEADLINES),
    }
    return validated(RunSettings, draft, what="such a run is not possible")


def _training(wish: Wish) -> dict[str, object]:
    shape: dict[str, object] = {"parameterization": "full"}
    if wish.rank:
        shape = {
            "parameterization": "low_rank",
            "rank": wish.rank,
            "targets": wish.targets,
        }
    return {
        **shape,
        "workload": WORKLOAD,
        "steps": wish.steps,
        "batch_size": wish.batch_size,
        "optimizer": "sgd",
        "learning_rate": encode_decimal(wish.learning_rate),
        "weight_decay": "0",
        "options": wish.options,
    }


def _first_round(
    settings: RunSettings, state: FederationState, workload: Workload, wish: Wish
) -> RoundManifest:
    """Plan a first round, with the gate on the held-out data."""
    evaluation = workload.evaluation(settings.training.options)
    held_out = read_held_out(wish.held_out, evaluation)
    start = StartingPoint(
        model_digest=Replica.start(workload.given).digest,
        workload=workload,
        gate=gate_inputs(evaluation, held_out),
    )
    return check_run(settings, state, start=start)


def _begins_with(state: FederationState, base: str) -> str | None:
    """Name the release that holds a base; None for a model that is of no release.

    Raises:
        ConfigError: Members keep the base of that release no more.
    """
    releases = state.released.newest_first()
    names = [r.name for r in releases if state.releases[r.name].model_digest == base]
    kept = [release.name for release in kept_releases(state)]
    if not names or state.policy.given_base(base) is not None:
        return None
    if (found := next((name for name in names if name in kept), None)) is None:
        raise ConfigError(
            f"members keep the base of {names[0]} no more: they keep those of the"
            f" newest {MOST_APPROVED} approved releases, and of some candidates; begin"
            f" with one of {', '.join(kept) or 'later runs'}, or name a model, as in"
            " --base smollm2",
            code="release-not-kept",
        )
    return found


def _measured(first: RoundManifest, entries: Sequence[bytes]) -> float | None:
    """Estimate the seconds of a round by the last closed ones of its layout.

    The times are those that the coordinator claimed in the log, from opening to
    closing. A round that trains on more records counts for more time; one that trains
    on fewer for no less, as not all of a round is training.
    """
    found = list[float]()
    opened: tuple[RoundManifest, str] | None = None
    for event in (open_entry(entry).event for entry in entries):
        if isinstance(event.body, RoundOpened):
            opened = (event.body.manifest, event.claimed_time)
        elif isinstance(event.body, RoundClosed) and opened is not None:
            manifest, begun = opened
            if _is_alike(manifest, first):
                span = _moment(event.claimed_time) - _moment(begun)
                ratio = _trained(first) / _trained(manifest)
                found.append(max(span.total_seconds(), 1.0) * max(ratio, 1.0))
    return statistics.fmean(found[-_LAST:]) if found else None


def _is_alike(known: RoundManifest, planned: RoundManifest) -> bool:
    """Return whether two rounds train the same parameters with the same options."""
    mine, theirs = planned.training, known.training
    return (known.layout_digest, theirs.workload, theirs.options) == (
        *(planned.layout_digest, mine.workload, mine.options),
    )


def _trained(manifest: RoundManifest) -> int:
    return max(manifest.training.steps * manifest.training.batch_size, 1)


def _moment(claimed: str) -> datetime:
    return datetime.fromisoformat(claimed)


def _ahead(directory: Path, state: FederationState) -> list[RunSettings]:
    """Return the plans of runs that wait or go on, with the rounds that they lack."""
    plans = [
        RunSettings.read(directory / QUEUE / name / PLAN) for name in waiting(directory)
    ]
    current = unfinished(directory)
    if current is not None:
        plan = RunSettings.read(run_folder(directory, current) / PLAN)
        closed = sum(each.run_id == current for each in state.closed)
        left = max(plan.rounds - closed, 0)
        plans.append(plan.model_copy(update={"rounds": left}))
    return plans


def _prices(
    settings: RunSettings,
    state: FederationState,
    records: Mapping[str, int],
    *,
    ahead: Sequence[RunSettings],
) -> tuple[dict[str, float], dict[str, float]]:
    """Return epsilon of the run, and with all that is spent and planned, by member.

    Raises:
        RuleError: A member trained without noise, so no epsilon holds for its records.
    """
    delta = decode_decimal(state.policy.max_delta)
    once, after = dict[str, float](), dict[str, float]()
    for name, count in records.items():
        if name in state.without_noise:
            raise RuleError(
                f"{name} trained without noise, so no epsilon holds for its records",
                code="training-without-noise",
            )
        own = _steps(settings, records=count)
        spent = [
            steps_of(account.steps, account.promise)
            for account in state.spending.get(name, ())
            if account.promise is not None
        ]
        planned = [step for plan in ahead for step in _steps(plan, records=count)]
        once[name] = accounting.epsilon(own, target_delta=delta)
        after[name] = accounting.epsilon([*spent, *planned, *own], target_delta=delta)
    return once, after


def _steps(settings: RunSettings, *, records: int) -> list[accounting.Steps]:
    """Return what a run spends of a member's records; nothing without local noise."""
    privacy, training = settings.privacy, settings.training
    number = settings.rounds * training.steps
    if privacy.noise == "none" or not number:
        return []
    return [
        accounting.Steps(
            noise_multiplier=decode_decimal(privacy.noise_multiplier),
            sampling_rate=accounting.sampling_rate(
                training.batch_size, records=records
            ),
            steps=number,
        )
    ]


def _queue(place: Path, settings: RunSettings, wish: Wish) -> None:
    text = tomli_w.dumps(to_toml(settings.model_dump(), RunSettings))
    unseen = place.parent.parent / f".planned-{wish.name}"
    with durable_files.replace_folder(place, draft=unseen) as draft:
        (draft / HELD_OUT).mkdir(parents=True)
        write_new(draft / PLAN, text)
        for path in sorted(wish.held_out.iterdir()):
            if path.is_file():
                shutil.copy(path, draft / HELD_OUT / path.name)
