"""A dialogue as tokens, by the chat template of the model's own tokenizer.

The template prints a marker for each turn, never the turn itself (only ``whole`` lets
it print a prompt, to tell what other programs make of it); what stands between
the markers is tokenized as the template's own text, with its special tokens, and each
turn as plain text (``tokens.PlainText``). So no turn can spell a token that the
template puts around turns, special or only added; a base where one can is refused.

What a template writes in plain text between turns, a turn can write as well. A
tokenizer without a template gets the simplest one: a turn of the user and a line break,
a turn of the assistant and the end-of-text token, after the token that the tokenizer
puts before each text, if there is one. A line break inside a turn is no other there.

Tokens are signed: ``t`` is predicted and counts in the loss, ``~t`` is context alone
(``tokens.pad`` reads them). What counts is each turn of the assistant, with the token
that ends it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tapestry.errors import ConfigError, ResourceError
from tapestry.workloads.language.dialogue import Dialogue
from tapestry.workloads.language.template_renderer import RenderingJob, render
from tapestry.workloads.language.tokens import PlainText, start_tokens

_USUAL = 6  # turns that most conversations have at most
_TOGETHER = 10  # numbers of turns beyond that are printed together
_MARKER = re.compile("\ue000([0-9]+)\ue001")


class TemplateRefusal(ConfigError):
    """A chat template says itself that it does not take a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """The tokens that a template prints around turns: one piece more than turns."""

    texts: tuple[str, ...]
    pieces: tuple[tuple[int, ...], ...]


class ChatTemplate:
    """Turns dialogues into tokens, for training and for answering.

    Guarantees:
        The tokens of a dialogue are those of the template's own text and of each turn
        as plain text: the spelling of an added token inside a turn is text, so where
        turns end in such a token, no turn ends itself or begins one in another's name.

    Edge cases:
        Where a template marks turns by plain text alone, a turn can forge the marks.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.text = PlainText(tokenizer)
        self._frames: dict[tuple[int, bool], _Frame] = {}

    def encode(self, dialogues: Sequence[Dialogue]) -> list[list[int]]:
        """Return the signed tokens of whole dialogues; the last turn is an answer.

        Raises:
            ConfigError: The template refuses a dialogue of this many turns, or does
                not print each turn once and in order.
            ValueError: A dialogue ends with a turn of the user.
        """
        if any(len(each.turns) % 2 for each in dialogues):
            raise ValueError("a dialogue to learn from ends with an answer")
        return self._join(dialogues, prompt=False)

    def prompts(self, dialogues: Sequence[Dialogue]) -> list[list[int]]:
        """Return the tokens after which the model answers the last turn, unsigned.

        Raises:
            ConfigError: The template refuses a dialogue of this many turns, or does
                not print each turn once and in order.
            ValueError: A dialogue ends with an answer.
        """
        if any(len(each.turns) % 2 == 0 for each in dialogues):
            raise ValueError("a prompt ends with a turn of the user")
        rows = self._join(dialogues, prompt=True)
        return [[t if t >= 0 else ~t for t in row] for row in rows]

    def whole(self, prompt: Dialogue) -> list[int] | None:
        """Tokenize a prompt as one text, as other programs do.

        That is ``apply_chat_template``, or without a template the tokenizer alone. The
        tokens differ from those of ``prompts`` where a template changes the turn (by
        ``trim``, say), a tokenizer puts something before each text (Llama 2), merges
        over the edge of a turn, or finds an added token spelled in it.

        Edge cases:
            None where the template reads the clock, so that each day has another text,
            refuses this turn, or cannot be rendered now.

        Raises:
            ConfigError: The tokenizer has no template, and a turn can spell a token
                that ends turns.
        """
        if template := getattr(self._tokenizer, "chat_template", None):
            if "strftime_now" in template:
                return None
            job = RenderingJob(turns=prompt.turns, prompt=True)
            try:
                (rendered,) = render(template, self._variables(), (job,))
            except ResourceError:
                return None
            if rendered.reason is not None:
                return None
            text = rendered.text
        else:
            ends = self._frame(len(prompt.turns), prompt=True).texts[1:]
            text = "".join(map("".join, zip(prompt.turns, ends, strict=True)))
        row = self._tokenizer(text, add_special_tokens=not template, verbose=False)
        return list(row["input_ids"])

    def check(self, *, rows: int) -> None:
        """Check the template without a dialogue, for a model of ``rows`` tokens.

        Raises:
            ConfigError: The template does not print a question, or a question and an
                answer; it prints more turns, if it takes more, other than once and in
                order; it makes a token that the model has not; or a turn can spell a
                token that the template puts around turns.
        """
        own: set[int] = set()
        for turns in range(1, _USUAL + 1):
            try:
                frame = self._frame(turns, prompt=turns % 2 == 1)
            except TemplateRefusal:
                if turns <= 2:
                    raise
                continue  # a template may take only so many turns
            own |= {token for piece in frame.pieces for token in piece}
        own |= self.ends
        if strange := sorted(token for token in own if not 0 <= token < rows):
            raise ConfigError(
                f"the chat template makes token number {strange[0]}, the embedding has"
                f" {rows} rows",
                code="token-out-of-range",
            )
        self.text.check(own)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        after = self._frame(2, prompt=False).pieces[2]
        known = self._tokenizer.eos_token_id
        return frozenset(after[: self._ending(after)]) | (
            frozenset() if known is None else {known}
        )

    def _join(self, dialogues: Sequence[Dialogue], *, prompt: bool) -> list[list[int]]:
        turns = iter(self.text.encode([t for e in dialogues for t in e.turns]))
        rows = []
        for each in dialogues:
            pieces = self._frame(len(each.turns), prompt=prompt).pieces
            row = [~t for t in pieces[0]]
            for place in range(len(each.turns)):
                tokens, after = next(turns), pieces[place + 1]
                answer = place % 2 == 1
                ending = self._ending(after) if answer else 0
                row += tokens if answer else [~t for t in tokens]
                row += [t if i < ending else ~t for i, t in enumerate(after)]
            rows.append(row)
        return rows

    def _ending(self, after: Sequence[int]) -> int:
        """Count the tokens after an answer up to the one that ends it."""
        special = self.text.added.keys() | set(self._tokenizer.all_special_ids)
        places = (place for place, token in enumerate(after) if token in special)
        return next(places, 0 if after else -1) + 1

    def _frame(self, turns: int, *, prompt: bool) -> _Frame:
        key = (turns, prompt)
        if key not in self._frames:
            texts = _split(self._render(turns, prompt=prompt), turns)
            pieces = (
                self._tokenizer(text, add_special_tokens=False, verbose=False)[
                    "input_ids"
                ]
                for text in texts
            )
            frame = _Frame(texts=tuple(texts), pieces=tuple(map(tuple, pieces)))
            self.text.check({token for piece in frame.pieces for token in piece})
            self._frames[key] = frame
        return self._frames[key]

    def _render(self, turns: int, *, prompt: bool) -> str:
        """Print markers in place of turns.

        Each printing is a process, so one serves all conversations of a usual length,
        and one those of each ten lengths beyond. Where all of them fail, as where the
        longest take too much time, this one gets its own process.
        """
        template = getattr(self._tokenizer, "chat_template", None)
        if not template:
            start = self._tokenizer.decode(start_tokens(self._tokenizer))
            after = ("\n", self._tokenizer.eos_token or "\n")
            rows = (f"{m}{after[i % 2]}" for i, m in enumerate(_markers(turns)))
            return "".join([start, *rows])
        first = 1 if turns <= _USUAL else turns - (turns - _USUAL - 1) % _TOGETHER
        last = _USUAL if turns <= _USUAL else first + _TOGETHER - 1
        wanted = [(number, number % 2 == 1) for number in range(first, last + 1)]
        if (turns, prompt) not in wanted:
            wanted = [(turns, prompt)]
        jobs = tuple(
            RenderingJob(turns=_markers(number), prompt=p) for number, p in wanted
        )
        names, place = self._variables(), wanted.index((turns, prompt))
        answers = render(template, names, jobs)
        if len(jobs) > 1 and all(each.reason is not None for each in answers):
            answers, place = render(template, names, jobs[place : place + 1]), 0
        rendered = answers[place]
        if rendered.reason is not None:
            raise TemplateRefusal(
                f"the chat template refuses a dialogue of {turns} turns:"
                f" {rendered.reason}",
                code="chat-template-refused",
            )
        return rendered.text

    def _variables(self) -> tuple[tuple[str, str], ...]:
        """Name the special tokens, which a template may print."""
        named = self._tokenizer.special_tokens_map.items()
        return tuple(
            sorted(
                (key, str(token))
                for key, token in named
                if not isinstance(token, list | tuple | dict)
            )
        )


def _markers(turns: int) -> tuple[str, ...]:
    return tuple(f"\ue000{place}\ue001" for place in range(turns))


def _split(text: str, turns: int) -> list[str]:
    """Cut what a template printed at the markers of the turns."""
    parts = _MARKER.split(text)
    if parts[1::2] != [str(place) for place in range(turns)]:
        raise ConfigError(
            f"the chat template does not print each of {turns} turns once and in order;"
            " give the base another template",
            code="chat-template-turns-differ",
        )
    return parts[::2]
