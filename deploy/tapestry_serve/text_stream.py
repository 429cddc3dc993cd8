"""The text of an answer, piece by piece, as its tokens come.

A piece is sent once it can change no more: a character whose bytes are not complete,
and a beginning of a stop text, are held back until the next token decides on them.
"""

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"  # what a tokenizer prints for bytes that are no character yet


class TextStream:
    """Turns the tokens of one answer into text, up to the first stop text."""

    def __init__(self, tokenizer: Any, *, stops: Sequence[str] = ()) -> None:
        """Take a Hugging Face tokenizer and texts that end the answer."""
        self._tokenizer, self._stops = tokenizer, [s for s in stops if s]
        self._tokens: list[int] = []
        self._sent = 0  # characters
        self.text = ""  # all that was sent
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; return what may be sent, often nothing."""
        self._tokens.append(token)
        return self._send(self._decoded().rstrip(_BROKEN), last=False)

    def finish(self) -> str:
        """Return what was held back, after the last token."""
        return "" if self.stopped else self._send(self._decoded(), last=True)

    def _decoded(self) -> str:
        return str(
            self._tokenizer.decode(
                self._tokens,
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
        )

    def _send(self, whole: str, *, last: bool) -> str:
        end = len(whole)
        found = [place for stop in self._stops if (place := whole.find(stop)) >= 0]
        if found:
            end, self.stopped = min(found), True
        elif not last:
            end -= max((_begun(whole, stop) for stop in self._stops), default=0)
        piece = whole[self._sent : max(end, self._sent)]
        self._sent += len(piece)
        self.text += piece
        return piece


def _begun(text: str, stop: str) -> int:
    """Return how many characters at a text's end may begin a stop text."""
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((n for n in sizes if text.endswith(stop[:n])), 0)
