r"""Protected domains: what a community keeps out of training.

A domain is a list of terms, patterns and document labels in ``corpus.toml``. A row that
one of them meets is left out before it is joined with others, counted or tokenized::

    [[domains]]
    id = "sacred-songs"
    terms = ["song of the river", "moon rite"]
    patterns = ['\bSONG-[0-9]{4}\b']
    labels = ["restricted"]

Terms are compared by their letters, marks and digits alone, without regard to case and
width (Unicode NFKC and case folding); marks count, as they spell vowels in many
scripts. Whatever stands between words counts as one space, and what cannot be seen as
nothing. Terms match whole words, unless ``whole_words = false``, for scripts that put
no space between words. Patterns are in the syntax of RE2, on the text in normal form C
without what cannot be seen: RE2 matches in a time linear in the text, whatever the
pattern. Labels are compared as terms are; where a domain has labels, each row has one.

Guarantees:
    A row is met or not by itself: no other row has any part in it. So leaving rows out
    changes nothing of the accounting. How many were left out depends on records and is
    for the operator alone.

Not protected:
    Letters of another script that look alike, other words for the same, and what is
    split over two rows.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from tapestry.errors import ConfigError, ResourceError
from tapestry.inputs.text_reader import is_invisible
from tapestry.schema import Name, Printable, Strict

_MAX_MEMORY = 16 << 20  # bytes of a compiled domain
_BETWEEN = r"[^\p{L}\p{M}\p{N}]+"
_Term = Annotated[Printable, Field(min_length=1, max_length=200, examples=["rite"])]
_Pattern = Annotated[
    Printable, Field(min_length=1, max_length=1000, examples=["SONG-[0-9]{4}"])
]


class ProtectedDomain(Strict):
    """Texts that are kept out, under one name."""

    id: Annotated[Name, Field(examples=["sacred-songs"])]
    terms: Annotated[tuple[_Term, ...], Field(max_length=20_000)] = ()
    patterns: Annotated[tuple[_Pattern, ...], Field(max_length=100)] = ()
    labels: Annotated[tuple[_Term, ...], Field(max_length=1000)] = ()
    whole_words: bool = True

    @field_validator("terms")
    @classmethod
    def _check_terms(cls, terms: tuple[str, ...]) -> tuple[str, ...]:
        for term in terms:
            if not folded(term):
                raise ValueError("a term has no letter or digit; take it out")
        return terms

    @field_validator("patterns")
    @classmethod
    def _check_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if _compile(pattern).search("") is not None:
                raise ValueError(f"{pattern!r} matches the empty text, and so each one")
        return patterns

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.terms or self.patterns or self.labels):
            raise ValueError("a domain has terms, patterns or labels")
        return self


class DomainFilter:
    """Some domains, ready to be asked; counts what it met."""

    def __init__(self, domains: Sequence[ProtectedDomain]) -> None:
        """Compile the domains.

        Raises:
            ConfigError: Two domains have one id, or the terms are too many to compile.
            ResourceError: The package ``google-re2`` is missing.
        """
        names = Counter(domain.id for domain in domains)
        if twice := [name for name, many in names.items() if many > 1]:
            raise ConfigError(
                f"two domains have the id {twice[0]!r}; give each its own",
                code="domain-duplicated",
            )
        self._domains = [_Compiled.of(domain) for domain in domains]
        self.met: Counter[str] = Counter()

    @property
    def wants_labels(self) -> bool:
        """True if a domain has labels."""
        return any(each.labels for each in self._domains)

    def keeps_out(self, text: str, labels: Sequence[str] = ()) -> bool:
        """Return whether a row is met by a domain; the first one counts it."""
        if not self._domains:
            return False
        plain, composed = folded(text), _shown(unicodedata.normalize("NFC", text))
        labels = tuple(map(folded, labels))
        for each in self._domains:
            if each.meets(plain, composed, labels):
                self.met[each.domain.id] += 1
                return True
        return False


@dataclass(frozen=True, slots=True)
class _Compiled:
    domain: ProtectedDomain
    terms: Any  # None: there are none
    patterns: tuple[Any, ...]
    labels: frozenset[str]

    @classmethod
    def of(cls, domain: ProtectedDomain) -> Self:
        try:
            patterns = tuple(map(_compile, domain.patterns))
            labels = frozenset(map(folded, domain.labels))
            return cls(domain, _compile_terms(domain), patterns, labels)
        except ValueError as error:
            raise ConfigError(
                f"domain {domain.id!r} cannot be compiled ({error}); name fewer terms",
                code="domain-too-large",
            ) from None

    def meets(self, plain: str, composed: str, labels: Sequence[str]) -> bool:
        return (
            any(label in self.labels for label in labels)
            or (self.terms is not None and self.terms.search(plain) is not None)
            or any(each.search(composed) is not None for each in self.patterns)
        )


def folded(text: str) -> str:
    """Return a text as terms are compared: words of one case and width, one space."""
    wide = unicodedata.normalize("NFKC", text).casefold()
    plain = unicodedata.normalize("NFKC", _shown(wide))
    return str(_between().sub(" ", plain)).strip()


def _shown(text: str) -> str:
    """Take out what cannot be seen, but for spaces."""
    if text.isascii():
        return text
    return text.translate(dict.fromkeys(map(ord, filter(_is_hidden, set(text)))))


@cache
def _between() -> Any:
    return _compile(_BETWEEN)


@cache
def _is_hidden(character: str) -> bool:
    return not character.isspace() and is_invisible(character)


def _compile_terms(domain: ProtectedDomain) -> Any:
    words = "|".join(sorted({_engine().escape(folded(term)) for term in domain.terms}))
    if not words:
        return None
    if domain.whole_words:
        words = f"(?:^| )(?:{words})(?:$| )"
    return _compile(words)


def _compile(pattern: str) -> Any:
    engine = _engine()
    options = engine.Options()
    options.max_mem, options.log_errors = _MAX_MEMORY, False
    try:
        return engine.compile(pattern, options)
    except engine.error as error:
        said = error.args[0]
        said = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        raise ValueError(f"no pattern that RE2 takes: {said[:200]}") from None


def _engine() -> Any:
    """Import RE2.

    Raises:
        ResourceError: The package is missing.
    """
    try:
        import re2
    except ImportError:
        raise ResourceError(
            "protected domains need the package google-re2; install it: pip install"
            " google-re2",
            code="package-missing",
        ) from None
    return re2
