"""What is counted without a model, and what is said where it cannot be counted."""

import sys
from pathlib import Path
from typing import Any, cast

import pytest

from tapestry.protocol.round_manifest import Options
from tapestry.workloads.language import language_counts
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.record_statistics import Coverage, Uncounted
from tapestry.workloads.language.record_survey import survey
from tapestry.workloads.language.text_records import Corpus
from tests.support.federation import Base

OPTIONS: Options = {"sequence_length": 16}
RECORDS: list[Text] = [
    "una frase di più di sedici byte",
    "una frase di più di sedici byte!",
    Dialogue(turns=("Ciao?", "Ciao!")),
    "",
]


@pytest.fixture(autouse=True)
def no_identifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """The languages are the matter of another test."""
    language_counts.load_identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)


@pytest.fixture
def folder(base: Base, tmp_path: Path) -> str:
    place = tmp_path / "base"
    cast("Any", base.workload).save(place)
    return str(place)


def counts(base: str, options: Options = OPTIONS, **more: Any) -> dict[str, Any]:
    corpus = Corpus(language="it", licence="CC0-1.0", unit="record")
    begin = more.get("begin", lambda _: None)
    return survey(RECORDS, corpus, base=base, options=options, begin=begin)


def test_tokens_are_counted_as_with_the_model(base: Base, folder: str) -> None:
    begun: list[str] = []
    found = counts(folder, begin=begun.append)
    assert begun == [*found] == ["near_duplicates", "identified_languages", "tokens"]
    examples = base.workload.examples(RECORDS, OPTIONS)
    told = base.workload.coverage(examples, OPTIONS, records=4)
    assert found["tokens"] == told
    assert isinstance(told, Coverage)
    assert (told.cut, told.without_loss, told.records) == (2, 1, 4)
    assert found["near_duplicates"].alike == 1
    assert "py3langid, which is not installed" in found["identified_languages"].reason


@pytest.mark.parametrize(
    ("base", "options", "said"),
    [
        ("gone", OPTIONS, "no base 'gone': say smollm2, tiny or the path of a model"),
        ("tiny", OPTIONS, "base 'tiny' is not in the cache yet; tapestry node check"),
        ("tiny", {"bound": 1}, "options.sequence_length: is missing"),
    ],
    ids=["no folder", "not made yet", "other options"],
)
def test_without_a_base_the_reason_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
    options: Options,
    said: str,
) -> None:
    monkeypatch.setenv("TAPESTRY_CACHE", str(tmp_path / "cache"))
    found = counts(base, options)["tokens"]
    assert isinstance(found, Uncounted)
    ((label, text),) = found.lines()
    assert label == "tokens"
    assert text.startswith("not counted: ")
    assert said in text
    assert "\n" not in text
    assert found.to_json() == {"not_counted": found.reason}
    assert not (tmp_path / "cache").exists()


def test_a_base_at_fault_is_told(folder: str) -> None:
    (Path(folder) / "tokenizer.json").write_text("{")
    found = counts(folder)["tokens"]
    assert "tokenizer.json is not JSON" in found.reason


def test_without_transformers_the_package_is_named(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "tapestry.workloads.language.base_tokenizer"
    monkeypatch.setitem(sys.modules, name, None)
    assert "pip install 'tapestry-federated[node]'" in counts(folder)["tokens"].reason


def test_languages_are_told_where_the_identifier_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(
        language_counts, "load_identifier", lambda: (lambda _: "fr", frozenset({"it"}))
    )
    found = counts("gone")["identified_languages"]
    assert (found.declared, found.records_in, found.untold) == ("it", {"fr": 2}, 2)
