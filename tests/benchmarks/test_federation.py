"""The benchmark of federation: its passages, its figures, and what it watches."""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from tapestry.workloads.language.base_models import build_tiny

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def _load(name: str) -> ModuleType:
    """Import a script of ``benchmarks`` as it is run: from its own folder."""
    sys.path.insert(0, str(FOLDER))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


passages, federation = _load("passages"), _load("federation")


def test_passages_join_to_the_text_and_fit_the_length() -> None:
    tokenizer = build_tiny().tokenizer  # reads bytes
    texts = ["eins zwei drei vier fünf", "sechs sieben", "acht neun zehn elf zwölf"]
    found = list(passages.cut(texts, tokenizer, 16))
    assert "\n".join(texts).startswith("".join(found))
    assert all(len(text.encode()) <= 16 for text in found)
    assert all(text[0].isspace() for text in found[1:])


def test_a_word_longer_than_a_passage_is_cut() -> None:
    found = list(passages.cut(["a" * 40], build_tiny().tokenizer, 16))
    assert all(found)


def test_picked_texts_are_spread_over_the_book() -> None:
    assert passages.spread([str(i) for i in range(10)], 5) == ["0", "2", "4", "6", "8"]


def _run(level: float) -> dict[str, object]:
    return {"bits_per_byte": dict.fromkeys(("de", "fr", "es", "id"), level)}


def test_figures_compare_federated_runs_seed_by_seed() -> None:
    rows = {
        "low_rank federated": [_run(1.1), _run(2.2)],
        "low_rank central": [_run(1.0), _run(2.0)],
        "low_rank alone": [{"on_others": 2.2}, {"on_others": 4.4}],
    }
    given = dict.fromkeys(("de", "fr", "es", "id"), 4.0)
    figures = federation.summarize(given, rows)
    assert figures["low_rank federated/central"] == pytest.approx(1.1)
    assert figures["low_rank federated/central se"] == pytest.approx(0)
    assert figures["low_rank federated/alone"] == pytest.approx(0.5)
    lines = list(federation.table(figures, list(rows)))
    assert len(lines) == 5  # head, rule, given, and runs with a score per language


def _corpora(folder: Path) -> Path:
    for language in federation.LANGUAGES:
        private = folder / language / "private"
        private.mkdir(parents=True)
        (private / "corpus.toml").write_text(
            f'language = "{language}"\nlicence = "GPL-2.0-or-later"\nunit = "record"\n'
        )
        rows = [f"{language} {i} " + "Wort und Wort " * 20 for i in range(12)]
        passages.write_lines(private / "book.jsonl", rows)
        passages.write_lines(folder / language / "held-out.jsonl", rows)
    return folder


@pytest.mark.slow
def test_a_seed_fixes_what_is_drawn_and_masks_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federation, "WORK", tmp_path)
    bench = federation.set_up(_corpora(tmp_path / "in"), base="tiny", exact=True)
    first = federation.measure(bench, "low_rank", "federated", 1)
    assert 4 <= first["bytes_up_per_parameter"] < 4.5
    path = tmp_path / "tiny" / "low_rank-federated-1.json"
    assert json.loads(path.read_text()) == first
    path.unlink()
    again = federation.measure(bench, "low_rank", "federated", 1)
    assert again["drawn"] == first["drawn"]
    assert max(again["masking_error"], first["masking_error"]) < 1e-6
