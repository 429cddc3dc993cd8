"""Rows of several adapters in one batch: each gives what it gives alone."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tapestry.artifacts.adapter_folder import AdapterFolder
from tapestry.errors import ConfigError
from tapestry.vectors import parameters_digest
from tapestry.workloads.adapter_format import BaseName
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.peft_folder import write_peft
from tapestry.workloads.language.published_adapter import read_adapter
from tapestry_serve.engine import BusyError, Event, Finished, Job, ScoredToken
from tapestry_serve.torch_engine import BASE, EngineLimits, TorchEngine
from tests.support import plans
from tests.support.refusals import refused

NAMES = ("de", "it", "fr")
TARGETS = {"de": ("q_proj", "down_proj"), "it": ("v_proj",), "fr": ("q_proj", "o_proj")}
ENDS = frozenset({257})


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.set_num_threads(1)
    return build_tiny()


@pytest.fixture(scope="module")
def adapters(
    model: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, AdapterFolder]:
    base = BaseName(name="base-1", digest=parameters_digest(model.parameters()))
    found = {}
    for number, name in enumerate(NAMES):
        plan = plans.training_plan(
            parameterization="low_rank", rank=2 + number, targets=TARGETS[name]
        )
        generator = np.random.default_rng(number)
        update = generator.normal(size=model.layout(plan).length).astype(np.float32)
        place = tmp_path_factory.mktemp("adapters") / name
        write_peft(place, update, model=model, plan=plan, base=base)
        (place / "README.md").write_text(f"# {name}\n")
        found[name] = read_adapter(place)
    return found


@pytest.fixture
def engine(
    model: LanguageModel, adapters: dict[str, AdapterFolder]
) -> Iterator[TorchEngine]:
    found = TorchEngine(model, adapters, limits=EngineLimits(rows=4))
    try:
        yield found
    finally:
        found.close()


class Answer:
    """Collects what an engine tells of a job."""

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()

    def tell(self, event: Event) -> None:
        self.events.put(event)

    def whole(self) -> tuple[list[ScoredToken], Finished]:
        found = []
        while isinstance(event := self.events.get(timeout=60), ScoredToken):
            found.append(event)
        return found, event

    def tokens(self) -> list[int]:
        return [each.token for each in self.whole()[0]]


def job(prompt: str, model: str = BASE, **changes: object) -> Job:
    values: dict[str, object] = {
        "model": model,
        "prompt": tuple(prompt.encode()),
        "max_tokens": 12,
        "ends": ENDS,
    }
    return Job(**{**values, **changes})  # type: ignore[arg-type]  # a test's shorthand


def asked(engine: TorchEngine, one: Job) -> Answer:
    answer = Answer()
    engine.submit(one, answer.tell)
    return answer


def alone(
    model: LanguageModel, adapters: dict[str, AdapterFolder], one: Job
) -> list[int]:
    """Decode a job with one adapter as plain PEFT does, without a batch or a cache."""
    found = list(one.prompt)

    def decode() -> list[int]:
        with torch.no_grad():
            for _ in range(one.max_tokens):
                out = model.module(input_ids=torch.tensor([found]), use_cache=False)
                token = int(out.logits[0, -1].argmax())
                if token in one.ends:
                    break
                found.append(token)
        return found[len(one.prompt) :]

    if one.model == BASE:
        return decode()
    with model.adapted(adapters[one.model]):
        return decode()


def test_rows_of_all_models_together_give_what_each_gives_alone(
    model: LanguageModel, adapters: dict[str, AdapterFolder]
) -> None:
    jobs = [
        job(text, name, max_tokens=length)
        for name in (BASE, *NAMES)
        for text, length in (("a", 12), ("quite a long prompt " * 3, 5), ("Grüße", 9))
    ]
    want = [alone(model, adapters, each) for each in jobs]
    engine = TorchEngine(model, adapters, limits=EngineLimits(rows=4))
    try:
        answers = []
        for each in jobs:  # they join while others are on their way, and leave
            answers.append(asked(engine, each))
            time.sleep(0.01)
        found = [answer.tokens() for answer in answers]
    finally:
        engine.close()
    assert found == want
    assert len({tuple(each) for each in want}) > 6
    assert alone(model, adapters, jobs[0]) == want[0]  # the model is as it was


def test_a_seed_gives_the_same_draw_whatever_runs_beside_it(
    engine: TorchEngine,
) -> None:
    drawn = job("hello", "de", temperature=1.0, seed=5, max_tokens=20)
    first = asked(engine, drawn).tokens()
    others = [asked(engine, job("x" * n, "it", temperature=1.0)) for n in (3, 30)]
    again = asked(engine, drawn)
    assert again.tokens() == first
    assert asked(engine, job("hello", "de", temperature=1.0, seed=6)).tokens() != first
    assert all(other.whole()[1].reason in {"stop", "length"} for other in others)


def test_top_p_draws_from_the_likeliest_alone(engine: TorchEngine) -> None:
    greedy = asked(engine, job("hello", "de")).tokens()
    for seed in range(5):
        one = job("hello", "de", temperature=1.0, top_p=1e-9, seed=seed)
        assert asked(engine, one).tokens() == greedy


def test_log_probabilities_are_those_of_the_model(
    engine: TorchEngine, adapters: dict[str, AdapterFolder]
) -> None:
    text = [65, 66, 67, 68, 69]
    found = engine.score("de", text, alternatives=3)
    other = build_tiny()
    with other.adapted(adapters["de"]), torch.no_grad():
        logits_TV = other.module(input_ids=torch.tensor([text])).logits[0]
    want_TV = torch.log_softmax(logits_TV.float(), dim=-1)
    assert [each.token for each in found] == text[1:]
    for place, each in enumerate(found):
        assert each.logprob == pytest.approx(
            want_TV[place, each.token].item(), abs=1e-5
        )
        best = want_TV[place].topk(3)
        assert [token for token, _ in each.alternatives] == best.indices.tolist()
    told, _ = asked(engine, job("ABCDE", "de", alternatives=2, max_tokens=1)).whole()
    assert told[0].logprob == told[0].alternatives[0][1]


def test_a_job_whose_client_has_gone_ends_before_its_next_token(
    engine: TorchEngine,
) -> None:
    answer = Answer()
    first = threading.Event()

    def tell(event: Event) -> None:
        answer.tell(event)
        first.set()

    ticket = engine.submit(job("hello", max_tokens=900), tell)
    assert first.wait(60)
    ticket.cancel()
    told, end = answer.whole()
    assert end.reason == "cancelled"
    assert len(told) < 900


def test_a_full_queue_is_told_and_loses_nothing(
    model: LanguageModel, adapters: dict[str, AdapterFolder]
) -> None:
    engine = TorchEngine(
        model, adapters, limits=EngineLimits(rows=1, jobs=2, tokens=40)
    )
    try:
        answers = [asked(engine, job("hello", max_tokens=300))]
        while answers[0].events.empty():
            time.sleep(0.001)
        answers += [asked(engine, job("x", max_tokens=1)) for _ in range(2)]
        with refused(BusyError, "queue-full"):
            engine.submit(job("x"), lambda _: None)
        assert [len(each.tokens()) for each in answers[1:]] == [1, 1]
        with refused(BusyError, "queue-full"):
            engine.submit(job("x" * 41), lambda _: None)
    finally:
        engine.close()


def test_what_cannot_be_computed_is_refused(engine: TorchEngine) -> None:
    with refused(ConfigError, "model-unknown"):
        engine.submit(job("x", "__base__"), lambda _: None)
    with refused(ConfigError, "prompt-too-long", match="1024"):
        engine.submit(job("x" * 1024), lambda _: None)
    with refused(ConfigError, "model-unknown"):
        engine.score("nobody", [1, 2], alternatives=0)


def test_a_text_whose_logits_are_too_many_is_not_scored(model: LanguageModel) -> None:
    size = len(model.tokenizer)
    engine = TorchEngine(model, {}, limits=EngineLimits(logits_bytes=4 * size * 5))
    try:
        assert len(engine.score(BASE, [1] * 5, alternatives=0)) == 4
        with refused(ConfigError, "score-too-long", match="6 tokens .* 5 fit"):
            engine.score(BASE, [1] * 6, alternatives=0)
    finally:
        engine.close()


def test_an_answer_ends_at_the_positions_of_the_model(engine: TorchEngine) -> None:
    told, end = asked(engine, job("x" * 1020, max_tokens=50, ends=frozenset())).whole()
    assert (len(told), end.reason) == (4, "length")


def test_a_fault_of_one_pass_ends_its_rows_and_the_thread_goes_on(
    engine: TorchEngine, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = model.module.forward

    def fail(*_: object, **__: object) -> object:
        raise RuntimeError("a secret prompt")

    monkeypatch.setattr(model.module, "forward", fail)
    told, end = asked(engine, job("hello")).whole()
    assert not told
    assert end.fault is not None
    assert end.fault.code == "engine-failed"
    assert "secret" not in str(end.fault)
    monkeypatch.setattr(model.module, "forward", plain)
    assert asked(engine, job("hello")).tokens()


def test_a_row_without_finite_logits_ends_alone(
    engine: TorchEngine, model: LanguageModel
) -> None:
    def spoil(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        if len(logits) > 1:
            logits = logits.clone()
            logits[0] = float("nan")
        return logits

    head: Any = model.module.lm_head
    hook = head.register_forward_hook(spoil)
    try:
        pair = [asked(engine, job(text, max_tokens=3)) for text in ("one", "two")]
        ends = [answer.whole()[1] for answer in pair]
    finally:
        hook.remove()
    assert ends[0].fault is not None
    assert ends[0].fault.code == "model-not-finite"
    assert ends[1].fault is None


def test_closing_ends_every_job(
    model: LanguageModel, adapters: dict[str, AdapterFolder]
) -> None:
    engine = TorchEngine(model, adapters, limits=EngineLimits(rows=1))
    answers = [asked(engine, job("hello", max_tokens=900)) for _ in range(3)]
    engine.close()
    assert {answer.whole()[1].reason for answer in answers} == {"cancelled"}
    with refused(BusyError, "queue-full"):
        engine.submit(job("x"), lambda _: None)
    assert not any(hasattr(part, "base_layer") for part in model.module.modules())
