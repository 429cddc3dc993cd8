"""Public text that would spoil an adapter is refused before the adapter is paid for."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry import cli
from tapestry.errors import ConfigError
from tapestry.model.replica import Replica
from tapestry.workloads.language import base_models
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.public_text import FILE, read
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_governance.events.model_events import AdapterPublished
from tests.support.federation import NAMES, Base, Federation
from tests.support.node_folders import objections_of
from tests.support.refusals import refused

TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TWO_TURNS = (
    "{% if messages|length > 2 %}{{ raise_exception('two turns only') }}{% endif %}"
    + TURNS
)
NO_PROMPTS = (
    "{% if messages|length == 1 %}{{ raise_exception('no prompts') }}{% endif %}"
    + TURNS
)
CANARY = "canary"


def dialogue(*turns: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(turns)
    messages = [
        {"role": role, "content": turn}
        for role, turn in zip(roles, turns, strict=False)
    ]
    return {"messages": messages}


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


GOOD = dialogue("una?", "due"), {"text": "una canary frase"}
Spoil = Callable[[Path], object]


def held_out(*rows: Any) -> Spoil:
    return lambda node: (node / FILE).write_text(lines(*rows))


def records_of(node: Path) -> list[str]:
    rows = (node / "data" / "text.jsonl").read_text("utf-8").splitlines()
    return [json.loads(row)["text"] for row in rows]


def in_the_way(name: str, make: Callable[[Path], object]) -> Spoil:
    def spoil(node: Path) -> None:
        (node / name).parent.mkdir(exist_ok=True)
        make(node / name)

    return spoil


def template(text: str | None) -> LanguageWorkload:
    model = build_tiny()
    model.tokenizer.chat_template = text
    return model


# What lies there, the base's chat template, and what is said of it.
CASES: dict[str, tuple[Spoil, str | None, str]] = {
    "four turns": (
        held_out(*GOOD, dialogue("a canary?", "b", "c?", "d")),
        TWO_TURNS,
        "held-out.jsonl, line 3: the chat template refuses a dialogue of 4 turns",
    ),
    "a prompt": (
        held_out({"text": "canary"}, *GOOD),
        NO_PROMPTS,
        "held-out.jsonl, line 2: the chat template refuses a dialogue of 1 turns",
    ),
    "no text": (
        held_out(*GOOD, {"text": 5}),
        None,
        'held-out.jsonl, line 3: "text" is a number',
    ),
    "empty": (held_out(), None, "held-out.jsonl: is empty"),
    "a FIFO": (
        in_the_way(FILE, os.mkfifo),
        None,
        "held-out.jsonl: is a FIFO, socket or device",
    ),
    "a folder": (in_the_way(FILE, Path.mkdir), None, "held-out.jsonl: cannot read it"),
    "a dead link": (
        in_the_way(FILE, lambda path: path.symlink_to("nowhere")),
        None,
        "held-out.jsonl: cannot read it",
    ),
    "a file for a folder": (
        in_the_way("adapters", Path.touch),
        None,
        "adapters: is no folder; move it away",
    ),
    "a file for a version": (
        in_the_way("adapters/fr-1", Path.touch),
        None,
        "adapters/fr-1: is no plain folder; move it away",
    ),
    "a link for a version": (
        in_the_way("adapters/fr-1", lambda path: path.symlink_to(".")),
        None,
        "adapters/fr-1: is no plain folder; move it away",
    ),
    "a FIFO for an update": (
        in_the_way("adapters/fr-2.0.update", os.mkfifo),
        None,
        "adapters/fr-2.0.update: is no plain file; move it away",
    ),
}
CASES["a record"] = (
    lambda node: held_out({"text": "canary"}, {"text": records_of(node)[3]})(node),
    None,
    "held-out.jsonl, line 2: repeats a private record",
)
CASES["a record as a question"] = (
    lambda node: held_out(dialogue(records_of(node)[0], "canary"))(node),
    None,
    "held-out.jsonl, line 1: repeats a private record",
)
QUICK = {"four turns", "a file for a folder", "a record"}


@pytest.fixture(
    params=[
        pytest.param(case, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, case in CASES.items()
    ]
)
def spoiled(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Federation, str]]:
    spoil, text, said = request.param
    model = template(text)
    federation = Federation(
        tmp_path / "federation",
        Base(workload=model, replica=Replica.start(model.given)),
        coordinator={"adapters": True},
        institutions={name: {"adapter": {"publish": name == "fr"}} for name in NAMES},
    )
    spoil(federation.directory / "nodes" / "fr")
    yield federation, said
    federation.close()


@pytest.mark.slow
def test_what_could_not_be_published_is_not_paid_for(
    spoiled: tuple[Federation, str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    federation, said = spoiled
    for _ in range(2):
        federation.run()
    assert said in caplog.text
    assert federation.said(AdapterPublished) == []
    rows = federation.nodes["fr"].ledger.rows()
    assert [row.charge.purpose for row in rows] == ["round"]
    found = [each.detail for each in objections_of(federation.nodes["fr"])]
    (line,) = [line for line in found if line.startswith("the adapter: ")]
    assert said in line
    federation.close()
    monkeypatch.setattr(
        base_models, "open_base", lambda *_, **__: federation.base.workload
    )
    with pytest.raises(SystemExit) as done:
        cli.main(["node", "check", str(federation.directory / "nodes" / "fr")])
    assert done.value.code == 2
    printed = capsys.readouterr().out
    assert f"{said}" in printed
    assert printed.endswith("\nnot ready\n")
    assert CANARY not in printed + caplog.text
    for record in records_of(federation.directory / "nodes" / "fr"):
        assert record not in printed + caplog.text


def test_nothing_of_a_line_that_repeats_a_record_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_fault(_: LanguageWorkload, text: Any) -> str | None:
        return f"the base does not know U+03A9 of {len(text)}" if "Ω" in text else None

    monkeypatch.setattr(LanguageWorkload, "find_fault", find_fault)
    held_out({"text": "a record Ω"}, {"text": "public Ω"})(tmp_path)
    with refused(ConfigError, "many-faults") as found:  # of the first line it is said
        read(tmp_path, model=template(None), repeated=lambda _: [0])
    first, second = str(found.value).split("line 2")
    assert "repeats a private record" in first
    assert "U+03A9" not in first
    assert "U+03A9" in second


def test_a_prompt_that_the_base_cannot_answer_is_named(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one longer than the positions that a model has learned."""
    honest = LanguageWorkload.complete_all

    def complete_all(self: LanguageWorkload, prompts: Any, **rest: Any) -> list[str]:
        if any(len(str(prompt)) > 100 for prompt in prompts):
            raise IndexError("index out of range in canary")
        return honest(self, prompts, **rest)

    monkeypatch.setattr(LanguageWorkload, "complete_all", complete_all)
    federation = Federation(tmp_path / "federation", base)
    node = federation.nodes["fr"]
    long = dialogue("canary " * 40, "b")
    (node.directory / FILE).write_text(lines(dialogue("a?", "b"), {"text": "c"}, long))
    (line,) = [each.detail for each in objections_of(node)]
    assert "line 3: the base cannot answer its prompt: IndexError; shorten it" in line
    assert CANARY not in line
    federation.close()


@pytest.mark.slow
def test_what_was_looked_at_is_what_is_published(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of the file while the adapter is trained."""
    from tapestry_node.adapters import adapter_trainer

    federation = Federation(
        tmp_path / "federation",
        base,
        coordinator={"adapters": True},
        institutions={name: {"adapter": {"publish": name == "fr"}} for name in NAMES},
    )
    public = federation.directory / "nodes" / "fr" / FILE
    public.write_text(lines({"text": "what is known to everybody here"}))
    honest = adapter_trainer.train

    def train(*arguments: Any, **rest: Any) -> Any:
        public.write_text(lines({"text": "another text that nobody looked at"}))
        return honest(*arguments, **rest)

    monkeypatch.setattr(adapter_trainer, "train", train)
    federation.run()
    assert len(federation.said(AdapterPublished)) == 1
    card = federation.coordinator / "adapters" / "fr" / "README.md"
    assert "what is known" in card.read_text("utf-8")
    assert "another text" not in card.read_text("utf-8")
    federation.close()


def test_a_folder_without_public_text_gives_none(tmp_path: Path) -> None:
    """And a line that is no text is refused."""
    model = template(None)

    def found() -> list[Any]:
        return read(tmp_path, model=model, repeated=lambda _: [])

    assert found() == []
    (tmp_path / FILE).write_text(lines({"text": "una frase"}))
    assert found() == ["una frase"]
    (tmp_path / FILE).write_text(lines({"txt": "una frase"}))
    with refused(ConfigError, "record-invalid", match="line 1"):
        found()
