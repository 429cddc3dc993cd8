"""A workload that is not text runs through the whole federation, unchanged.

``tests/support/linear_regression.py`` brings a reader, a model, options and a measure;
node, coordinator, log and audit are the product's own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, PolicyError
from tapestry.model.replica import Replica
from tapestry.workloads.hardware import Machine
from tapestry.workloads.workload_registry import INSTALLED, open_workload
from tapestry_governance.audit.privacy_statement import state_privacy, to_markdown
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.events.privacy_events import DataDeclared, DpAccounted
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.registry import check_release, read_base
from tests.support import linear_regression
from tests.support.federation import NAMES, Base, Federation
from tests.support.linear_regression import LinearRegression
from tests.support.node_folders import objections_of
from tests.support.refusals import refused
from tests.support.settings_files import NO_NOISE

TRUE = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 3.0]])


def open_zeros(base: str, cache: Path | None, _: Machine) -> LinearRegression:
    assert (base, cache) == ("zeros", None)
    return LinearRegression()


WORKLOADS = {**INSTALLED, LinearRegression.name: open_zeros}
OPTIONS = {"bound": 4}
FULL = {"parameterization": "full", "rank": None, "targets": None}
LOW_RANK = {"parameterization": "low_rank", "rank": 1, "targets": ("0",)}
PRIVACY: dict[str, dict[str, Any]] = {
    "none": NO_NOISE,
    "local": {"noise": "local", "clip_norm": "2"},
    "shared": {"noise": "shared", "clip_norm": "2", "min_share": "0"},
}
NOISES = tuple(PRIVACY)


def write_tables(folder: Path, name: str) -> Path:
    """Write an institution's private table and, above it, a public one."""
    generator = np.random.default_rng(sum(name.encode()))
    inputs = generator.uniform(-1, 1, (60, 3))
    outputs = inputs @ TRUE.T + generator.normal(0, 0.05, (60, 2))
    lines = [
        ",".join(f"{value:.4f}" for value in row)
        for row in np.hstack([inputs, outputs]).tolist()
    ]
    private = folder / name / "private"
    private.mkdir(parents=True)
    (private / "table.toml").write_text('licence = "CC0-1.0"\nunit = "record"\n')
    (private / "measured.csv").write_text("\n".join(lines[:40]))
    gate = folder.parent / "held-out"
    gate.mkdir(exist_ok=True)
    (gate / f"{name}.csv").write_text("\n".join(lines[40:]))
    return private


Make = Callable[..., Federation]


@pytest.fixture
def make(tmp_path: Path) -> Any:
    made: list[Federation] = []

    def found(
        noise: str, plan: Any, *, worse: str = "1", **coordinator: Any
    ) -> Federation:
        workload = open_workload(LinearRegression.name, "zeros", workloads=WORKLOADS)
        base = Base(workload=workload, replica=Replica.start(workload.given))
        training = {
            "workload": LinearRegression.name,
            "options": OPTIONS,
            "batch_size": 20,
            "learning_rate": "0.25",
            **plan,
        }
        settings = {
            "base": "zeros",
            "rounds": 3,
            "release_every": 3,
            "training": training,
            "privacy": PRIVACY[noise],
            "secagg": {"scale_bits": 26},
            "outer": {
                "optimizer": "mean",
                "learning_rate": "1",
                "momentum": None,
                "max_loss_increase": worse,
            },
            **coordinator,
        }
        policy = {"noise": list(NOISES), "parameterizations": ["full", "low_rank"]}
        adapter = {"publish": False, "options": OPTIONS}
        made.append(
            Federation(
                tmp_path / f"federation-{len(made)}",
                base,
                coordinator=settings,
                policy={"noise": NOISES},
                institution={
                    "workload": LinearRegression.name,
                    "policy": policy,
                    "adapter": adapter,
                },
                train=True,
                data=write_tables,
            )
        )
        return made[-1]

    yield found
    for federation in made:
        federation.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "plan"),
    [
        ("none", FULL),
        ("local", LOW_RANK),
        ("shared", FULL),
        pytest.param("none", LOW_RANK, marks=pytest.mark.slow),
        pytest.param("local", FULL, marks=pytest.mark.slow),
        pytest.param("shared", LOW_RANK, marks=pytest.mark.slow),
    ],
)
def test_a_workload_without_text_runs_a_whole_federation(
    make: Make, noise: str, plan: dict[str, Any]
) -> None:
    federation = make(noise, plan)
    federation.run()
    closed = federation.closed()
    assert [each.outcome for each in closed] == ["applied"] * 3
    assert all(each.included == NAMES for each in closed)
    measures = {f"mean_squared_error/{name}" for name in NAMES} | {"mean_norm"}
    assert set(closed[-1].metrics) == measures
    if noise == "none":  # the plain federated average learns the true coefficients
        first, last = (
            sum(decode_decimal(each.metrics[m]) for m in measures - {"mean_norm"})
            for each in (closed[0], closed[-1])
        )
        assert last < first
    assert federation.digests() == dict.fromkeys(NAMES, closed[-1].base_after)
    plans = [each.manifest.training for each in federation.said(RoundOpened)]
    assert {each.workload for each in plans} == {"linear-regression"}
    assert plans[0].options == OPTIONS
    assert {each.languages for each in federation.said(DataDeclared)} == {()}
    _check_release(federation)
    _check_statement(federation, noise)


def _check_release(federation: Federation) -> None:
    """Verify the release by its files, and by the log."""
    (release,) = federation.said(ReleasePublished)
    folder = federation.coordinator / "releases" / release.name
    found = read_base(folder)
    check_release(found, release)
    assert found.shapes == {"0.weight": (2, 3)}
    card = (folder / "README.md").read_text()
    assert "see it for its licence" in card
    assert "transformers" not in card


def _check_statement(federation: Federation, noise: str) -> None:
    """Audit the bundle, and read what it promises to the records of each node."""
    federation.bundle()
    audit = federation.audit()
    assert audit.verdict is AuditVerdict.HOLDS
    accounts = federation.said(DpAccounted)
    assert len(accounts) == 3 * len(NAMES)
    page = to_markdown(state_privacy(audit.state, "base-1"))
    assert all(name in page for name in NAMES)
    if noise == "none":
        assert {account.promise for account in accounts} == {None}
        assert "none: a part was trained without noise" in page
    else:
        promises = [account.promise for account in accounts[-len(NAMES) :]]
        assert all(each and each.epsilon in page for each in promises)
        assert not any(each.is_understated for each in audit.accounts)


def test_a_wrong_update_of_any_workload_is_refused_by_the_gate(make: Make) -> None:
    federation = make("none", FULL, worse="0.01", rounds=1)
    for name in NAMES:  # together, so that the mean is as long as each of them
        federation.poison[name] = lambda update: (-update).astype(np.float32)
    federation.run()
    (closed,) = federation.closed()
    assert (closed.outcome, closed.reason) == ("rejected", "held_out_worse")
    assert closed.base_after == federation.base.replica.digest
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"workload": "language"}, "for workload 'language', .* 'linear-regression'"),
        ({"options": {"bound": 0}}, "options.bound: 0 must be 1 or more"),
        ({"options": {"bond": 4}}, "options.bond: no such key; is bound meant"),
        ({"options": {}}, "options.bound: is missing"),
        ({"options": {"bound": "4"}}, 'options.bound: "4" must be a whole number'),
    ],
)
def test_a_plan_of_other_options_or_of_another_workload_opens_no_round(
    make: Make, training: dict[str, Any], said: str
) -> None:
    federation = make("none", {**FULL, **training})
    with pytest.raises(ConfigError, match=said):
        federation.run()
    assert federation.said(RoundOpened) == []


class OtherRegression(LinearRegression):
    name = "other-regression"


def test_a_node_refuses_the_plan_of_another_workload(make: Make) -> None:
    """Same model, same layout: the tag of the plan alone is another one."""
    plan = {**FULL, "workload": OtherRegression.name}
    federation = make("none", plan, rounds=1)
    replica = federation.base.replica
    federation.base = Base(workload=OtherRegression(), replica=replica)
    with refused(PolicyError, "plan-refused"):
        federation.run()
    assert federation.refusals() == dict.fromkeys(NAMES, "plan_unsupported")
    assert federation.closed() == []


def test_a_workload_without_adapters_says_so_before_a_round(make: Make) -> None:
    federation = make("none", FULL, rounds=1)
    folder = federation.directory / "nodes" / "fr" / "node.toml"
    text = folder.read_text().replace("publish = false", "publish = true")
    folder.write_text(text)
    node = federation.restart("fr")
    (found,) = objections_of(node)
    assert found.code == "adapters-not-supported"
    assert "workload 'linear-regression' publishes no adapters" in found.detail


def test_the_toy_is_small() -> None:
    assert linear_regression.__file__
    lines = Path(linear_regression.__file__).read_text("utf-8").splitlines()
    assert len(lines) <= 100
