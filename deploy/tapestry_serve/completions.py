"""One request's continuations, from the engine's thread to the server's loop.

Guarantees:
    A client that goes away ends its jobs before their next token, whatever the way
    it goes: the jobs are cancelled when this is left.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tapestry.errors import TapestryError
from tapestry_serve.answer_shapes import Choice
from tapestry_serve.engine import AnswerEngine, Event, Job, ScoredToken, Ticket
from tapestry_serve.text_stream import TextStream

SECONDS = 120.0  # for a whole answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of one continuation; the last one has a reason."""

    index: int
    text: str
    tokens: tuple[ScoredToken, ...]
    reason: str | None = None


class Continuations:
    """The jobs of a request, side by side; used as a block."""

    def __init__(
        self,
        engine: AnswerEngine,
        tokenizer: Any,
        jobs: Sequence[Job],
        stops: Sequence[str],
    ) -> None:
        """Take the jobs of one request; the first event of each comes later."""
        self._engine, self._jobs = engine, jobs
        self._streams = [TextStream(tokenizer, stops=stops) for _ in jobs]
        self._tickets: list[Ticket] = []
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

    @property
    def count(self) -> int:
        """The number of continuations."""
        return len(self._jobs)

    async def __aenter__(self) -> "Continuations":
        """Hand the jobs in.

        Raises:
            BusyError: The engine's queue is full; none of them runs then.
            ConfigError: There is no such model, or the prompt is too long.
        """
        loop = asyncio.get_running_loop()
        try:
            for index, job in enumerate(self._jobs):

                def tell(event: Event, index: int = index) -> None:
                    loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

                self._tickets.append(self._engine.submit(job, tell))
        except TapestryError:
            self._cancel()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel what still runs."""
        self._cancel()

    def _cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the parts of all continuations as they come.

        Raises:
            TapestryError: The engine could not go on.
            TimeoutError: The answer takes longer than it may.
        """
        going = set(range(len(self._jobs)))
        async with asyncio.timeout(SECONDS):
            while going:
                index, event = await self._events.get()
                if index not in going:
                    continue  # it was stopped by its text
                piece = self._take(index, event)
                if piece.reason is not None:
                    going.discard(index)
                yield piece

    async def choices(self) -> list[Choice]:
        """Wait for all continuations.

        Raises:
            TapestryError: The engine could not go on.
            TimeoutError: The answer takes longer than it may.
        """
        found = [
            Choice(index=n, text="", tokens=(), reason="")
            for n, _ in enumerate(self._jobs)
        ]
        async for piece in self.pieces():
            old = found[piece.index]
            found[piece.index] = replace(
                old,
                text=old.text + piece.text,
                tokens=old.tokens + piece.tokens,
                reason=piece.reason or "",
            )
        return found

    def _take(self, index: int, event: Event) -> Piece:
        stream = self._streams[index]
        if isinstance(event, ScoredToken):
            text = stream.push(event.token)
            reason = "stop" if stream.stopped else None
            if stream.stopped:
                self._tickets[index].cancel()
            return Piece(index=index, text=text, tokens=(event,), reason=reason)
        if event.fault is not None:
            raise event.fault
        return Piece(index=index, text=stream.finish(), tokens=(), reason=event.reason)
