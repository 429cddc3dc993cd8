"""Records that nearly repeat another one are counted, and stay what they are."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.inputs.faults import Faults
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.near_duplicates import NearDuplicates
from tapestry.workloads.language.text_records import Corpus, TextReader

NOTE = "The patient of room seven coughs since the third of May and sleeps badly."
CHINESE = "七号病房的患者从五月三日开始咳嗽、晚上睡得不好、医生开了药、明天再来看。"


def alike(*records: Text) -> int:
    return NearDuplicates.of(records).alike


def sentences(number: int, *, words: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    letters = list("abcdefghilmnoprstuvz")
    known = [
        "".join(draw.choice(letters, size=draw.integers(2, 9))) for _ in range(500)
    ]
    return [" ".join(draw.choice(known, size=words)) for _ in range(number)]


@pytest.mark.parametrize(
    "other",
    [
        f"{NOTE}!",
        NOTE.replace("badly", "poorly"),
        NOTE.upper(),
        NOTE.replace(" ", "\n "),
        f"  {NOTE}",
        NOTE.removeprefix("The "),
        Dialogue(turns=(NOTE.removesuffix(" badly."), "Badly.")),
    ],
    ids=["mark", "word", "case", "spaces", "indent", "beginning", "dialogue"],
)
def test_a_text_that_was_hardly_changed_is_counted_once(other: Text) -> None:
    assert alike(NOTE, other) == alike(other, NOTE) == 1


def test_scripts_without_spaces_are_compared_as_well() -> None:
    assert alike(CHINESE, CHINESE.replace("明天", "后天") + "谢谢") == 0
    assert alike(CHINESE, CHINESE + "谢") == 1


@pytest.mark.parametrize(
    "others",
    [
        (),
        (NOTE,),  # exact repeats are the census's
        (NOTE[: len(NOTE) // 2],),
        (NOTE + NOTE[::-1],),
        (
            NOTE.replace("May", "June")
            .replace("seven", "nine")
            .replace("badly", "well"),
        ),
        ("a", "b", "", "ab"),
    ],
    ids=["one", "exact", "half", "longer", "three words", "tiny"],
)
def test_other_texts_are_not(others: tuple[str, ...]) -> None:
    assert alike(NOTE, *others) == 0


def test_the_repeats_in_a_crowd_of_forms_are_found_and_the_forms_are_not() -> None:
    """All share four fifths of their words, so that they meet in many bands."""
    (form,) = sentences(1, words=90, seed=1)
    texts = [f"{form} {rest}" for rest in sentences(600, words=20, seed=2)]
    again = [text.replace(" ", "  ", 1)[:-1] for text in texts[:100]]
    assert alike(*texts) == 0
    assert 99 <= alike(*texts, *again) <= 100


def test_the_index_that_counts_is_eight_tenths() -> None:
    """Of 400 runs, so many are others: 0.86 is counted, and 0.74 is not."""
    (text,) = sentences(1, words=80, seed=3)
    text = text[:404]
    assert alike(text, text[30:] + "0123456789" * 3) == 1  # 370 of 430
    assert alike(text, text[60:] + "".join(map(chr, range(0x400, 0x43C)))) == 0


@pytest.mark.slow
def test_of_many_records_a_sample_is_compared_and_it_is_said() -> None:
    found = NearDuplicates.of([f"{n} is number {n}" for n in range(10_001)])
    assert (found.measured, found.records) == (10_000, 10_001)
    ((label, text),) = found.lines()
    assert label == "repeats"
    assert text.endswith("; in 10000 of 10001 records, drawn by lot")


def test_the_count_is_told_and_that_no_record_is_left_out() -> None:
    few = NearDuplicates.of([NOTE, f"{NOTE}!"])
    assert [*few.lines()] == [
        ("repeats", "1 record nearly the same as another one; none is left out")
    ]
    assert few.to_json() == {"alike": 1, "measured": 2, "records": 2}


@settings(max_examples=20)
@given(st.lists(st.text("ab c\n", min_size=1, max_size=30), min_size=1, max_size=8))
def test_what_is_reported_changes_no_record(texts: list[str]) -> None:
    """Neither the records nor their order, keys or digests, as training has them."""
    with TemporaryDirectory() as place:
        paths = [Path(place) / f"{n}.txt" for n in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        before = [path.read_bytes() for path in paths]
        corpus = Corpus(language="it", licence="CC0-1.0", unit="record")
        first, again = (
            TextReader().read(paths, Faults(), manifest=corpus) for _ in "ab"
        )
        NearDuplicates.of(first.records)
        assert [*first.records] == [*again.records]
        assert [*first.keys] == [*again.keys]
        assert first.digests == again.digests
        assert len(first.records) == sum(not each.isspace() for each in texts)
        assert [path.read_bytes() for path in paths] == before
