"""Languages that an identifier finds in records, beside the one that is declared.

The identifier is py3langid, whose model of 139 languages lies in the package: an LZMA
archive of arrays of NumPy, read without pickle.

Guarantees:
    The result holds languages and counts. No record is refused or left out for it.

Edge cases:
    Looked at are at most 1,000 records, each by its first 1,000 characters. With fewer
    than 20 letters there, a record is too short to tell; with no language, such as a
    list of numbers, or none of a probability from 0.2, it is unclear. Near languages,
    such as Croatian and Serbian, are mistaken for each other, and so are mixed texts.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Self

from tapestry.errors import ResourceError
from tapestry.workloads.language.dialogue import Text
from tapestry.workloads.language.record_statistics import in_sample
from tapestry.workloads.language.text_rows import whole_text
from tapestry.workloads.lazy_sequence import drawn

_SAMPLE = 1000  # records
_CHARACTERS = 1000  # of a record
_LETTERS = 20
_SHOWN = 5  # languages
_LEAST = 0.2  # probability of the likeliest language
_NONE = frozenset({"zxx", "und"})  # no linguistic content, and less than that
_NORWEGIAN = {"nb": "no"}  # as the identifier names it


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageCounts:
    """The number of records in each language, the most frequent one first."""

    declared: str
    records_in: Mapping[str, int]
    untold: int  # too short or unclear
    unknown: bool  # the identifier does not know the declared language
    measured: int
    records: int

    @classmethod
    def of(cls, records: Sequence[Text], declared: str) -> Self:
        """Identify the language of records, of at most 1,000 that are drawn by lot.

        Raises:
            ResourceError: py3langid is not installed, or its model cannot be read.
        """
        identify, known = load_identifier()
        sample = drawn(records, _SAMPLE)
        found = Counter(_language(whole_text(text), identify) for text in sample)
        untold = sum(found.pop(none, 0) for none in _NONE)
        ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        return cls(
            declared=declared,
            records_in=dict(ordered),
            untold=untold,
            unknown=_primary(declared) not in known,
            measured=len(sample),
            records=len(records),
        )

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what a terminal shows, with its label."""
        shares = [
            f"{name} {self._share(number)}" for name, number in self.records_in.items()
        ]
        rest = sum([*self.records_in.values()][_SHOWN:])
        parts = shares[:_SHOWN] + [f"others {self._share(rest)}"] * (rest > 0)
        if self.untold:
            parts.append(f"too short or unclear {self._share(self.untold)}")
        yield "languages", ", ".join(parts) + in_sample(self.measured, self.records)
        most = next(iter(self.records_in), None)
        if most is not None and most != _primary(self.declared) and not self.unknown:
            yield "note", f"declared is {self.declared}, and {most} is more frequent"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)

    def _share(self, number: int) -> str:
        percent = 100 * number / self.measured
        return f"{percent:.0f} %" if percent >= 1 else "under 1 %"


def _primary(tag: str) -> str:
    """Return the language of a BCP 47 tag, as the identifier spells it."""
    language = tag.partition("-")[0]
    return _NORWEGIAN.get(language, language)


def _language(text: str, identify: Callable[[str], str]) -> str:
    text = text[:_CHARACTERS]
    return identify(text) if sum(map(str.isalpha, text)) >= _LETTERS else "und"


@cache
def load_identifier() -> tuple[Callable[[str], str], frozenset[str]]:
    """Load the identifier, and name the languages that it knows.

    Raises:
        ResourceError: py3langid is not installed.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise ResourceError(
            "this takes py3langid, which is not installed; pip install"
            " 'tapestry-federated[node]', or '.[node]' in the source folder",
            code="package-missing",
        ) from None
    found = LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True, min_confidence=_LEAST
    )
    return lambda text: str(found.classify(text)[0]), frozenset(found.labels)
