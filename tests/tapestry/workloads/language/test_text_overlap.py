"""Public text that repeats private text is found, whichever way it was copied."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.text_overlap import beginning, repeated
from tapestry.workloads.language.text_records import TextReader
from tapestry_node.data import records

ASKED = Dialogue(turns=("Was fehlt?", "Ein Husten.", "Seit wann?", "Gestern."))


COUGH = "a patient coughs since the third of May"


@pytest.mark.parametrize(
    ("public", "private"),
    [
        (COUGH, COUGH),
        (f" {COUGH.replace(' ', '  ')}\n", COUGH.upper()),
        ("Was fehlt?", "Was fehlt?"),
        ("cafe\u0301", "caf\u00e9"),
        (COUGH[:25], COUGH),
        (f"{COUGH} and more", COUGH),
        # The card would print what both begin with.
        (f"{COUGH}, so she went and he left", f"{COUGH}, but nobody else did so here"),
        (ASKED, ASKED),
        (Dialogue(turns=("Was fehlt?", "Nichts.")), ASKED),
        (Dialogue(turns=("Hallo?", "Ja.", "Seit wann?", "Immer.")), ASKED),
        (Dialogue(turns=("Ein Husten.", "Ja.")), ASKED),
        ("Seit wann?", ASKED),
        ("Ein Husten.", ASKED),
        (Dialogue(turns=(COUGH, "Yes.")), COUGH),
        (Dialogue(turns=(f"{COUGH}, why?", "Yes.")), COUGH),
    ],
    ids=str,
)
def test_a_copy_is_found(public: Text, private: Text) -> None:
    assert repeated(["quite another text", public], ["zzz", private]) == [1]


@pytest.mark.parametrize(
    ("public", "private"),
    [
        ("patients cough", "a patient coughs"),
        ("coughs since the third of May", COUGH),  # said under Edge cases, as all here
        ("The", "The patient coughs"),
        ("Yes, the sky is blue.", "Yes"),
        (Dialogue(turns=("Was noch?", "Ein Husten.")), ASKED),
        (Dialogue(turns=("\u200b", "Ja.")), Dialogue(turns=("\u200b", "Nein."))),
        (Dialogue(turns=("", "Ja.")), "a patient coughs"),
    ],
    ids=str,
)
def test_what_is_no_copy_is_not_taken_for_one(public: Text, private: Text) -> None:
    assert repeated([public], [private]) == []
    assert repeated([], [private]) == repeated([public], []) == []


@pytest.mark.parametrize(("records", "found"), [(9, [0]), (10, [])])
def test_what_many_records_have_in_common_tells_of_none(
    records: int, found: list[int]
) -> None:
    asked = Dialogue(turns=("Describe the findings.", "Nothing was found."))
    private = [
        Dialogue(turns=("Describe the findings.", f"Finding {number}."))
        for number in range(records)
    ]
    assert repeated([asked], private * 2) == found
    forms = [f"Report of the radiology department: {n} days" for n in range(records)]
    assert repeated(["Report of the radiology department"], forms) == found
    assert repeated([forms[0]], forms) == [0]  # a whole text always


words = st.lists(st.sampled_from(["a" * 9, "b" * 9, "ab" * 9, " "]), min_size=1)
texts = st.lists(words.map("".join), max_size=5)


@given(texts, texts)
def test_it_finds_what_comparing_all_with_all_finds(
    public: list[str], private: list[str]
) -> None:
    ours = [{" ".join(text.split()), beginning(text)} for text in public]
    theirs = [each for text in private if (each := " ".join(text.split()))]
    wanted = [
        place
        for place, parts in enumerate(ours)
        if any(
            part == t
            or (part.startswith(t) and len(t) >= 20)
            or (t.startswith(part) and len(part) >= 20)
            for t in theirs
            for part in parts
            if part
        )
    ]
    assert repeated(public, private) == wanted


def test_a_row_of_a_record_of_several_rows_is_private_too(tmp_path: Path) -> None:
    (tmp_path / "corpus.toml").write_text(
        'language = "de"\nlicence = "CC0-1.0"\nunit = "record"\n'
    )
    rows = [{"id": "7", "text": text} for text in ("one visit", "the other visit")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = records.read(tmp_path, TextReader())
    assert [*found.records] == ["one visit\nthe other visit"]
    assert repeated(["the other visit"], found.records) == []
    assert repeated(["the other visit"], found.parts) == [0]
