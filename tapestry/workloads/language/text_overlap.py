"""Public text that repeats private text: found before it is published.

A line of held-out text that was copied out of the records would be printed in a public
card. The trainer, which alone holds records, makes this comparison.

Guarantees:
    The result is places in the public text, and nothing of a record.

Edge cases:
    Text is compared in NFC, without regard to case and white space. Not found is what
    is reworded or copied from the middle of a text, and a beginning that is shorter
    than 20 characters. A question or a beginning that ten records or more have in
    common, such as a form's, tells of none of them and passes; a whole text never does.
"""

import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from tapestry.inputs.text_reader import is_invisible
from tapestry.workloads.language.dialogue import Dialogue, Text

_LEAST = 20  # characters of a beginning that counts
_COMMON = 10  # records that have it in common
_WORDS = 12  # of the beginning of a text, at most
_CHARACTERS = 80  # the same, in scripts without spaces


def beginning(text: str) -> str:
    """Return what a card prints of a text: half of it at most."""
    words = text.split()
    short = " ".join(words[: max(1, min(_WORDS, len(words) // 2))])
    return short[:_CHARACTERS]


def repeated(public: Sequence[Text], private: Iterable[Text]) -> list[int]:
    """Return the places of public texts that would publish a private one.

    A text, its beginning as a card prints it, or a question of a dialogue does if it
    is a private text or a turn of a private dialogue, begins a private text, or begins
    with one.
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(public):
        for part in _printed(text):
            places.setdefault(part, []).append(place)
    order = tuple(sorted(places))
    found: set[str] = set()
    owners: dict[str, set[str]] = {}  # up to so many as make a part common
    for text in private:
        turns = [plain(text)] if isinstance(text, str) else _turns(text)
        if isinstance(text, str):
            found.update(places.keys() & turns)
            parts = list(_like(turns[0], order))
        else:
            parts = [turn for turn in turns if turn in places]
        for part in parts:
            known = owners.setdefault(part, set())
            if len(known) < _COMMON:
                known.add("\n".join(turns))
    found.update(part for part, known in owners.items() if len(known) < _COMMON)
    return sorted({place for part in found for place in places[part]})


def _like(spelled: str, order: tuple[str, ...]) -> Iterator[str]:
    """Yield what of some sorted texts begins a text, or begins with it."""
    if spelled.startswith(order):  # by far the fastest way to see that none does
        yield from (p for p in order if len(p) >= _LEAST and spelled.startswith(p))
    if len(spelled) >= _LEAST:
        start = bisect_left(order, spelled)
        yield from takewhile(lambda part: part.startswith(spelled), order[start:])


def _printed(text: Text) -> set[str]:
    """Spell what a card could print of a public text."""
    if isinstance(text, str):
        parts = [plain(text), plain(beginning(text))]
    else:
        parts = _turns(text)[::2]
    return {part for part in parts if not is_invisible(part)}


def _turns(text: Dialogue) -> list[str]:
    return [plain(turn) for turn in text.turns]


def plain(text: str) -> str:
    """Spell a text in NFC, without case and with one space for each white space."""
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()
