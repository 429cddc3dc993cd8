"""An answer in pieces, as server-sent events in the shape of OpenAI's.

The last piece of each continuation has the reason for its end and the lineage; an error
in the middle is an event of its own, after which the stream ends.
"""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import StreamingResponse

from tapestry.errors import TapestryError
from tapestry_serve.answer_shapes import Choice, Envelope, count_tokens
from tapestry_serve.completions import Continuations, Piece
from tapestry_serve.http_refusals import described, too_long


class AnswerStream:
    """The events of one request."""

    def __init__(
        self, envelope: Envelope, found: Continuations, *, with_usage: bool
    ) -> None:
        """Take what the events have in common, and where the pieces come from."""
        self._envelope, self._found, self._with_usage = envelope, found, with_usage
        self._texts = [""] * found.count
        self._drawn = 0

    def response(self) -> StreamingResponse:
        """Return the response; jobs are handed in when it is sent."""
        return StreamingResponse(
            self._events(),
            media_type="text/event-stream",
            headers={
                "x-tapestry-lineage": self._envelope.model.digest,
                "cache-control": "no-store",
            },
        )

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            async with self._found as found:
                async for piece in found.pieces():
                    self._texts[piece.index] += piece.text
                    self._drawn += len(piece.tokens)
                    if piece.text or piece.reason is not None:
                        yield self._chunk(piece)
            if self._with_usage:
                usage = count_tokens(len(self._envelope.prompt), self._drawn)
                yield _event(
                    {**self._envelope.head(chunk=True), "choices": [], "usage": usage}
                )
            yield b"data: [DONE]\n\n"
        except (TapestryError, TimeoutError) as error:
            fault = error if isinstance(error, TapestryError) else too_long()
            yield _event(described(fault)[1])

    def _chunk(self, piece: Piece) -> bytes:
        is_chat = self._envelope.kind == "chat.completion"
        delta = {"role": "assistant", "content": piece.text}
        shown: dict[str, Any] = {"delta": delta} if is_chat else {"text": piece.text}
        choice = {
            "index": piece.index,
            **shown,
            "logprobs": None,
            "finish_reason": piece.reason,
        }
        value = {**self._envelope.head(chunk=True), "choices": [choice]}
        if piece.reason is not None:
            text = self._texts[piece.index]
            done = Choice(index=piece.index, text=text, tokens=(), reason=piece.reason)
            value["tapestry"] = self._envelope.lineage([done])
        return _event(value)


class Comparison:
    """The events of one question to several models, each tagged with its id."""

    def __init__(self, envelopes: Sequence[Envelope], found: Continuations) -> None:
        """Take an envelope for each continuation."""
        self._envelopes, self._found = envelopes, found
        self._texts = [""] * found.count

    def response(self) -> StreamingResponse:
        """Return the response; jobs are handed in when it is sent."""
        return StreamingResponse(
            self._events(),
            media_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            async with self._found as found:
                async for piece in found.pieces():
                    if piece.text or piece.reason is not None:
                        yield _event(self._tagged(piece))
            yield b"data: [DONE]\n\n"
        except (TapestryError, TimeoutError) as error:
            fault = error if isinstance(error, TapestryError) else too_long()
            for each in self._envelopes:
                yield _event({"model": each.model.id, **described(fault)[1]})

    def _tagged(self, piece: Piece) -> dict[str, Any]:
        envelope = self._envelopes[piece.index]
        self._texts[piece.index] += piece.text
        value = {"model": envelope.model.id, "text": piece.text}
        if piece.reason is None:
            return value
        text = self._texts[piece.index]
        done = Choice(index=0, text=text, tokens=(), reason=piece.reason)
        lineage = envelope.lineage([done])
        return {**value, "finish_reason": piece.reason, "tapestry": lineage}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
