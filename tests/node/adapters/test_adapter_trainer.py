"""An adapter is planned, paid, trained, written and loads with plain ``peft``."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tapestry.encoding import encode_decimal
from tapestry.errors import ConfigError, ResourceError, VerificationError
from tapestry.privacy import accounting
from tapestry.privacy.gaussian import NoiseSource
from tapestry.vectors import FloatVector, parameters_digest
from tapestry.workloads.adapter_format import AdapterFacts, BaseName
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.lora_adapters import LoraAdapters, score
from tapestry.workloads.language.model_card import render
from tapestry.workloads.language.published_adapter import read_adapter
from tapestry.workloads.language.text_records import Corpus
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_governance import registry
from tapestry_governance.events.privacy_events import PrivacyLoss
from tapestry_node.adapters import adapter_trainer
from tapestry_node.settings import (
    AdapterSettings,
    NoiselessAdapterSettings,
    PrivateAdapterSettings,
)
from tapestry_node.training import dp_sgd
from tests.support.log_world import one_block
from tests.support.refusals import refused

TEXTS = [f"La ricetta numero {i} vuole farina, acqua e sale." for i in range(64)]
DELTA = "0.001"


@pytest.fixture(scope="module")
def model() -> Iterator[LanguageWorkload]:
    torch.set_num_threads(1)
    tiny = build_tiny()
    before = parameters_digest(tiny.parameters())
    yield tiny
    assert parameters_digest(tiny.parameters()) == before


@pytest.fixture(scope="module")
def title(model: LanguageWorkload) -> adapter_trainer.Title:
    base = BaseName(name="base-1", digest=model.given.digest)
    return adapter_trainer.Title(name="italy", version=1, base=base)


def _settings(**changes: object) -> AdapterSettings:
    values: dict[str, object] = {
        "publish": True,
        "licence": "Apache-2.0",
        "rank": 2,
        "targets": ("q_proj", "v_proj"),
        "steps": 4,
        "batch_size": 16,
        "learning_rate": "0.5",
        "noise": "local",
        "epsilon": "8",
        "clip_norm": "1",
        "options": {"sequence_length": 32},
    }
    return PrivateAdapterSettings.model_validate({**values, **changes})


def _trained(model: LanguageWorkload, plan: adapter_trainer.AdapterPlan) -> FloatVector:
    units = model.examples(TEXTS, plan.training.options)
    source = NoiseSource.unsafe_from_key(b"k" * 32)
    runtime = dp_sgd.Runtime(source=source)
    return adapter_trainer.train(model, units, plan=plan, runtime=runtime)


def _loss(plan: adapter_trainer.AdapterPlan, *, epsilon: str) -> PrivacyLoss:
    """What the log would say of a plan of one node's own noise."""
    privacy = plan.privacy
    assert privacy.noise == "local"
    assert plan.steps is not None
    return PrivacyLoss(
        mechanism="poisson-subsampled-gaussian",
        unit="record",
        adjacency="add-remove",
        trust_model="local",
        clip_norm=privacy.clip_norm,
        noise_multiplier=privacy.noise_multiplier,
        own_multiplier=privacy.noise_multiplier,
        shares=1,
        coordinates=0,
        bound="0",
        sampling_rate=encode_decimal(plan.steps.sampling_rate),
        target_delta=privacy.target_delta,
        blocks=one_block(epsilon),
        segments=(),
        accountant="dp-accounting/pld",
        accountant_version="0.6.0",
    )


def _facts(
    title: adapter_trainer.Title, plan: adapter_trainer.AdapterPlan, **changes: object
) -> AdapterFacts:
    values: dict[str, object] = {
        "name": title.name,
        "version": title.version,
        "country": 'Italy: "la bella"',
        "language": "it",
        "domain": "",
        "region": "",
        "licence": "Apache-2.0",
        "data": Corpus(language="it", licence="BSD-3-Clause", unit="record"),
        "base": title.base,
        "promise": plan.promise(_loss(plan, epsilon="7.9"), "6.5"),
    }
    return AdapterFacts(**{**values, **changes})  # type: ignore[arg-type]


def _written(
    folder: Path,
    update: FloatVector,
    model: LanguageWorkload,
    plan: adapter_trainer.AdapterPlan,
    facts: AdapterFacts,
) -> registry.CheckedAdapter:
    found, _ = adapter_trainer.write(
        folder, update, workload=model, plan=plan, facts=facts, public=TEXTS[:8]
    )
    return found


@pytest.fixture(scope="module")
def written(
    model: LanguageWorkload,
    title: adapter_trainer.Title,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, FloatVector, adapter_trainer.AdapterPlan]:
    plan = adapter_trainer.plan(
        title, _settings(), workload="language", records=len(TEXTS), target_delta=DELTA
    )
    update = _trained(model, plan)
    folder = tmp_path_factory.mktemp("adapters") / "italy"
    _written(folder, update, model, plan, _facts(title, plan))
    return folder, update, plan


@pytest.mark.slow
def test_the_plan_spends_at_most_the_epsilon_it_was_given(
    title: adapter_trainer.Title,
) -> None:
    plan = adapter_trainer.plan(
        title, _settings(), workload="language", records=64, target_delta=DELTA
    )
    assert plan.steps is not None
    spent = accounting.epsilon([plan.steps], target_delta=float(DELTA))
    assert 7.5 < spent <= 8
    assert plan.privacy.noise == "local"
    assert plan.steps.sampling_rate == 0.25


def test_settings_without_noise_plan_none_and_promise_nothing(
    title: adapter_trainer.Title,
) -> None:
    values = _settings().model_dump(exclude={"noise", "epsilon", "clip_norm"})
    settings = NoiselessAdapterSettings(noise="none", **values)
    plan = adapter_trainer.plan(
        title, settings, workload="language", records=64, target_delta=DELTA
    )
    assert plan.steps is None
    assert plan.privacy.noise == "none"


def test_an_epsilon_that_promises_nothing_is_no_setting() -> None:
    for epsilon in ("-1", "0", "1001"):
        with pytest.raises(ValueError, match=rf"epsilon\n.* {epsilon} is n"):
            _settings(epsilon=epsilon)


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        (
            {"batch_size": 65},
            "setting-out-of-range",
            "65 is not between 1 and the 64 records",
        ),
        ({"learning_rate": "0"}, "setting-out-of-range", "learning rate 0"),
        ({"clip_norm": "0"}, "noise-not-positive", "clip norm 0"),
    ],
)
def test_a_wrong_setting_is_named(
    title: adapter_trainer.Title, settings: dict[str, object], code: str, message: str
) -> None:
    with refused(ConfigError, code, match=message):
        adapter_trainer.plan(
            title,
            _settings(**settings),
            workload="language",
            records=64,
            target_delta=DELTA,
        )


@pytest.mark.slow
def test_the_public_factor_depends_on_the_title_only(
    title: adapter_trainer.Title,
) -> None:
    plan = adapter_trainer.plan(
        title, _settings(), workload="language", records=64, target_delta=DELTA
    )
    again = adapter_trainer.plan(
        title,
        _settings(learning_rate="0.5"),
        workload="language",
        records=60,
        target_delta=DELTA,
    )
    other = adapter_trainer.plan(
        adapter_trainer.Title(name="italy", version=2, base=title.base),
        _settings(),
        workload="language",
        records=64,
        target_delta=DELTA,
    )
    assert plan.training.factor_seed == again.training.factor_seed
    assert plan.training.factor_seed != other.training.factor_seed


def test_training_helps_and_the_published_folder_does_what_was_trained(
    model: LanguageWorkload,
    written: tuple[Path, FloatVector, adapter_trainer.AdapterPlan],
) -> None:
    folder, update, plan = written
    scores = score(model, update, TEXTS[:8], plan=plan.training)
    assert float(scores["bits-per-byte/adapter"]) < float(scores["bits-per-byte/base"])
    with model.adapted(read_adapter(folder)):
        loaded = model.evaluate(TEXTS[:8], sequence_length=32).score
    assert loaded == pytest.approx(float(scores["bits-per-byte/adapter"]), abs=1e-4)
    assert score(model, update, [], plan=plan.training) == {}


def test_the_registry_accepts_the_folder_on_its_base(
    model: LanguageWorkload,
    title: adapter_trainer.Title,
    written: tuple[Path, FloatVector, adapter_trainer.AdapterPlan],
    tmp_path: Path,
) -> None:
    folder, _, plan = written
    found = registry.check_folder(folder)
    assert (found.base, found.base_digest) == ("base-1", title.base.digest)
    assert found.rank == plan.training.rank
    model.save(tmp_path)
    registry.check_fit(registry.check_folder(folder), registry.read_base(tmp_path))


def test_the_same_update_gives_the_same_bytes(
    model: LanguageWorkload,
    title: adapter_trainer.Title,
    written: tuple[Path, FloatVector, adapter_trainer.AdapterPlan],
    tmp_path: Path,
) -> None:
    folder, update, plan = written
    facts = _facts(title, plan)
    again = _written(tmp_path / "x", update, model, plan, facts)
    assert again == registry.check_folder(folder)
    with refused(ConfigError, "folder-not-empty"):
        _written(tmp_path / "x", update, model, plan, facts)


def test_a_useless_or_diverged_adapter_is_not_published(
    model: LanguageWorkload,
    title: adapter_trainer.Title,
    written: tuple[Path, FloatVector, adapter_trainer.AdapterPlan],
    tmp_path: Path,
) -> None:
    _, update, plan = written
    facts = _facts(title, plan)
    with refused(VerificationError, "adapter-all-zero"):
        _written(tmp_path / "zero", np.zeros_like(update), model, plan, facts)


def test_a_training_that_diverged_is_named(
    model: LanguageWorkload,
    written: tuple[Path, FloatVector, adapter_trainer.AdapterPlan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, update, plan = written
    fit = dp_sgd.Fit(
        steps=1, empty_steps=0, drawn=1, clipped=0, non_finite=1, losses=()
    )
    diverged = dp_sgd.Update(values=np.full_like(update, np.nan), fit=fit)
    monkeypatch.setattr(dp_sgd, "update", lambda *_, **__: diverged)
    with refused(
        ResourceError, "training-diverged", match=r"lower adapter\.learning_rate"
    ):
        _trained(model, plan)


def test_the_card_reads_as_yaml_and_says_what_was_promised(
    model: LanguageWorkload,
    title: adapter_trainer.Title,
    written: tuple[Path, FloatVector, adapter_trainer.AdapterPlan],
) -> None:
    folder, update, plan = written
    text = (folder / "README.md").read_text("utf-8")
    _, front, body = text.split("---\n", 2)
    value = yaml.safe_load(front)
    assert value["language"] == "it"
    assert value["license"] == "apache-2.0"
    assert value["library_name"] == "peft"
    assert value["base_model"] == "base-1"
    ours = value["tapestry"]
    assert ours["country"] == 'Italy: "la bella"'
    assert ours["base_digest"] == title.base.digest
    privacy = ours["privacy"]
    assert (privacy["unit"], privacy["adjacency"]) == ("record", "add-remove")
    assert privacy["epsilon"] == "7.9"
    assert ours["text_licence"] == "BSD-3-Clause"
    assert ours["evaluation"] == score(model, update, TEXTS[:8], plan=plan.training)
    assert len(ours["evaluation"]) == 2
    assert "epsilon 7.9 at delta 0.001, per record" in body
    facts = _facts(title, plan, promise=None)
    lora = LoraAdapters(model=model)
    card = lora.card(update, plan=plan.training, facts=facts, public=[])
    silent = render(card)
    nothing = yaml.safe_load(silent.split("---\n", 2)[1])["tapestry"]
    assert nothing["privacy"] == {"mechanism": "none"}
    assert nothing["evaluation"] == {}
    assert "no promise about single records" in silent


@pytest.mark.slow
def test_the_folder_loads_with_plain_peft(
    model: LanguageWorkload,
    written: tuple[Path, FloatVector, adapter_trainer.AdapterPlan],
    tmp_path: Path,
) -> None:
    folder, _, _ = written
    model.save(tmp_path)
    program = """
import json, sys, torch, transformers, peft
base = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
model = peft.PeftModel.from_pretrained(base, sys.argv[2])
tokens = torch.tensor([[256, 40, 41, 42, 60, 61]])
loss = model(input_ids=tokens, labels=tokens).loss.item()
print(json.dumps([loss, "tapestry" in sys.modules]))
"""
    command = [sys.executable, "-c", program, str(tmp_path), str(folder)]
    out = subprocess.run(
        command, capture_output=True, check=True, cwd=tmp_path, env=os.environ.copy()
    )
    with model.adapted(read_adapter(folder)):
        want = model.losses([[256, 40, 41, 42, 60, 61]]).item()
    assert json.loads(out.stdout) == [pytest.approx(want, rel=1e-5), False]
    assert want != pytest.approx(model.losses([[256, 40, 41, 42, 60, 61]]).item())
