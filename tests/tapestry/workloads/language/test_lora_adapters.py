"""Adapters of a language model: a PEFT folder, a card, and scores on public text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry.artifacts.adapter_folder import CARD
from tapestry.errors import ConfigError
from tapestry.vectors import parameters_digest
from tapestry.workloads.adapter_format import AdapterFacts, AdapterPromise, BaseName
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.dialogue import Dialogue
from tapestry.workloads.language.lora_adapters import LoraAdapters, score
from tapestry.workloads.language.published_adapter import read_adapter
from tapestry.workloads.language.text_records import Corpus
from tests.support.plans import training_plan
from tests.support.refusals import refused

PLAN = training_plan(
    parameterization="low_rank", rank=2, targets=("v_proj",), factor_seed="ab" * 32
)
PUBLIC = ["Il pane si fa con acqua e farina.", "Una ricetta vuole pazienza."]
PROMISE = AdapterPromise(
    unit="record",
    epsilon="7.9",
    ancestry_epsilon="6.5",
    fallback=None,
    target_delta="0.001",
    clip_norm="0.5",
    noise_multiplier="1.25",
    sampling_rate="0.25",
    steps=3,
)


@pytest.fixture(scope="module")
def adapters() -> LoraAdapters:
    return LoraAdapters(model=build_tiny())


@pytest.fixture(scope="module")
def update(adapters: LoraAdapters) -> Any:
    return np.full(adapters.model.layout(PLAN).length, 0.1, np.float32)


def _facts(**changes: Any) -> AdapterFacts:
    values: dict[str, Any] = {
        "name": "italy",
        "version": 2,
        "country": "Italy",
        "language": "it",
        "domain": "",
        "region": "",
        "licence": "Apache-2.0",
        "data": Corpus(language="it", licence="CC0-1.0", unit="record"),
        "base": BaseName(name="base-1", digest="sha256:" + "1" * 64),
        "promise": PROMISE,
    }
    return AdapterFacts(**(values | changes))


def test_a_folder_runs_as_the_update_did_and_its_card_has_the_scores(
    adapters: LoraAdapters, update: Any, tmp_path: Path
) -> None:
    model = adapters.model
    before = parameters_digest(model.parameters())
    scores = adapters.write(
        tmp_path / "italy", update, plan=PLAN, facts=_facts(), public=PUBLIC
    )
    assert scores == score(model, update, PUBLIC, plan=PLAN)
    assert scores["bits-per-byte/base"] != scores["bits-per-byte/adapter"]
    with model.adapted(read_adapter(tmp_path / "italy")):
        found = model.evaluate(PUBLIC, sequence_length=16).score
    assert found == pytest.approx(float(scores["bits-per-byte/adapter"]), abs=1e-4)
    card = (tmp_path / "italy" / CARD).read_text()
    assert all(value in card for value in scores.values())
    assert "epsilon 7.9 at delta 0.001" in card
    assert "Epsilon 6.5 is what led to the adapter" in card
    assert parameters_digest(model.parameters()) == before


def test_a_card_says_what_is_known_of_every_adapter(
    adapters: LoraAdapters, update: Any
) -> None:
    card = adapters.card(update, plan=PLAN, facts=_facts(promise=None), public=PUBLIC)
    assert (card.name, card.version, card.country) == ("italy", 2, "Italy")
    assert (card.language, card.text_licence) == ("it", "CC0-1.0")
    assert (card.licence, card.rank, card.promise) == ("Apache-2.0", 2, None)
    assert [sample.prompt for sample in card.samples]
    assert set(card.evaluation) == {"bits-per-byte/base", "bits-per-byte/adapter"}


def test_without_public_text_there_is_no_score_and_no_answer(
    adapters: LoraAdapters, update: Any
) -> None:
    card = adapters.card(update, plan=PLAN, facts=_facts(), public=[])
    assert (card.evaluation, card.samples, card.tokens) == ({}, (), ())


def test_public_text_is_read_and_lines_that_repeat_a_record_are_refused(
    adapters: LoraAdapters, tmp_path: Path
) -> None:
    path = tmp_path / "held-out.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in PUBLIC))
    read = adapters.read_public(tmp_path, repeated=lambda _: [])
    assert read == PUBLIC
    with refused(ConfigError, "text-repeats-record", match=r"held-out\.jsonl.*2"):
        adapters.read_public(tmp_path, repeated=lambda _: [1])


def test_a_question_of_a_private_dialogue_is_found_in_public_text(
    adapters: LoraAdapters,
) -> None:
    private = Dialogue(turns=("Chi era a cena ieri sera da noi?", "Maria."))
    public = ["Il pane si fa con acqua.", private.turns[0]]
    assert adapters.repeated([*public, private], [private]) == [1, 2]
    assert adapters.repeated(public, ["altro testo"]) == []
