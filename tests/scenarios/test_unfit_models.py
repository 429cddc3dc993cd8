"""A model that cannot be trained costs nobody budget, and everybody is told why."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapestry import cli
from tapestry.errors import ConfigError, PolicyError
from tapestry.model.replica import Replica
from tapestry.protocol.messages import Kind, Reason
from tapestry.workloads import plan_checks
from tapestry.workloads.language import base_models
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_coordinator import round_plan, run
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import RoundOpened
from tapestry_node.refusal import Refused
from tests.scenarios.conftest import Found
from tests.support.federation import NAMES, Base, Federation
from tests.support.refusals import refused

DROPOUT = "no private training with dropout, and attention_dropout is 0.1; set it to 0"
PHI = "no private training of architecture 'phi'; tested are llama"


def with_dropout() -> LanguageWorkload:
    model = build_tiny()
    settings: Any = model.module.config
    settings.attention_dropout = 0.1
    return model


def phi() -> LanguageWorkload:
    import transformers

    config = transformers.PhiConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    module = transformers.PhiForCausalLM(config)
    return LanguageWorkload(module, build_tiny().tokenizer)


@pytest.fixture(params=[(with_dropout, DROPOUT), (phi, PHI)], ids=["dropout", "phi"])
def unfit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    build, said = request.param
    model = build()
    base = Base(workload=model, replica=Replica.start(model.given))
    federation = Federation(tmp_path / "federation", base, train=True)
    yield federation, said
    federation.close()


def charged(federation: Federation) -> int:
    return sum(len(node.ledger.rows()) for node in federation.nodes.values())


def test_a_coordinator_opens_no_round_of_an_unfit_model(
    unfit: tuple[Federation, str],
) -> None:
    federation, said = unfit
    with pytest.raises(ConfigError, match=said):
        federation.run()
    assert federation.said(RoundOpened) == []
    assert federation.wire.log == []
    assert charged(federation) == 0


def test_nodes_refuse_an_unfit_model_before_any_charge_and_the_run_ends(
    unfit: tuple[Federation, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A coordinator that does not look offers it all the same."""
    federation, said = unfit
    monkeypatch.setattr(run, "check_run", lambda *_, **__: None)
    blind = SimpleNamespace(**vars(plan_checks) | {"check_model": lambda *_: None})
    monkeypatch.setattr(round_plan, "plan_checks", blind)
    with refused(PolicyError, "plan-refused") as ended:
        federation.run()
    assert str(ended.value) == (
        "the run ends: round 1: 4 of 4 nodes refused: the model cannot be trained as"
        " the plan asks (model_unsupported); 0 nodes are left in round 1,"
        " want 3"
    )
    assert federation.refusals() == dict.fromkeys(NAMES, "model_unsupported")
    assert len(federation.aborted()) == len(federation.said(RoundOpened)) == 1
    assert charged(federation) == 0
    assert federation.said(DpAccounted) == []
    sent = [
        e.reply.body for e in federation.wire.replies(Kind.ADVERTISE_KEYS) if e.reply
    ]
    assert sent == [b'{"reason":"model_unsupported"}'] * len(NAMES)
    assert said in caplog.text  # on the node's own machine


def test_an_unfit_model_is_named_to_the_coordinators_operator(
    found: Found, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = found(institution={"policy": {"epsilon_limit": "0.001"}})
    with refused(
        PolicyError, "plan-refused", match=r"4 of 4 nodes refused: the privacy budget"
    ):
        federation.run()
    for options in ([], ["--json"]):
        with pytest.raises(SystemExit):
            cli.main(["coordinator", "status", str(federation.coordinator), *options])
        out = capsys.readouterr().out
        if options:
            (row,) = json.loads(out)["runs"][0]["rounds"]
            assert row["refused"] == dict.fromkeys(NAMES, "budget_exhausted")
        else:
            assert (
                "round 1   aborted\n          fi, fr, id, sw refused: the privacy"
                " budget does not cover it (budget_exhausted)\n"
            ) in out


@pytest.mark.slow
def test_a_demo_on_a_base_that_cannot_be_trained_prepares_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phi().save(tmp_path / "phi")
    with pytest.raises(SystemExit) as done:
        cli.main(
            ["demo", "--base", str(tmp_path / "phi"), "--out", str(tmp_path / "demo")]
        )
    assert done.value.code == 64
    assert PHI in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_node_check_names_an_unfit_model(
    unfit: tuple[Federation, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    federation, said = unfit
    federation.close()
    monkeypatch.setattr(
        base_models, "open_base", lambda *_, **__: federation.base.workload
    )
    with pytest.raises(SystemExit) as done:
        cli.main(["node", "check", str(federation.directory / "nodes" / "fr")])
    assert done.value.code == 2
    out = capsys.readouterr().out
    assert f"refused   {said}" in out
    assert out.splitlines()[-1] == "not ready"


@pytest.mark.slow
def test_one_node_that_lies_cannot_end_a_run(found: Found) -> None:
    federation = found(coordinator={"rounds": 2})
    _let_refuse(federation, "fr")
    federation.run()
    assert [c.outcome for c in federation.closed()] == ["applied"] * 2
    assert federation.refusals() == {"fr": "model_unsupported"}


def test_more_refusals_than_members_may_collude_end_a_run(found: Found) -> None:
    federation = found()
    for name in ("fr", "id"):
        _let_refuse(federation, name)
    with refused(
        PolicyError, "plan-refused", match="the run ends: round 1: 2 of 4 nodes refus"
    ):
        federation.run()
    assert len(federation.aborted()) == 1


def _let_refuse(federation: Federation, name: str) -> None:
    def check_round(*_: Any, **__: Any) -> Any:
        raise Refused(Reason.MODEL_UNSUPPORTED, "a lie", code="a-lie")

    trainer = federation.nodes[name].trainer
    vars(trainer)["trainable"] = SimpleNamespace(check_round=check_round)


@pytest.mark.slow
def test_a_training_that_failed_is_paid_for_once(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(coordinator={"rounds": 3})

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(vars(federation.nodes["fr"].trainer), "update", fail)
    federation.run()
    assert len(federation.nodes["fr"].ledger.rows()) == 1
    assert federation.refusals()["fr"] == "training_failed"
    assert len(federation.nodes["id"].ledger.rows()) == 3
    federation.restart("fr")
    assert federation.nodes["fr"].context.failed == set()


def test_a_training_that_fails_everywhere_ends_the_run_after_one_charge(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found()

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    for node in federation.nodes.values():
        monkeypatch.setitem(vars(node.trainer), "update", fail)
    with refused(
        PolicyError, "plan-refused", match=r"4 of 4 nodes refused: .*\(training_failed"
    ):
        federation.run()
    assert charged(federation) == len(NAMES)
    assert len(federation.aborted()) == 2


FEW_TURNS = (
    "{% if messages | length > 2 %}{{ raise_exception('two turns') }}{% endif %}"
    "{% for m in messages %}<s>{{ m.role }}{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant{% endif %}"
)


def test_held_out_text_that_the_base_cannot_read_opens_no_round(
    tmp_path: Path,
) -> None:
    model = build_tiny()
    model.tokenizer.chat_template = FEW_TURNS
    base = Base(workload=model, replica=Replica.start(model.given))
    federation = Federation(tmp_path / "federation", base, train=True)
    roles = ("user", "assistant") * 2
    turns = [{"role": role, "content": "a"} for role in roles]
    path = federation.run_folder / "held-out" / "fi.jsonl"
    with path.open("a") as file:
        file.write(json.dumps({"messages": turns}) + "\n")
    line = len(path.read_text().splitlines())
    with refused(
        ConfigError,
        "text-not-tokenizable",
        match=rf"fi\.jsonl.*{line}.*of 4 turns: two turns",
    ):
        federation.run()
    assert federation.said(RoundOpened) == []
    assert charged(federation) == 0
    federation.close()
