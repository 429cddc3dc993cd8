"""The languages of records are told beside the declared one, and refuse nothing."""

import pickle
import socket
import sys

import pytest

from tapestry.errors import ResourceError
from tapestry.workloads.language import language_counts
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.language_counts import LanguageCounts
from tests.support.refusals import refused

pytest.importorskip("py3langid")

ITALIAN = "Il paziente presenta febbre e tosse da tre giorni, senza altri disturbi."
GERMAN = "Der Patient hat seit drei Tagen Husten und Fieber und schläft schlecht."
ENGLISH = "The patient has had a cough and a fever for three days and sleeps badly."


def test_each_record_counts_for_one_language() -> None:
    asked = Dialogue(turns=("Come sta oggi il paziente?", "Bene, ha dormito tutto."))
    records: list[Text] = [
        ITALIAN,
        f"{ITALIAN} {ITALIAN}",
        asked,
        ENGLISH,
        "How are you today?",
        "7" * 40,
    ]
    found = LanguageCounts.of(records, "it")
    assert found.to_json() == {
        "declared": "it",
        "records_in": {"it": 3, "en": 1},
        "untold": 2,
        "unknown": False,
        "measured": 6,
        "records": 6,
    }
    assert [*found.lines()] == [
        ("languages", "it 50 %, en 17 %, too short or unclear 33 %")
    ]


@pytest.mark.parametrize("declared", ["it", "it-IT", "de-Latn-AT"])
def test_a_declared_language_that_is_not_the_most_frequent_is_noted(
    declared: str,
) -> None:
    lines = [*LanguageCounts.of([GERMAN, GERMAN, ITALIAN], declared).lines()]
    said = ("note", f"declared is {declared}, and de is more frequent")
    assert (said in lines) == declared.startswith("it")


def test_a_language_that_the_identifier_does_not_know_is_not_disputed() -> None:
    assert len([*LanguageCounts.of([GERMAN], "gsw").lines()]) == 1
    norwegian = (
        "Pasienten har hatt hoste og feber i tre dager og sover dårlig om natten."
    )
    assert len([*LanguageCounts.of([norwegian], "nb-NO").lines()]) == 1


def test_only_the_beginning_of_a_record_is_looked_at() -> None:
    long = (ITALIAN * 20)[:1000] + GERMAN * 1000
    assert LanguageCounts.of([long], "it").records_in == {"it": 1}
    assert LanguageCounts.of([" " * 1000 + GERMAN], "it").untold == 1


def test_of_many_records_a_thousand_are_drawn() -> None:
    found = LanguageCounts.of([*[ITALIAN] * 900, *[ENGLISH] * 300], "it")
    assert (found.measured, found.records) == (1000, 1200)
    assert sum(found.records_in.values()) == 1000
    assert found.records_in["en"] >= 100
    ((_, text),) = found.lines()
    assert text.endswith(" %; in 1000 of 1200 records, drawn by lot")


def test_rare_languages_are_shown_together() -> None:
    counts = {f"l{n}": 100 - n for n in range(7)}
    found = LanguageCounts(
        declared="l0",
        records_in=counts,
        untold=1,
        unknown=False,
        measured=680,
        records=680,
    )
    ((_, text),) = found.lines()
    assert text.startswith("l0 15 %, l1 15 %, l2 14 %, l3 14 %, l4 14 %, others 28 %")
    assert text.endswith("too short or unclear under 1 %")


def test_without_the_identifier_the_package_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    language_counts.load_identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with refused(ResourceError, "package-missing", match=r"py3langid.*\[node\]"):
        LanguageCounts.of([ITALIAN], "it")


def test_the_identifiers_model_is_read_without_pickle_and_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    language_counts.load_identifier.cache_clear()

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError

    for place, name in ((pickle, "loads"), (pickle, "load"), (pickle, "Unpickler")):
        monkeypatch.setattr(place, name, forbidden)
    monkeypatch.setattr(socket, "socket", forbidden)
    assert LanguageCounts.of([ITALIAN], "it").records_in == {"it": 1}
