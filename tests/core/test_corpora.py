"""The demo's text is real, split by document, and readable as a node's data."""

from pathlib import Path

import pytest

from tapestry.cli import corpora
from tapestry.errors import ConfigError, ResourceError
from tapestry.text_reader import read_public_texts
from tapestry_node import records


@pytest.mark.parametrize("country", corpora.COUNTRIES)
def test_each_country_has_enough_text_and_none_of_it_is_held_out(country: str) -> None:
    split = corpora.load(country)
    private = [text for texts in split.private.values() for text in texts]
    held_out = [text for texts in split.held_out.values() for text in texts]
    assert len(private) >= 300
    assert len(held_out) >= 30
    assert len(set(private + held_out)) == len(private + held_out)
    assert set(split.held_out) == corpora.HELD_OUT
    assert not {"humor", "gossip", "politics", "botprofile"} & set(split.private)


def test_what_is_prepared_is_a_data_folder(tmp_path: Path) -> None:
    corpora.prepare("italy", tmp_path)
    found = records.read(tmp_path / "private")
    split = corpora.load("italy")
    assert found.corpus.language == "it"
    assert sorted(found.texts) == sorted(
        text for texts in split.private.values() for text in texts
    )
    held_out = read_public_texts(tmp_path / "held-out.jsonl")
    assert not set(held_out) & set(found.texts)
    corpora.prepare("italy", tmp_path)
    assert records.read(tmp_path / "private").digest == found.digest


def test_an_unknown_country_and_a_missing_package_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match="no demo text for 'atlantis'; there is italy"
    ):
        corpora.prepare("atlantis", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    corpora.load.cache_clear()
    with pytest.raises(ResourceError, match="pip install chatterbot-corpus"):
        corpora.prepare("italy", tmp_path)


def test_a_held_out_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_public_texts(tmp_path / "held-out.jsonl")
    (tmp_path / "x.jsonl").write_text('{"body": 1}\n')
    with pytest.raises(ConfigError, match="key 1 of 1 is not"):
        read_public_texts(tmp_path / "x.jsonl")
