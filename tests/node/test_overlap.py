"""Public text that repeats private text is found, whichever way it was copied."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.dialogue import Dialogue, Text
from tapestry_node import records
from tapestry_node.overlap import repeated

ASKED = Dialogue(turns=("Was fehlt?", "Ein Husten.", "Seit wann?", "Gestern."))


@pytest.mark.parametrize(
    ("public", "private"),
    [
        ("a patient coughs", "a patient coughs"),
        (" a  patient\ncoughs ", "a patient coughs\n"),
        ("a patient", "a patient coughs"),
        ("a patient coughs at night", "a patient coughs"),
        (ASKED, ASKED),
        (Dialogue(turns=("Was fehlt?", "Nichts.")), ASKED),
        (Dialogue(turns=("Hallo?", "Ja.", "Seit wann?", "Immer.")), ASKED),
        ("Seit wann?", ASKED),
        ("Ein Husten.", ASKED),
        (Dialogue(turns=("a patient coughs", "Yes.")), "a patient coughs"),
        (Dialogue(turns=("a patient coughs, why?", "Yes.")), "a patient coughs"),
    ],
    ids=str,
)
def test_a_copy_is_found(public: Text, private: Text) -> None:
    assert repeated(["quite another text", public], ["zzz", private]) == [1]


@pytest.mark.parametrize(
    ("public", "private"),
    [
        ("patients cough", "a patient coughs"),
        ("coughs", "a patient coughs"),  # said under Edge cases
        (Dialogue(turns=("Was noch?", "Ein Husten.")), ASKED),
        (Dialogue(turns=("\u200b", "Ja.")), Dialogue(turns=("\u200b", "Nein."))),
        (Dialogue(turns=("", "Ja.")), "a patient coughs"),
    ],
    ids=str,
)
def test_what_is_no_copy_is_not_taken_for_one(public: Text, private: Text) -> None:
    assert repeated([public], [private]) == []
    assert repeated([], [private]) == repeated([public], []) == []


words = st.lists(st.sampled_from(["a", "b", "ab", " "]), min_size=1).map("".join)


@given(st.lists(words, max_size=5), st.lists(words, max_size=5))
def test_it_finds_what_comparing_all_with_all_finds(
    public: list[str], private: list[str]
) -> None:
    ours = [" ".join(text.split()) for text in public]
    theirs = [each for text in private if (each := " ".join(text.split()))]
    wanted = [
        place
        for place, text in enumerate(ours)
        if text and any(text.startswith(t) or t.startswith(text) for t in theirs)
    ]
    assert repeated(public, private) == wanted


def test_a_row_of_a_record_of_several_rows_is_private_too(tmp_path: Path) -> None:
    (tmp_path / "corpus.toml").write_text(
        'language = "de"\nlicence = "CC0-1.0"\nunit = "record"\n'
    )
    rows = [{"id": "7", "text": text} for text in ("one visit", "the other visit")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = records.read(tmp_path)
    assert found.texts == ("one visit\nthe other visit",)
    assert repeated(["the other visit"], found.texts) == []
    assert repeated(["the other visit"], found.rows) == [0]
