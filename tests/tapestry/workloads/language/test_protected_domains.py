"""What a community keeps out, in whatever spelling, and nothing besides."""

import hashlib
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tapestry.errors import ConfigError
from tapestry.workloads.language.protected_domains import (
    DomainFilter,
    ProtectedDomain,
    folded,
)
from tests.support.refusals import refused
from tests.tapestry.workloads.language.test_text_records import (
    ANSWER,
    MANIFEST,
    QUESTION,
    _lines,
    _write,
    census,
    read,
)

pytest.importorskip("re2")


def domain(**fields: Any) -> ProtectedDomain:
    said = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return ProtectedDomain.model_validate({"id": "songs", **said})


def met(text: str, *labels: str, **fields: Any) -> bool:
    return DomainFilter([domain(**fields)]).keeps_out(text, labels)


@pytest.mark.parametrize(
    "text",
    [
        "The song of the river is sung at night.",
        "THE SONG OF THE RIVER",
        "song of\n  the\u00a0river",
        "so\u200bng of the ri\u00adver",
        "\uff53\uff4f\uff4e\uff47 of the river",
        "(song of the river)",
        "_song of the river_",
        "song-of-the-river",
        "song\u2010of the, river",
    ],
)
def test_a_term_is_found_in_each_spelling(text: str) -> None:
    assert met(text, terms=["Song of the River"])


@pytest.mark.parametrize(
    "text", ["a song of the rivers", "birdsong of the river", "song of rivers", ""]
)
def test_a_term_is_a_whole_word(text: str) -> None:
    assert not met(text, terms=["song of the river"])


def test_marks_that_spell_vowels_count() -> None:
    """Without them, Hindi ki and ka were one term."""
    assert met("यह की है", terms=["की"])
    assert not met("यह का है", terms=["की"])
    assert not met("यह कीड़ा है", terms=["की"])


def test_a_script_without_spaces_matches_inside() -> None:
    assert not met("这是河流之歌吗", terms=["河流之歌"])
    assert met("这是河流之歌吗", terms=["河流之歌"], whole_words=False)


def test_patterns_and_labels() -> None:
    assert met("see SONG-0042.", patterns=[r"\bSONG-[0-9]{4}\b"])
    assert met("see SO\u200bNG-0042.", patterns=[r"\bSONG-[0-9]{4}\b"])
    assert not met("see song-0042.", patterns=[r"\bSONG-[0-9]{4}\b"])
    assert met("anything", "public", "restricted", labels=["restricted"])
    assert met("anything", " Restricted", labels=["restricted"])
    assert not met("anything", "unrestricted", labels=["restricted"])
    assert not met("restricted", labels=["restricted"])


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({}, "has terms, patterns or labels"),
        ({"terms": ["\u200b"]}, "terms"),
        ({"terms": [""]}, "terms"),
        ({"patterns": ["(a)\\1"]}, "no pattern that RE2 takes: invalid escape"),
        ({"patterns": ["(?=a)b"]}, "no pattern that RE2 takes: invalid perl"),
        ({"patterns": ["(a{1000}){1000}"]}, "no pattern that RE2 takes"),
        ({"patterns": ["a*"]}, "matches the empty text"),
        ({"patterns": ["("]}, "missing"),
        ({"terms": ["a"], "id": "two words"}, "id"),
        ({"terms": ["a"], "word": 1}, "word"),
    ],
    ids=[
        "none",
        "hidden",
        "empty",
        "back",
        "ahead",
        "huge",
        "any",
        "open",
        "id",
        "key",
    ],
)
def test_a_domain_that_means_nothing_is_refused(
    fields: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValidationError, match=match):
        domain(**fields)


def test_two_domains_of_one_id_are_refused() -> None:
    with refused(ConfigError, "domain-duplicated", match="'songs'"):
        DomainFilter([domain(terms=["a"]), domain(terms=["b"])])


@pytest.mark.slow
def test_more_terms_than_fit_are_refused() -> None:
    terms = [hashlib.sha512(b"%d" % n).hexdigest() for n in range(20_000)]
    with refused(ConfigError, "domain-too-large", match="name fewer terms"):
        DomainFilter([domain(terms=terms)])


def test_what_is_met_is_counted_by_domain() -> None:
    found = DomainFilter([domain(terms=["a"]), domain(id="other", labels=["x"])])
    kept = [found.keeps_out(text, labels) for text, labels in (("a", "x"), ("b", "x"))]
    assert kept == [True, True]
    assert not found.keeps_out("b")
    assert found.met == {"songs": 1, "other": 1}


def test_a_pattern_that_other_engines_choke_on_takes_linear_time() -> None:
    assert not met("a" * 50_000 + "!", patterns=["^(a+)+$"])


@given(st.text(min_size=1, max_size=12), st.text(max_size=20), st.text(max_size=20))
def test_a_term_is_found_wherever_it_stands(term: str, left: str, right: str) -> None:
    try:
        kept_out = domain(terms=[term])
    except ValidationError:
        return
    text = f"{left} {term} {right}"
    for form in ("NFC", "NFD"):
        spelled = unicodedata.normalize(form, text)
        assert DomainFilter([kept_out]).keeps_out(spelled) or (
            f" {folded(term)} " not in f" {folded(spelled)} "
        )


DOMAINS = (
    MANIFEST
    + "\n[[domains]]\n"
    + 'id = "songs"\nterms = ["il canto"]\npatterns = ["CANTO-[0-9]+"]\n'
    + 'labels = ["segreto"]\n\n[[domains]]\nid = "rites"\nterms = ["rito lunare"]\n'
)


def test_what_is_protected_never_reaches_the_records(tmp_path: Path) -> None:
    """Row by row, before rows are joined, counted or tokenized."""
    rows: list[dict[str, object]] = [
        {"id": "1", "text": "ecco IL\u00a0CANTO del fiume"},
        {"id": "1", "text": "una riga"},
        {"id": "2", "text": "vedi CANTO-17"},
        {"text": "un testo", "label": "segreto"},
        {"text": "un altro"},
        {"messages": [QUESTION, {**ANSWER, "content": "il rito lunare"}]},
    ]
    rows = [{"label": "aperto", **row} for row in rows]
    found = read(
        _write(tmp_path, {"a.jsonl": _lines(*rows).encode()}, manifest=DOMAINS)
    )
    assert sorted(found.records) == ["un altro", "una riga"]
    assert census(found).kept_out == {"rites": 1, "songs": 3}
    assert census(found).records == 2


def test_where_a_domain_has_labels_each_row_has_one(tmp_path: Path) -> None:
    content = _lines({"text": "uno", "label": "aperto"}, {"text": "due"}).encode()
    with refused(ConfigError, "record-invalid", match='line 2: has no "label"'):
        read(_write(tmp_path, {"a.jsonl": content}, manifest=DOMAINS))


@given(st.lists(st.sampled_from(["il canto", "uno", "due", "tre"]), max_size=12))
def test_a_row_more_changes_no_other_record(texts: list[str]) -> None:
    """Adding or removing one unit leaves every other unit's bytes as they were."""
    rows = [{"id": f"P{n}", "text": text, "label": "a"} for n, text in enumerate(texts)]
    extra = {"id": "extra", "text": "uno", "label": "a"}

    def records_of(rows: list[dict[str, str]]) -> dict[str | None, object]:
        with tempfile.TemporaryDirectory() as folder:
            content = {
                "a.jsonl": _lines(*rows, {"text": "base", "label": "a"}).encode()
            }
            found = read(_write(Path(folder), content, manifest=DOMAINS))
            return dict(zip(found.keys, found.records, strict=True))

    whole = records_of([*rows, extra])
    assert whole.pop("extra") == "uno"
    assert whole == records_of(rows)


@pytest.mark.parametrize(
    ("domain", "code", "match"),
    [
        ('id = "a"', "setting-invalid", "terms, patterns or labels"),
        ('id = "a"\npatterns = ["(a"]', "setting-invalid", "RE2"),
        (
            'id = "a"\nterms = ["x"]\n[[domains]]\nid = "a"\nterms = ["y"]',
            "domain",
            "'a'",
        ),
    ],
    ids=["empty", "pattern", "twice"],
)
def test_a_domain_that_is_wrong_is_one_line(
    tmp_path: Path, domain: str, code: str, match: str
) -> None:
    manifest = f"{MANIFEST}\n[[domains]]\n{domain}\n"
    code = "domain-duplicated" if code == "domain" else code
    with refused(ConfigError, code, match=match):
        read(_write(tmp_path, {"a.txt": b"uno"}, manifest=manifest))
