"""A planned run keeps its promise for each member, or is not queued."""

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, RuleError
from tapestry_coordinator import run_planner
from tapestry_coordinator.run_folders import begin_next, run_folder, waiting
from tapestry_coordinator.run_planner import Wish, newest_release, plan_run
from tapestry_coordinator.settings import RunSettings
from tapestry_coordinator.superlink.outcome import Outcome, write_outcome
from tapestry_governance.events.round_events import RoundClosed, RoundOpened
from tapestry_governance.rules import kept_releases
from tests.support.federation import NAMES, RECORDS, Base, Federation
from tests.support.federation_fixtures import Found
from tests.support.refusals import refused


@pytest.fixture
def planned(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are made with the base that is loaded here."""

    def open_base(*_: Any) -> Any:
        base.workload.load(base.replica.parameters)
        return base.workload

    monkeypatch.setattr(run_planner, "open_workload", open_base)


@pytest.fixture
def federation(found: Found, request: pytest.FixtureRequest) -> Federation:
    request.getfixturevalue("planned")
    return found(policy={"epsilon_cap": "4"})


def wish(federation: Federation, **changes: Any) -> Wish:
    wished = Wish(
        name="next",
        base="tiny",
        held_out=federation.run_folder / "held-out",
        rounds=2,
        epsilon=3.0,
        steps=2,
        batch_size=4,
        learning_rate=0.5,
        clip_norm=0.5,
        rank=2,
        targets=("q_proj",),
        options={"sequence_length": 16},
    )
    return replace(wished, **changes)


def files(federation: Federation) -> list[Path]:
    """List a coordinator's files but those that SQLite keeps beside its own."""
    found = sorted(federation.coordinator.rglob("*"))
    return [path for path in found if not path.name.endswith(("-shm", "-wal"))]


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize("few", [1, 2])
def test_who_will_refuse_by_its_own_limit_is_named_before_anything_starts(
    found: Found, few: int
) -> None:
    """Of four members a round needs three."""
    own = {"policy": {"epsilon_limit": "3", "fallback_epsilon_limit": "3"}}
    federation = found(
        policy={"epsilon_cap": "4"}, institutions=dict.fromkeys(NAMES[:few], own)
    )
    federation.cosign()  # greets them
    if few == 1:
        made = plan_run(federation.coordinator, wish(federation))
        assert made.refusing == {NAMES[0]: 3.0}
        (line,) = (each for each in made.lines() if each.startswith("refused"))
        assert f"by {NAMES[0]}, whose own limit is 3:" in line
        return
    before = files(federation)
    said = "fi .*limit is 3.*fr .*limit is 3.* needs 3 of 4"
    with refused(RuleError, "epsilon-above-own-limits", match=said):
        plan_run(federation.coordinator, wish(federation))
    assert files(federation) == before
    less = plan_run(federation.coordinator, wish(federation, epsilon=0.5))
    assert less.refusing == {}


def test_the_noise_keeps_the_promise_of_the_smallest_member(
    federation: Federation,
) -> None:
    federation.run()
    found = plan_run(federation.coordinator, wish(federation))
    assert found.epsilon.keys() == set(NAMES)
    assert all(2.9 < epsilon <= 3.0 for epsilon in found.epsilon.values())
    for name in NAMES:
        assert found.epsilon[name] < found.epsilon_after[name] <= found.cap == 4
    settings = RunSettings.read(found.folder / "run.toml")
    assert settings.privacy.noise == "local"
    assert decode_decimal(settings.privacy.noise_multiplier) == found.noise_multiplier
    assert settings.secagg.min_cohort == 3  # of the federation's policy
    said = "\n".join(found.lines())
    assert all(f"epsilon  {name}: " in said for name in NAMES)
    assert begin_next(federation.coordinator) == "next"


def test_a_member_that_could_not_afford_it_is_named_and_nothing_is_queued(
    federation: Federation,
) -> None:
    federation.run()
    with refused(RuleError, "epsilon-above-cap", match="fi, fr, id, sw would have"):
        plan_run(federation.coordinator, wish(federation, epsilon=3.9))
    assert waiting(federation.coordinator) == []


def test_seconds_are_those_of_such_rounds_in_the_log_or_said_to_be_unknown(
    federation: Federation,
) -> None:
    federation.run()
    other = plan_run(federation.coordinator, wish(federation, rank=3, epsilon=0.5))
    assert other.to_json()["round_seconds"] is None
    most = "the stages of a round end after 35 min 0 s at most"
    assert f"seconds  not measured yet; {most}" in other.lines()
    logged = federation.logged()
    times = [
        datetime.fromisoformat(each.claimed_time)
        for each in logged
        if isinstance(each.body, RoundOpened | RoundClosed)
    ]
    took = max((times[1] - times[0]).total_seconds(), 1.0)
    (manifest,) = [e.body.manifest for e in logged if isinstance(e.body, RoundOpened)]
    plan = manifest.training
    like = {"rank": plan.rank, "targets": plan.targets, "options": dict(plan.options)}
    for steps, factor in (
        (plan.steps * 3, 3),
        (1, 1),
    ):  # more costs more; fewer, no less
        changes = {
            "steps": steps,
            "batch_size": plan.batch_size,
            "epsilon": 0.5,
            **like,
        }
        found = plan_run(
            federation.coordinator, wish(federation, name=f"s-{steps}", **changes)
        )
        assert found.seconds == took * factor
        said = f"{took * factor:.0f} in a round, {2 * took * factor:.0f} in all"
        assert f"seconds  {said}, by the last such rounds of the log; {most}" in (
            found.lines()
        )
    assert other.to_json()["most_round_seconds"] == 2100


def test_sizes_have_a_unit_that_fits(federation: Federation) -> None:
    federation.run()
    found = plan_run(federation.coordinator, wish(federation))
    said = [line for line in found.lines() if line.startswith(("upload", "disk"))]
    assert [re.fullmatch(r"\w+ +[\d.]+ kB .*", line) is not None for line in said] == [
        True,
        True,
    ]
    large = replace(found, upload=2_300_000_000, disk=11)
    assert "upload   2.3 GB from each node in a round" in large.lines()
    assert "disk     11 bytes here for each round until its release" in large.lines()


def test_a_run_goes_on_from_the_newest_approved_release_and_from_no_other(
    federation: Federation,
) -> None:
    with refused(ConfigError, "release-missing", match="--base smollm2"):
        newest_release(federation.coordinator)
    federation.run()
    with refused(ConfigError, "release-missing", match="base-1 waits for the members"):
        newest_release(federation.coordinator)
    federation.approve()
    base = newest_release(federation.coordinator)
    assert Path(base) == federation.coordinator / "releases" / "base-1"
    found = plan_run(federation.coordinator, wish(federation, base=base))
    assert RunSettings.read(found.folder / "run.toml").base == base
    assert next(found.lines()) == f"begins   with {base}"


@pytest.mark.slow
def test_a_run_from_a_release_that_members_keep_no_more_is_refused_at_once(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(policy={"epsilon_cap": "4"})
    federation.run()
    federation.approve()
    base = str(federation.coordinator / "releases" / "base-1")
    planned = plan_run(federation.coordinator, wish(federation, base=base))
    assert next(planned.lines()) == "begins   with base-1"
    assert planned.to_json()["base"] == "base-1"
    monkeypatch.setattr(kept_releases, "MOST_APPROVED", 0)
    with refused(ConfigError, "release-not-kept", match="base of base-1 no more"):
        plan_run(federation.coordinator, wish(federation, name="late", base=base))
    assert waiting(federation.coordinator) == ["next"]


def test_members_that_declared_nothing_count_by_their_requests(
    federation: Federation,
) -> None:
    assert RECORDS >= 10
    with refused(ConfigError, "batch-above-records", match="fi, fr, id, sw may have"):
        plan_run(federation.coordinator, wish(federation))  # their requests said 0
    assert waiting(federation.coordinator) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"name": "../next"}, "setting-invalid"),
        ({"name": "run"}, "run-exists"),
        ({"options": {}}, None),
        ({"targets": ("nothing",)}, None),
        ({"held_out": Path("/nowhere")}, None),
        ({"batch_size": 4000}, None),
    ],
    ids=str,
)
def test_what_gives_no_run_leaves_no_trace(
    federation: Federation, changes: dict[str, Any], code: str | None
) -> None:
    federation.run()
    before = files(federation)
    with pytest.raises(ConfigError) as caught:
        plan_run(federation.coordinator, wish(federation, **changes))
    assert code is None or caught.value.code == code
    assert files(federation) == before


def test_all_parameters_are_trained_with_rank_zero(federation: Federation) -> None:
    federation.run()
    low = plan_run(federation.coordinator, wish(federation, epsilon=0.5))
    full = plan_run(
        federation.coordinator, wish(federation, name="full", rank=0, epsilon=0.5)
    )
    assert full.upload > 4 * low.upload
    assert full.disk == full.upload * (len(NAMES) + 1)
    assert not run_folder(federation.coordinator, "full").exists()


def test_what_waits_is_counted_with_what_is_spent(federation: Federation) -> None:
    """Each of the runs alone would fit."""
    federation.run()
    write_outcome(federation.run_folder, Outcome())
    first = plan_run(federation.coordinator, wish(federation, name="a", epsilon=2))
    with refused(RuleError, "epsilon-above-cap", match="fi, fr, id, sw would have"):
        plan_run(federation.coordinator, wish(federation, name="b", epsilon=3.8))
    second = plan_run(federation.coordinator, wish(federation, name="c", epsilon=1))
    assert all(first.epsilon_after[name] < second.epsilon_after[name] for name in NAMES)


def test_a_draft_is_in_the_queue_at_no_time(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.run()
    seen: list[list[str]] = []

    def copy(source: Path, target: Path) -> None:
        seen.append(waiting(federation.coordinator))
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr("tapestry_coordinator.run_planner.shutil.copy", copy)
    (federation.run_folder / "held-out" / "old").mkdir()  # is not taken along
    found = plan_run(federation.coordinator, wish(federation))
    assert seen
    assert not any(seen)
    assert waiting(federation.coordinator) == ["next"]
    assert all(path.is_file() for path in (found.folder / "held-out").iterdir())
