"""The seam between the server's routes and what computes answers.

An engine knows models by id, takes a job, and tells of each token as it is drawn. It
knows neither HTTP nor text: prompts are tokens, and so are answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tapestry.errors import TapestryError

End = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One continuation that is asked for."""

    model: str  # an id of the engine's
    prompt: tuple[int, ...]  # one token at least
    max_tokens: int
    ends: frozenset[int]  # tokens that end it; they are not told of
    temperature: float = 0.0  # 0: the likeliest token each time
    top_p: float = 1.0  # draws from the likeliest tokens of this probability together
    seed: int = 0
    alternatives: int = 0  # likeliest tokens to be told of with each token


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredToken:
    """A token with its log-probability (nats), and those of the likeliest ones."""

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of a job; after it nothing is told. ``fault`` is why it broke off."""

    reason: End
    fault: TapestryError | None = None


Event = ScoredToken | Finished
Tell = Callable[[Event], None]


class Ticket(Protocol):
    """A job that was taken."""

    def cancel(self) -> None:
        """End the job before its next token; harmless when it has ended."""
        ...


class AnswerEngine(Protocol):
    """Computes continuations and scores for the models that it holds."""

    @property
    def kind(self) -> str:
        """``torch`` or ``gguf``, as lineage names it."""
        ...

    @property
    def positions(self) -> int:
        """The most tokens of a prompt with its answer."""
        ...

    def submit(self, job: Job, tell: Tell) -> Ticket:
        """Take a job; ``tell`` is called from another thread, and must not wait.

        Raises:
            BusyError: The queue is full.
            ConfigError: There is no such model, or the prompt is too long.
        """
        ...

    def score(
        self, model: str, tokens: Sequence[int], *, alternatives: int
    ) -> list[ScoredToken]:
        """Score each token of a text but the first by those before it; waits.

        Raises:
            BusyError: The queue is full.
            ConfigError: There is no such model, the text is too long, or the engine
                cannot score.
        """
        ...

    def close(self) -> None:
        """End all jobs, and wait for the thread."""
        ...


class BusyError(TapestryError):
    """The engine has as much to do as it may; the caller may try again."""
