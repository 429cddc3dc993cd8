"""A language model trains what the plan says, and is itself again afterwards."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ConfigError, ProtocolError, ResourceError
from tapestry.model.low_rank import expand, factor
from tapestry.protocol.round_manifest import TrainingPlan
from tapestry.vectors import FloatVector, parameters_digest
from tapestry.workloads.language import model as language
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.model import LanguageModel
from tests.support.plans import training_plan
from tests.support.refusals import refused

TEXTS = ["Buongiorno, come stai?", "犬も歩けば棒に当たる", "", "x" * 200]


@pytest.fixture(scope="module")
def model() -> Iterator[LanguageModel]:
    torch.set_num_threads(1)
    tiny = build_tiny()
    before = parameters_digest(tiny.parameters())
    yield tiny
    assert parameters_digest(tiny.parameters()) == before


def _plan(parameterization: str = "low_rank", **changes: object) -> TrainingPlan:
    values = {
        "parameterization": parameterization,
        "rank": 4 if parameterization == "low_rank" else 0,
        "targets": ("q_proj", "v_proj", "down_proj"),
        "factor_seed": "5e" * 32,
    }
    return training_plan(**{**values, **changes})


def _update(model: LanguageModel, plan: TrainingPlan, text: str) -> FloatVector:
    """Take one plain gradient step on a text and return the change."""
    sequences = [s for u in model.encode([text], sequence_length=16) for s in u.rows]
    with model.attach(plan) as trained:
        parameters = [parameter for _, parameter in trained]
        loss = model.losses(sequences).mean()
        gradients = torch.autograd.grad(loss, parameters)
        changes = {
            name: (-0.1 * gradient).numpy()
            for (name, _), gradient in zip(trained, gradients, strict=True)
        }
    return model.layout(plan).flatten(changes)


def _surroundings(model: LanguageModel) -> tuple[object, ...]:
    module = model.module
    return (
        sorted(vars(module)),
        [(n, type(m)) for n, m in module.named_modules()],
        [(n, p.requires_grad, p.grad) for n, p in module.named_parameters()],
        module.training,
        parameters_digest(model.parameters()),
    )


def _spoil_and_stop(model: LanguageModel, plan: TrainingPlan) -> None:
    with model.attach(plan) as trained:
        with torch.no_grad():
            for _, parameter in trained:
                parameter.add_(1.0)
        torch.autograd.backward(model.losses([[1, 2, 3]]).sum())
        raise RuntimeError("stop")


@pytest.mark.parametrize("parameterization", ["full", "low_rank"])
def test_attaching_leaves_the_module_exactly_as_before(
    model: LanguageModel, parameterization: str
) -> None:
    before = _surroundings(model)
    with pytest.raises(RuntimeError, match="stop"):
        _spoil_and_stop(model, _plan(parameterization))
    assert _surroundings(model) == before


@pytest.mark.parametrize("parameterization", ["full", "low_rank"])
def test_exactly_the_tensors_of_the_layout_are_trainable(
    model: LanguageModel, parameterization: str
) -> None:
    plan = _plan(parameterization)
    with model.attach(plan) as trained:
        layout = model.layout(plan)
        assert [(n, tuple(p.shape)) for n, p in trained] == list(layout.tensors)
        open_ones = {id(p) for p in model.module.parameters() if p.requires_grad}
        assert open_ones == {id(p) for _, p in trained}
        assert parameters_digest(model.parameters()) == parameters_digest(
            build_tiny().parameters()
        )


def test_a_low_rank_update_starts_at_zero_over_the_public_factor(
    model: LanguageModel,
) -> None:
    plain = model.losses([[7, 8, 9, 10]]).item()
    with model.attach(_plan()) as trained:
        assert all(not p.detach().any() for _, p in trained)
        assert model.losses([[7, 8, 9, 10]]).item() == plain
        layer = model.module.get_submodule("model.layers.0.mlp.down_proj")
        frozen = layer.lora_A["default"].weight  # type: ignore[union-attr, index]
        want = factor(
            "model.layers.0.mlp.down_proj.weight", rank=4, width=256, seed="5e" * 32
        )
        assert not frozen.requires_grad
        assert np.array_equal(frozen.detach().numpy(), want)


def test_folding_a_low_rank_update_gives_what_the_attached_model_gave(
    model: LanguageModel,
) -> None:
    plan = _plan()
    update = _update(model, plan, "una frase qualunque da imparare")
    pieces = model.layout(plan).split(update)
    sequences = [[72, 70, 90, 33, 220], [72, 70]]
    with model.attach(plan) as trained:
        with torch.no_grad():
            for name, parameter in trained:
                parameter.copy_(torch.from_numpy(pieces[name]))
        attached = model.losses(sequences).detach()
    before = model.parameters()
    changes = expand(update, layout=model.layout(plan), plan=plan, parameters=before)
    model.load({n: v + changes.get(n, np.float32(0)) for n, v in before.items()})
    folded = model.losses(sequences).detach()
    model.load(before)
    torch.testing.assert_close(attached, folded, rtol=1e-5, atol=1e-6)
    assert not torch.equal(folded, model.losses(sequences).detach())


def test_the_low_rank_mean_is_the_mean_of_the_dense_updates(
    model: LanguageModel,
) -> None:
    plan = _plan()
    layout = model.layout(plan)
    parameters = model.parameters()
    updates = [_update(model, plan, text * 3) for text in ("ciao ", "Привіт ", "안녕 ")]
    mean = np.asarray(np.mean(updates, axis=0, dtype=np.float64), dtype=np.float32)
    folded = expand(mean, layout=layout, plan=plan, parameters=parameters)
    dense = [
        expand(u, layout=layout, plan=plan, parameters=parameters) for u in updates
    ]
    for name in folded:
        want = np.mean([d[name] for d in dense], axis=0, dtype=np.float64)
        scale = np.abs(want).max()
        assert scale > 0
        assert np.abs(folded[name] - want).max() <= 1e-6 * scale


def test_averaging_both_factors_would_not_be_exact() -> None:
    """The control: what the public factor spares us is no rounding error."""
    generator = np.random.default_rng(1)
    pairs = [
        (generator.normal(size=(6, 2)), generator.normal(size=(2, 6))) for _ in "123"
    ]
    want = np.mean([b @ a for b, a in pairs], axis=0)
    naive = np.mean([b for b, _ in pairs], axis=0) @ np.mean(
        [a for _, a in pairs], axis=0
    )
    assert np.abs(naive - want).max() > 0.1 * np.abs(want).max()


def test_padding_changes_no_loss(model: LanguageModel) -> None:
    sequences = [[256, 40, 41], [5, 6], list(range(30)), [9] * 11]
    together = model.losses(sequences).detach()
    alone = torch.cat([model.losses([s]).detach() for s in sequences])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


def test_a_loss_is_the_mean_over_the_tokens_of_its_own_sequence(
    model: LanguageModel,
) -> None:
    sequence = [256, 40, 41, 42, 43]
    with torch.no_grad():
        logits_TV = model.module(torch.tensor([sequence])).logits[0]
    chances_TV = torch.log_softmax(logits_TV, dim=-1)
    want = -sum(chances_TV[i, t].item() for i, t in enumerate(sequence[1:])) / 4
    assert model.losses([sequence, [1, 2]])[0].item() == pytest.approx(want, rel=1e-6)


@given(count=st.integers(0, 70), length=st.integers(8, 20))
def test_windows_predict_each_token_once(
    model: LanguageModel, count: int, length: int
) -> None:
    text = "abcdefghij" * 7
    units = model.encode([text[:count]], sequence_length=length)
    sequences = [s for unit in units for s in unit.rows]
    assert all(2 <= len(s) <= length for s in sequences)
    predicted = [t for s in sequences for t in s[1:]]
    assert bytes(model.tokenizer.decode(predicted), "ascii") == text[:count].encode()
    assert [s[0] for s in sequences[:1]] == ([256] if count else [])


def test_a_special_token_spelled_in_a_text_stays_text(model: LanguageModel) -> None:
    (unit,) = model.encode(["</s>"], sequence_length=16)
    assert len(unit.rows[0]) == 5


def test_an_evaluation_counts_all_bits_and_all_bytes(model: LanguageModel) -> None:
    score = model.evaluate(TEXTS, sequence_length=16)
    assert score.size == sum(len(text.encode()) for text in TEXTS)
    units = model.encode(TEXTS, sequence_length=16)
    nats = sum(
        model.losses([s]).item() * (len(s) - 1) for unit in units for s in unit.rows
    )
    assert score.amount == pytest.approx(nats / math.log(2), rel=1e-5)
    assert model.evaluate(TEXTS, sequence_length=16) == score
    for text, bits in zip(TEXTS, score.amounts, strict=True):
        alone = model.evaluate([text], sequence_length=16)
        assert bits == pytest.approx(alone.amount, rel=1e-5)
    assert 7 < score.score < 9  # a random model of bytes knows nothing


def test_a_coarse_evaluation_is_close(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "multiplies_bfloat16", lambda: True)
    exact = model.evaluate(TEXTS, sequence_length=16)
    score = model.evaluate(TEXTS, sequence_length=16, coarse=True)
    assert score.size == exact.size
    assert score.amount != exact.amount
    assert score.amount == pytest.approx(exact.amount, rel=1e-3)


def test_a_processor_without_bfloat16_evaluates_exactly(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "multiplies_bfloat16", lambda: False)
    exact = model.evaluate(TEXTS, sequence_length=16)
    assert model.evaluate(TEXTS, sequence_length=16, coarse=True) == exact


def test_without_a_start_token_the_first_token_costs_a_uniform_choice(
    model: LanguageModel,
) -> None:
    headless = LanguageModel(model.module, _without_start(model.tokenizer))
    score = headless.evaluate(["a", ""], sequence_length=16)
    assert score.amount == pytest.approx(math.log2(len(headless.tokenizer)))
    assert headless.encode(["a"], sequence_length=16) == []


def test_saving_and_opening_gives_identical_parameters(
    model: LanguageModel, tmp_path: Path
) -> None:
    model.save(tmp_path / "base")
    again = LanguageModel.open(tmp_path / "base")
    assert parameters_digest(again.parameters()) == parameters_digest(
        model.parameters()
    )
    assert again.layout(_plan()) == model.layout(_plan())
    assert again.encode(TEXTS, sequence_length=16) == model.encode(
        TEXTS, sequence_length=16
    )
    names = {path.name for path in (tmp_path / "base").iterdir()}
    assert "model.safetensors" in names
    assert not any(name.endswith((".bin", ".pt", ".gguf")) for name in names)
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "base").iterdir()}
    assert modes == {0o644}


def test_a_file_in_the_way_is_named(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused(ResourceError, "file-unwritable", match=str(tmp_path / "file")):
        model.save(tmp_path / "file")


@pytest.mark.slow
def test_a_saved_base_loads_with_plain_transformers(
    model: LanguageModel, tmp_path: Path
) -> None:
    model.save(tmp_path)
    program = """
import json, sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokens = transformers.AutoTokenizer.from_pretrained(sys.argv[1])("ciao").input_ids
loss = model(input_ids=torch.tensor([tokens]), labels=torch.tensor([tokens])).loss
print(json.dumps([tokens, loss.item(), "tapestry" in sys.modules]))
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    out = subprocess.run(
        command, capture_output=True, check=True, cwd=tmp_path, env=os.environ.copy()
    )
    tokens, loss, ours = json.loads(out.stdout)
    assert tokens == [
        256,
        *model.encode(["ciao"], sequence_length=8)[0].rows[0][1:],
    ]
    assert loss == pytest.approx(model.losses([tokens]).item(), rel=1e-5)
    assert not ours


def test_loading_refuses_other_names_and_shapes(model: LanguageModel) -> None:
    good = model.parameters()
    name = next(iter(good))
    with refused(ProtocolError, "tensor-set-differs", match="extra"):
        model.load({**good, "extra": np.zeros(1, dtype=np.float32)})
    with refused(ProtocolError, "tensor-set-differs", match=name):
        model.load({n: v for n, v in good.items() if n != name})
    with refused(ProtocolError, "tensor-shape-differs", match=name):
        model.load({**good, name: good[name][:-1]})


def test_parameters_are_copies(model: LanguageModel) -> None:
    values = model.parameters()
    for value in values.values():
        np.add(value, 1, out=value)
    assert parameters_digest(values) != parameters_digest(model.parameters())


def test_wrong_targets_and_ranks_are_named(model: LanguageModel) -> None:
    with refused(ConfigError, "target-module-unknown", match=r"'w_proj'.*q_proj"):
        model.layout(_plan(targets=("q_proj", "w_proj")))
    with refused(ConfigError, "target-module-missing"):
        model.layout(_plan(targets=()))
    with refused(ConfigError, "rank-zero", match="rank 0"):
        model.layout(_plan(rank=0))


def test_folders_that_are_no_models_are_named(tmp_path: Path) -> None:
    with refused(ConfigError, "model-config-missing", match=str(tmp_path)):
        LanguageModel.open(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with refused(ConfigError, "weights-missing", match=str(tmp_path)):
        LanguageModel.open(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with refused(ConfigError, "file-size-invalid", match="0 bytes"):
        LanguageModel.open(tmp_path)


def test_completion_is_the_same_each_time(model: LanguageModel) -> None:
    first = model.complete_all(["ciao"], max_tokens=6)[0]
    assert model.complete_all(["ciao"], max_tokens=6)[0] == first
    assert model.complete_all([""], max_tokens=2)[0] is not None


def _without_start(tokenizer: object) -> object:
    class Headless:
        bos_token_id = None
        eos_token_id = 257

        def __call__(self, texts: object, **options: object) -> object:
            options["add_special_tokens"] = False
            return tokenizer(texts, **options)  # type: ignore[operator]

        def decode(self, tokens: object, **options: object) -> object:
            return tokenizer.decode(tokens, **options)  # type: ignore[attr-defined]

        def __len__(self) -> int:
            return 259

    return Headless()
