"""What a community keeps out, in whatever spelling, and nothing besides."""

import hashlib
import unicodedata
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
    assert not met("see song-0042.", patterns=[r"\bSONG-[0-9]{4}\b"])
    assert met("anything", "public", "restricted", labels=["restricted"])
    assert not met("anything", "Restricted", labels=["restricted"])
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
