"""The trainer over a table of numbers: its promise, its price, its vector."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tapestry.encoding import digest
from tapestry.errors import ConfigError
from tapestry.model.replica import Replica
from tapestry.privacy import accounting
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.round_manifest import Participant, RoundManifest
from tapestry.vectors import FloatVector, IntegerVector
from tapestry_node.data.unit_register import as_marks
from tapestry_node.settings import NodeSettings
from tapestry_node.training.trainer import Trainer
from tests.support.linear_regression import LinearRegression
from tests.support.plans import privacy_plan, round_manifest, training_plan
from tests.support.refusals import refused
from tests.support.replicas import replica_of
from tests.support.secagg_cohort import members
from tests.support.settings_files import merged, node_settings

DIGEST = "sha256:" + "0" * 64
ROWS = ["1,0,0,2,0", "0,1,0,0,3", "0,0,1,1,1", "1,1,1,3,4"]


def trainer(folder: Path, **changes: Any) -> Trainer:
    folder.mkdir(exist_ok=True)
    (folder / "table.toml").write_text('licence = "CC0-1.0"\nunit = "record"\n')
    (folder / "rows.csv").write_text("\n".join(ROWS) + "\n")
    known = merged(
        {**node_settings(DIGEST), "name": "fr", "genesis": DIGEST},
        {"workload": "linear-regression", **changes},
    )
    settings = NodeSettings.model_validate_json(json.dumps(known))
    return Trainer(folder, workload=LinearRegression(), settings=settings)


def manifest(**changes: Any) -> RoundManifest:
    training = training_plan(
        workload="linear-regression",
        steps=1,
        batch_size=2,
        learning_rate="1",
        options={"bound": 9},
    )
    cohort = [
        Participant(name=each.name, key=str(each.identity.verify_key))
        for each in members(4)
    ]
    return round_manifest(cohort, **{"training": training, **changes})


def test_a_promise_holds_the_policy_and_counts_the_records(tmp_path: Path) -> None:
    found = trainer(tmp_path / "a", policy={"epsilon_limit": "7"}).terms
    assert (found.records, found.epsilon, found.fallback_epsilon) == (4, 7.0, 1000.0)
    assert (found.delta, found.unit) == (1e-5, "record")


def test_a_declaration_opens_with_its_salt_alone(tmp_path: Path) -> None:
    found = trainer(tmp_path)
    declared = found.declaration(found.holdings.version, b"s" * 32)
    assert declared.records == found.count == 4
    assert declared.licences == ("CC0-1.0",)
    dataset = found.holdings.version.dataset
    assert declared.dataset == digest(b"s" * 32 + dataset.encode()) != dataset
    assert (
        found.declaration(found.holdings.version, b"t" * 32).dataset != declared.dataset
    )


def test_a_round_without_noise_has_no_price(tmp_path: Path) -> None:
    assert trainer(tmp_path).charge(manifest()) is None


def test_a_round_with_local_noise_is_priced_by_batch_and_records(
    tmp_path: Path,
) -> None:
    charge = trainer(tmp_path).charge(manifest(privacy=privacy_plan()))
    assert charge is not None
    assert charge.key == ("round", "run-1", 1)
    assert (
        charge.steps
        == charge.fallback
        == accounting.Steps(noise_multiplier=1.0, sampling_rate=2 / 4, steps=1)
    )


def test_a_round_with_shared_noise_falls_back_on_the_nodes_own_share(
    tmp_path: Path,
) -> None:
    found = manifest(privacy=privacy_plan(noise="shared"), length=6)
    charge, share = trainer(tmp_path).charge(found), NoiseShare.of(found)
    assert charge is not None
    assert share is not None
    assert charge.own_multiplier == share.own_multiplier
    assert charge.fallback.noise_multiplier < charge.steps.noise_multiplier


def test_a_batch_above_the_records_has_no_price(tmp_path: Path) -> None:
    training = manifest().training.model_copy(update={"batch_size": 5})
    with refused(ConfigError, "setting-out-of-range", match="5 .*4 records"):
        trainer(tmp_path).charge(manifest(training=training, privacy=privacy_plan()))


def test_an_update_is_a_vector_and_every_step_is_told(tmp_path: Path) -> None:
    found = trainer(tmp_path)
    training = manifest().training.model_copy(update={"batch_size": 4, "steps": 3})
    start, told = Replica.start(found.workload.given), []
    plan = manifest(training=training)

    def done(step: int, steps: int) -> None:
        told.append((step, steps))

    update = found.update(start, plan, blocks=(1,), done=done)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert update.shape == (found.layout(plan).length,) == (6,)
    assert update.dtype == np.float32
    assert update.any()
    left = found.workload.parameters()["0.weight"]
    assert np.array_equal(left, start.parameters["0.weight"])


def test_an_update_starts_from_the_base_that_it_is_given(tmp_path: Path) -> None:
    """With all records in each batch and one step, it is the gradient there."""
    found = trainer(tmp_path)
    weight = np.full((2, 3), 0.5, dtype=np.float32)
    training = manifest().training.model_copy(update={"batch_size": 4})
    base = replica_of({"0.weight": weight})
    update = found.update(
        base, manifest(training=training), blocks=(1,), done=lambda *_: None
    ).reshape(2, 3)
    table = np.array([row.split(",") for row in ROWS], dtype=np.float64)
    wrong = table[:, :3] @ weight.T - table[:, 3:]
    want = -(wrong.T @ table[:, :3]) / len(ROWS)  # of the mean of two squares
    assert np.allclose(update, want, atol=1e-5)


def test_shared_noise_takes_one_clipped_step_without_noise_of_its_own(
    tmp_path: Path,
) -> None:
    found = trainer(tmp_path)
    base = Replica.start(found.workload.given)
    training = manifest().training.model_copy(update={"batch_size": 4})
    shared = manifest(training=training, privacy=privacy_plan(noise="shared"), length=6)
    share = NoiseShare.of(shared)
    assert share is not None

    def step(plan: RoundManifest) -> FloatVector | IntegerVector:
        return found.update(base, plan, blocks=(1,), done=lambda *_: None)

    first = step(shared)
    assert np.array_equal(first, step(shared))
    assert first.dtype == np.int64
    assert 0 < np.linalg.norm(first.astype(np.float64)) <= 4 * share.unit_bound
    local = manifest(training=training, privacy=privacy_plan())
    assert not np.array_equal(step(local), step(local))


def test_records_are_encoded_once_for_each_choice_of_options(tmp_path: Path) -> None:
    found = trainer(tmp_path)
    wide = found.examples({"bound": 9}, (1,))
    assert found.examples({"bound": 9}, (1,))[0] is wide[0]
    narrow = found.examples({"bound": 1}, (1,))
    assert max(max(e.rows[0]) for e in wide) == 4
    assert max(max(e.rows[0]) for e in narrow) == 1
    with refused(ConfigError, "setting-invalid", match="bound"):
        found.examples({"length": 1}, (1,))


def test_a_workload_without_adapters_repeats_no_record(tmp_path: Path) -> None:
    with refused(ConfigError, "adapters-not-supported", match="'linear-regression'"):
        trainer(tmp_path).repeated([(1.0, 2.0, 3.0, 4.0, 5.0)])


def test_who_is_withdrawn_during_a_training_is_drawn_no_more(tmp_path: Path) -> None:
    found = trainer(tmp_path)
    units = as_marks([bytes([number]) * 16 for number in range(1, 5)])
    found.hold(replace(found.holdings, units=units))
    examples = found.examples({"bound": 9}, (1,))
    assert all(each.rows for each in examples)
    found.drop([bytes([2]) * 16])
    assert [bool(each.rows) for each in examples] == [True, False, True, True]
    assert len(found.examples({"bound": 9}, (1,))) == 3
