"""The demo's dialogues are real, split by topic, and readable as a node's data."""

from pathlib import Path

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry.workloads.language.dialogue import Dialogue
from tapestry.workloads.language.text_records import TextReader
from tapestry_demo import corpora
from tapestry_node.data import records
from tests.support.public_texts import read_public_texts
from tests.support.refusals import refused

UNFIT = {
    "humor", "gossip", "politics", "botprofile", "perfilbot", "compliment", "unilab",
}  # fmt: skip


def _all(rows: dict[str, tuple[Dialogue, ...]]) -> list[Dialogue]:
    return [each for dialogues in rows.values() for each in dialogues]


@pytest.mark.parametrize("country", corpora.COUNTRIES)
def test_each_country_has_enough_dialogues_and_none_of_them_is_held_out(
    country: str,
) -> None:
    split = corpora.load(country)
    private, held_out = _all(split.private), _all(split.held_out)
    assert len(private) >= 200
    assert len(held_out) >= 30
    assert len(set(private + held_out)) == len(private + held_out)
    assert set(split.held_out) <= corpora.HELD_OUT
    assert len(split.held_out) == 2  # money and trivia, by whatever name
    assert not UNFIT & set(split.private)
    assert all(len(each.turns) == 2 and all(each.turns) for each in private + held_out)


def test_topics_with_several_answers_to_a_question_give_a_dialogue_each() -> None:
    answers = corpora.load("spain").private["emociones"]
    questions = {d.turns[0] for d in answers}
    assert len(answers) > 2 * len(questions)


def test_a_dialogue_is_cut_to_its_length_and_keeps_its_question() -> None:
    whole = _all(corpora.load("italy").private)
    cut = _all(corpora.load("italy", longest=80).private)
    assert max(len("".join(d.turns).encode()) for d in whole) > 80
    assert max(len("".join(d.turns).encode()) for d in cut) <= 80
    assert {d.turns[0] for d in cut} <= {d.turns[0] for d in whole}
    assert all(d.turns[1] for d in cut)


def test_what_is_prepared_is_a_data_folder(tmp_path: Path) -> None:
    corpora.prepare("italy", tmp_path)
    found = records.read(tmp_path / "private", TextReader())
    split = corpora.load("italy")
    assert found.manifest.languages == ("it",)
    assert set(found.records) == set(_all(split.private))
    held_out = read_public_texts(tmp_path / "held-out.jsonl")
    assert held_out == _all(split.held_out)
    corpora.prepare("italy", tmp_path)
    assert records.read(tmp_path / "private", TextReader()).digest == found.digest


def test_an_unknown_country_and_a_missing_package_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused(ConfigError, "country-unknown", match="'atlantis'; there is italy"):
        corpora.prepare("atlantis", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    corpora.load.cache_clear()
    with refused(ResourceError, "package-missing", match="chatterbot-corpus"):
        corpora.prepare("italy", tmp_path)
