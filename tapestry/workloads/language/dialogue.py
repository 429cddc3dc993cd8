"""The records of a language model: texts, and dialogues of user and assistant."""

import itertools
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """Turns of a user and an assistant, one after the other; the user begins."""

    turns: tuple[str, ...]

    @property
    def answers(self) -> tuple[str, ...]:
        """The turns of the assistant."""
        return self.turns[1::2]

    def messages(self) -> list[dict[str, str]]:
        """Name the role of each turn, as chat templates and data sets spell it."""
        roles = itertools.cycle(("user", "assistant"))
        return [
            {"role": role, "content": turn}
            for role, turn in zip(roles, self.turns, strict=False)
        ]


Text = str | Dialogue
"""What a language model learns from: all of a text, or the answers of a dialogue."""
