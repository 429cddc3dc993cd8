"""Public text that repeats private text: found before it is published.

A line of held-out text that somebody copied out of the records would be printed in a
card for everybody. The trainer, which alone holds records, asks this of them.

Guarantees:
    The result is places in the public text, and nothing of a record.

Edge cases:
    Text is compared as it identifies a record, but for white space. What is reworded,
    or copied from the middle of a text, is not found.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from tapestry.dialogue import Dialogue, Text
from tapestry.text_reader import is_invisible


def repeated(public: Sequence[Text], private: Iterable[Text]) -> list[int]:
    """Return the places of public texts that would publish a private one.

    A text, or a question of a dialogue, does if it is a private text, begins one or
    begins with one, or is a question of a private dialogue; a text also if it is an
    answer of one.

    Args:
        public: What is to be published.
        private: Records, and the rows that they are joined from.
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(public):
        for part in _questions(text):
            places.setdefault(part, []).append(place)
    whole = {_plain(text) for text in public if isinstance(text, str)}
    order = tuple(sorted(places))
    found: set[str] = set()
    for text in private:
        if isinstance(text, Dialogue):
            found.update(part for part in _questions(text) if part in places)
            found.update(whole.intersection(map(_plain, text.answers)))
        elif spelled := _plain(text):
            found.update(_like(spelled, order))
    return sorted({place for part in found for place in places[part]})


def _like(spelled: str, order: tuple[str, ...]) -> Iterator[str]:
    """Yield what of some sorted texts begins a text, or begins with it."""
    if spelled.startswith(order):  # by far the fastest way to see that none does
        yield from filter(spelled.startswith, order)
    start = bisect_left(order, spelled)
    yield from takewhile(lambda part: part.startswith(spelled), order[start:])


def _questions(text: Text) -> list[str]:
    """Spell what a card would show: a text, or the questions of a dialogue."""
    parts = (text,) if isinstance(text, str) else text.turns[::2]
    return [_plain(part) for part in parts if not is_invisible(part)]


def _plain(text: str) -> str:
    return " ".join(text.split())
