"""A base in half precision is trained in float32, and rounded once in each release.

A whole federation on the tiny base, stored as bfloat16, as float16 and, to compare
with, as float32. Its first run has three rounds, a release after the second and one
after the last; its steps are small beside what rounding takes away. A second run starts
from the last release.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tapestry.artifacts.model_folder import CARD, WEIGHTS
from tapestry.encoding import decode_decimal
from tapestry.evaluation.acceptance import BAND
from tapestry.evaluation.held_out import evaluate_all, read_held_out, scores_of
from tapestry.model.outer_optimizer import OuterState, advance
from tapestry.model.replica import Replica
from tapestry.protocol.secagg_messages import Result
from tapestry.secagg.quantization import Encoding, mean
from tapestry.tensor_types import type_name, widen
from tapestry.vectors import FloatVector
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.settings import RunSettings
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.events.round_events import RoundClosed, RoundOpened
from tapestry_node.settings import NodeSettings
from tests.support.chat_templates import CHATML
from tests.support.commands import tapestry
from tests.support.federation import NAMES, Base, Federation
from tests.support.model_folders import edit
from tests.support.node_folders import objections_of
from tests.support.settings_files import change_settings

pytestmark = pytest.mark.slow

Values = Mapping[str, FloatVector]
KINDS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
RATES = {"BF16": "0.08", "F16": "0.01", "F32": "0.01"}  # of the outer step
MOVED = {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(4)}
RELEASED = {"base-1": 2, "base-2": 3}  # and the round that each is of
LICENCE = "apache-2.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What is left of both runs."""

    kind: str  # the type in which the base is stored
    given: Path
    federation: Federation  # its nodes are closed
    first: Path  # the coordinator's folder of the first run
    replicas: Mapping[str, Replica]  # of the nodes, after the first run
    rebuilt: Mapping[str, set[str | None]]  # manifests of releases, as nodes made them
    last: Mapping[str, str]  # the base that each node held in the end

    def release(self, name: str) -> Path:
        """A release's folder."""
        return self.federation.coordinator / "releases" / name

    def published(self, name: str) -> ReleasePublished:
        """What the log says of a release."""
        (found,) = (
            body for body in self.federation.said(ReleasePublished) if body.name == name
        )
        assert isinstance(found, ReleasePublished)
        return found

    def closed(self, run: str) -> list[RoundClosed]:
        """The rounds of a run."""
        return [body for body in self.federation.closed() if body.run_id == run]

    def rounded(self, values: Values) -> dict[str, torch.Tensor]:
        """Round by torch, which no code of the product has a part in."""
        return {
            name: torch.from_numpy(each.copy()).to(KINDS[self.kind])
            for name, each in values.items()
        }


@pytest.fixture(scope="module", params=list(KINDS))
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    kind = request.param
    place = tmp_path_factory.mktemp("half")
    given = _base_folder(place / "given", KINDS[kind])
    federation = Federation(
        place / "federation",
        _open(given),
        coordinator={
            "rounds": 3,
            "release_every": 2,
            "outer": {"learning_rate": RATES[kind]},
        },
        train=True,
    )
    with closing(federation):
        federation.run()
        federation.approve()
        federation.bundle()
        nodes = federation.nodes
        replicas = {name: node.replica for name, node in nodes.items()}
        rebuilt = {
            name: {node.store.rebuilt("run", number) for node in nodes.values()}
            for name, number in RELEASED.items()
        }
        federation.close()
        first = _begin_second_run(federation, release="base-2")
        federation.run()
        federation.approve()
        federation.bundle("second-bundle")
        return Trained(
            kind=kind,
            given=given,
            federation=federation,
            first=first,
            replicas=replicas,
            rebuilt=rebuilt,
            last=federation.digests(),
        )


def _base_folder(folder: Path, kind: torch.dtype) -> Path:
    """Write the tiny base in a type, with texts that no library would write so."""
    build_tiny().save(folder)
    values = {n: each.to(kind) for n, each in load_file(folder / WEIGHTS).items()}
    save_file(values, folder / WEIGHTS, metadata={"format": "pt"})
    edit(folder, "config.json", dtype=str(kind).removeprefix("torch."))
    (folder / CARD).write_text(f"---\nlicense: {LICENCE}\n---\n\n# Tiny\n")
    (folder / "LICENSE").write_bytes(b"as you like\r\n")
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def _open(folder: Path) -> Base:
    workload = LanguageWorkload.open(folder)
    return Base(workload=workload, replica=Replica.start(workload.given))


def _begin_second_run(federation: Federation, *, release: str) -> Path:
    """Start from a release; return the coordinator's folder of the first run."""
    base = federation.coordinator / "releases" / release
    first = federation.begin_another_run("second", rounds=1, base=str(base))
    federation.base = _open(base)
    for name in NAMES:
        path = federation.directory / "nodes" / name / "node.toml"
        known = NodeSettings.read(path).policy.bases
        policy = {"bases": [*known, federation.base.replica.digest]}
        change_settings(path, NodeSettings, {"base": str(base), "policy": policy})
        assert objections_of(federation.start(name)) == []
    return first


def _walk(trained: Trained, *, folded: bool) -> Iterator[Values]:
    """Take the steps of the first run again; ``folded`` rounds after each of them."""
    workload = LanguageWorkload.open(trained.given)
    values, state = dict(workload.given.tensors), OuterState()
    plans = [b.manifest for b in trained.federation.said(RoundOpened)]
    with closing(Journal(trained.first)) as journal:
        for plan in [each for each in plans if each.run_id == "run"]:
            number = plan.round_number
            cohort = Result.decode(journal.result(number)).transcript.uploads
            total = journal.load_sum(number)
            after, state = advance(
                values,
                state,
                mean=mean(total, encoding=Encoding.of(plan), survivors=len(cohort)),
                layout=workload.layout(plan.training),
                manifest=plan,
            )
            values = dict(after)
            if folded:
                moved = {name: widen(values[name]) for name in MOVED}
                for name, each in trained.rounded(moved).items():
                    values[name] = each.float().numpy()
            yield values


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _scores(trained: Trained, workload: LanguageWorkload) -> dict[str, float]:
    settings = RunSettings.read(trained.first / "run.toml")
    evaluation = workload.evaluation(settings.training.options)
    held_out = read_held_out(trained.first / "held-out", evaluation)
    return scores_of(evaluate_all(evaluation, held_out.sets))


def test_three_steps_are_taken_that_move_four_tensors_of_the_base(
    trained: Trained,
) -> None:
    assert [b.outcome for b in trained.closed("run")] == ["applied"] * 3
    *_, values = _walk(trained, folded=False)
    assert len(values) > len(MOVED)
    for replica in trained.replicas.values():
        types = {n: type_name(each) for n, each in replica.parameters.items()}
        assert types == {n: "F32" if n in MOVED else trained.kind for n in values}
        for name, each in values.items():
            assert np.array_equal(replica.parameters[name], each)


def test_each_round_names_the_wide_base_and_the_rounded_one(trained: Trained) -> None:
    given = LanguageWorkload.open(trained.given).given
    before = given.digest
    for closed, values in zip(
        trained.closed("run"), _walk(trained, folded=False), strict=True
    ):
        wide = dataclasses.replace(given, tensors=values, hashes=None)
        assert (closed.base_before, closed.base_after) == (before, wide.digest)
        same = closed.base_after == closed.release_digest
        assert same == (trained.kind == "F32")
        before = wide.digest


@pytest.mark.parametrize("name", list(RELEASED))
def test_a_release_is_rounded_once_and_has_the_types_of_the_base(
    trained: Trained, name: str
) -> None:
    """The first release leaves the run as wide as it was."""
    found = load_file(trained.release(name) / WEIGHTS)
    given = load_file(trained.given / WEIGHTS)
    values = list(_walk(trained, folded=False))[RELEASED[name] - 1]
    once = trained.rounded({n: widen(values[n]) for n in MOVED})
    assert found.keys() == given.keys() > MOVED
    for key, tensor in found.items():
        assert tensor.dtype is KINDS[trained.kind]
        want = once[key] if key in MOVED else given[key]
        assert _bytes(tensor) == _bytes(want)
        assert (_bytes(tensor) == _bytes(given[key])) == (key not in MOVED)


def test_rounding_after_every_round_would_have_lost_more(trained: Trained) -> None:
    found = load_file(trained.release("base-2") / WEIGHTS)
    *_, wide = _walk(trained, folded=False)
    *_, folded = _walk(trained, folded=True)
    for key in MOVED:
        here = found[key].float().numpy()
        differing = float(np.mean(here != folded[key]))
        if trained.kind == "F32":
            assert differing == 0
            continue
        assert differing > 0.2
        errors = [np.abs(each - wide[key]).mean() for each in (here, folded[key])]
        assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("name", [*RELEASED, "base-3"])
def test_settings_files_of_a_release_are_the_given_ones_byte_for_byte(
    trained: Trained, name: str
) -> None:
    folder = trained.release(name)
    files = {path.name for path in trained.given.iterdir()}
    assert files >= {"config.json", "tokenizer.json", "LICENSE", "chat_template.jinja"}
    assert {path.name for path in folder.iterdir()} == files | {"tapestry"}
    for each in files - {WEIGHTS, CARD}:
        assert (folder / each).read_bytes() == (trained.given / each).read_bytes()


@pytest.mark.parametrize("name", [*RELEASED, "base-3"])
def test_a_release_loads_with_plain_transformers_in_the_type_of_the_base(
    trained: Trained, name: str
) -> None:
    folder = str(trained.release(name))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert {each.dtype for each in model.parameters()} == {KINDS[trained.kind]}


def test_every_member_rebuilds_the_manifests_that_the_log_names(
    trained: Trained,
) -> None:
    for name, made in trained.rebuilt.items():
        assert made == {trained.published(name).manifest_digest}


@pytest.mark.parametrize("bundle", ["bundle", "second-bundle"])
def test_bundle_and_releases_verify(trained: Trained, bundle: str) -> None:
    federation = trained.federation
    assert federation.audit(bundle).verdict is AuditVerdict.HOLDS
    folder, trust = federation.directory / bundle, federation.coordinator
    names = [*RELEASED, *(["base-3"] if bundle == "second-bundle" else [])]
    for name in names:
        said = tapestry(
            *("release", "verify", trained.release(name), "--bundle", folder),
            *("--trust", trust / "trust-policy.txt"),
        )
        assert said.exit_code == 0, said.stdout + said.stderr


@pytest.mark.parametrize("name", list(RELEASED))
def test_the_gate_scored_the_rounded_model(trained: Trained, name: str) -> None:
    closed = trained.closed("run")[RELEASED[name] - 1]
    logged = {
        key.removeprefix("bits_per_byte/"): decode_decimal(value)
        for key, value in closed.metrics.items()
        if key.startswith("bits_per_byte/")
    }
    released = LanguageWorkload.open(trained.release(name))
    here = _scores(trained, released)
    assert here.keys() == logged.keys() == set(NAMES)
    for key, value in here.items():
        assert abs(value - logged[key]) <= BAND * value
        assert math.isclose(value, logged[key], rel_tol=1e-10)
    released.load(list(_walk(trained, folded=False))[RELEASED[name] - 1])
    wide = _scores(trained, released)
    same = [math.isclose(wide[key], logged[key], rel_tol=1e-9) for key in NAMES]
    assert all(same) == (trained.kind == "F32")


def test_a_second_run_starts_from_the_release(trained: Trained) -> None:
    release = LanguageWorkload.open(trained.release("base-2")).given
    assert release.licence == LICENCE
    assert release.digest == trained.published("base-2").model_digest
    last, (closed,) = trained.closed("run")[-1], trained.closed("second")
    assert (closed.outcome, closed.included) == ("applied", NAMES)
    assert closed.base_before == last.release_digest == release.digest
    assert (closed.base_before == last.base_after) == (trained.kind == "F32")
    assert trained.last == dict.fromkeys(NAMES, closed.base_after)
    new = load_file(trained.release("base-3") / WEIGHTS)
    old = load_file(trained.release("base-2") / WEIGHTS)
    assert {n for n in new if _bytes(new[n]) != _bytes(old[n])} == MOVED
    assert {each.dtype for each in new.values()} == {KINDS[trained.kind]}
