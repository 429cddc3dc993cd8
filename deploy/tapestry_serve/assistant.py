"""The routes of the assistant, in the shape of OpenAI's, on Starlette.

Guarantees:
    An id that is not served is 404, and never the base. Each answer, stream and list of
    models names its lineage. Nothing of a prompt or an answer goes into a log, and no
    error repeats one.
"""

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tapestry.errors import TapestryError
from tapestry.workloads.language.dialogue import Dialogue
from tapestry_serve.answer_shapes import (
    Choice,
    Drawing,
    Envelope,
    chat_logprobs,
    count_tokens,
    text_logprobs,
)
from tapestry_serve.answer_streams import AnswerStream, Comparison
from tapestry_serve.completion_requests import (
    BODY,
    BadRequest,
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    read_body,
)
from tapestry_serve.completions import Continuations
from tapestry_serve.engine import AnswerEngine, BusyError, Job, ScoredToken
from tapestry_serve.http_refusals import HttpRefusal, described, too_long
from tapestry_serve.page_files import PageFiles
from tapestry_serve.served_models import ServedModel, ServedModels

_log = logging.getLogger(__name__)
_DEFAULT_TOKENS = 256
_KNOWN = 10  # ids that an error lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The names that a server is called by, and the tokens that it asks for."""

    hosts: frozenset[str]
    tokens: tuple[bytes, ...] = ()
    origin: str | None = None  # of the page where a proxy shows it

    def check(self, request: Request) -> None:
        """Refuse another host's name, another page's script, and a wrong token.

        Raises:
            HttpRefusal: The host or origin is another one, or the token is wrong.
        """
        host = request.headers.get("host", "").rpartition(":")
        name = (host[0] or host[2]).strip("[]")
        if name not in self.hosts:
            raise HttpRefusal(
                "this server is not known by that host name",
                code="host-not-allowed",
                status=403,
            )
        own = f"{request.url.scheme}://{request.url.netloc}"
        if request.headers.get("origin", own) not in {own, self.origin}:
            raise HttpRefusal(
                "pages of other sites may not ask",
                code="origin-not-allowed",
                status=403,
            )
        if not self.tokens or not request.url.path.startswith("/v1/"):
            return
        given = (
            request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        )
        matches = [hmac.compare_digest(given, token) for token in self.tokens]
        if not any(matches):
            raise HttpRefusal(
                "a token of this server is needed",
                code="client-token-invalid",
                status=401,
            )


class Assistant:
    """The routes over an engine and its models."""

    def __init__(
        self, engine: AnswerEngine, models: ServedModels, access: Access
    ) -> None:
        """Take what answers, what may be asked for, and by whom."""
        self._engine, self._models, self._access = engine, models, access
        self._tokenizer = models.model.tokenizer
        self._page = PageFiles()

    def app(self) -> Starlette:
        """Return the application."""
        routes: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
            "/v1/models": ("GET", self.list_models),
            "/v1/models/{id}": ("GET", self.show_model),
            "/v1/chat/completions": ("POST", self.chat),
            "/v1/completions": ("POST", self.complete),
            "/v1/tapestry/lineage/{id}": ("GET", self.show_lineage),
            "/v1/tokenizer_info": ("GET", self.tokenizer_info),
            "/v1/tokenize": ("POST", self.tokenize),
            "/v1/detokenize": ("POST", self.detokenize),
            "/v1/tapestry/compare": ("POST", self.compare),
            "/health": ("GET", self.health),
            **dict.fromkeys(("/", *self._page.files), ("GET", self._page.show)),
        }
        return Starlette(
            routes=[
                Route(path, self._guarded(handler), methods=[method])
                for path, (method, handler) in routes.items()
            ],
            exception_handlers={HTTPException: _no_route},
        )

    def _guarded(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                self._access.check(request)
                return await handler(request)
            except TapestryError as error:
                return _refused(error)
            except TimeoutError:
                return _refused(too_long())
            except Exception as error:  # noqa: BLE001  # its text may be a prompt's
                _log.error("a request failed with %s", type(error).__name__)
                return _refused(TapestryError("it failed here", code="request-failed"))

        return guarded

    async def health(self, _: Request) -> Response:
        """Say that the server answers."""
        return JSONResponse({"status": "ok"})

    async def list_models(self, _: Request) -> Response:
        """List the ids with their lineage."""
        data = [_described(each) for each in self._models.served.values()]
        return JSONResponse({"object": "list", "data": data})

    async def show_model(self, request: Request) -> Response:
        """Show one id with its lineage."""
        return JSONResponse(_described(self._find(request.path_params["id"])))

    async def show_lineage(self, request: Request) -> Response:
        """Show the lineage of an id alone; its digest is in each answer."""
        found = self._find(request.path_params["id"])
        return JSONResponse({"lineage": dict(found.lineage), "digest": found.digest})

    async def tokenizer_info(self, _: Request) -> Response:
        """Name the special tokens, for programs that score texts."""
        found = self._tokenizer
        return JSONResponse(
            {
                "eos_token": found.eos_token,
                "bos_token": found.bos_token,
                "pad_token": found.pad_token,
                "chat_template": getattr(found, "chat_template", None),
            }
        )

    async def tokenize(self, request: Request) -> Response:
        """Turn a text into tokens, as the text route does."""
        asked = read_body(await _body(request), TokenizeRequest)
        tokens = list(self._models.model.prompt_tokens(asked.prompt))
        return JSONResponse({"tokens": tokens, "count": len(tokens)})

    async def detokenize(self, request: Request) -> Response:
        """Turn tokens into a text."""
        asked = read_body(await _body(request), DetokenizeRequest)
        checked = self._checked(asked.tokens)
        return JSONResponse({"prompt": self._tokenizer.decode(checked)})

    async def chat(self, request: Request) -> Response:
        """Answer the last turn of a conversation."""
        asked = read_body(await _body(request), ChatRequest)
        model = self._find(asked.model)
        prompt = self._models.model.prompt_tokens(Dialogue(turns=asked.turns))
        drawing = _drawing(asked)
        job = self._job(
            model,
            prompt,
            drawing,
            most=asked.max_completion_tokens or asked.max_tokens or _DEFAULT_TOKENS,
            alternatives=asked.top_logprobs or 0,
        )
        envelope = Envelope(
            model=model, kind="chat.completion", prompt=prompt, drawing=drawing
        )
        jobs = _seeded(job, asked.n or 1)
        if asked.stream:
            return self._stream(envelope, jobs, asked)
        choices = await self._wait(request, jobs, asked.stops)
        body = [
            {
                "index": each.index,
                "message": {"role": "assistant", "content": each.text, "refusal": None},
                "logprobs": chat_logprobs(self._tokenizer, each.tokens)
                if asked.logprobs
                else None,
                "finish_reason": each.reason,
            }
            for each in choices
        ]
        return self._answer(envelope, body, choices, len(prompt))

    async def compare(self, request: Request) -> Response:
        """Ask several models the same, and stream their answers together."""
        asked = read_body(await _body(request), CompareRequest)
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        drawing = Drawing(temperature=asked.temperature, top_p=1.0, seed=seed)
        jobs, envelopes = [], []
        for name in asked.models:
            model = self._find(name)
            turns = tuple(asked.conversations[name])
            prompt = self._models.model.prompt_tokens(Dialogue(turns=turns))
            most = asked.max_tokens
            jobs.append(self._job(model, prompt, drawing, most=most, alternatives=0))
            envelopes.append(
                Envelope(model=model, kind="comparison", prompt=prompt, drawing=drawing)
            )
        found = Continuations(self._engine, self._tokenizer, jobs, ())
        return Comparison(envelopes, found).response()

    async def complete(self, request: Request) -> Response:
        """Continue texts, and score them where ``echo`` asks for it."""
        asked = read_body(await _body(request), CompletionRequest)
        model = self._find(asked.model)
        prompts = [
            self._models.model.prompt_tokens(each)
            if isinstance(each, str)
            else self._checked(each)
            for each in asked.prompts
        ]
        most = 16 if asked.max_tokens is None else asked.max_tokens
        count, drawing = asked.n or 1, _drawing(asked)
        alternatives = asked.logprobs or 0
        found = [
            self._job(model, prompt, drawing, most=most, alternatives=alternatives)
            for prompt in prompts
        ]
        jobs = [one for job in found for one in _seeded(job, count)]
        flat = [token for prompt in prompts for token in prompt]
        envelope = Envelope(
            model=model, kind="text_completion", prompt=flat, drawing=drawing
        )
        if asked.stream:
            return self._stream(envelope, jobs, asked)
        choices = (
            await self._wait(request, jobs, asked.stops)
            if most
            else [
                Choice(index=n, text="", tokens=(), reason="length")
                for n, _ in enumerate(jobs)
            ]
        )
        heads = await self._echoed(asked, model, prompts)
        body = []
        for each in choices:
            text, scored = heads[each.index // count]
            body.append(
                {
                    "index": each.index,
                    "text": text + each.text,
                    "logprobs": None
                    if asked.logprobs is None
                    else text_logprobs(self._tokenizer, [*scored, *each.tokens]),
                    "finish_reason": each.reason,
                }
            )
        return self._answer(envelope, body, choices, len(flat))

    async def _echoed(
        self,
        asked: CompletionRequest,
        model: ServedModel,
        prompts: Sequence[Sequence[int]],
    ) -> list[tuple[str, list[ScoredToken | int]]]:
        """Return what stands before each answer: the prompt and its scores, or none."""
        if not asked.echo:
            return [("", [])] * len(prompts)
        found: list[tuple[str, list[ScoredToken | int]]] = []
        for prompt in prompts:
            scored: list[ScoredToken | int] = []
            if asked.logprobs is not None:
                scores = await asyncio.to_thread(
                    self._engine.score, model.id, prompt, alternatives=asked.logprobs
                )
                scored = [prompt[0], *scores]
            found.append((str(self._tokenizer.decode(list(prompt))), scored))
        return found

    def _find(self, name: str) -> ServedModel:
        found = self._models.served.get(name)
        if found is None:
            known = ", ".join(list(self._models.served)[:_KNOWN])
            raise HttpRefusal(
                f"no such model; served are {known}",
                code="model-not-found",
                status=404,
                param="model",
            )
        if found.refused is not None:
            raise HttpRefusal(
                found.refused, code="served-model-withdrawn", status=409, param="model"
            )
        return found

    def _checked(self, tokens: Sequence[Any]) -> tuple[int, ...]:
        size = len(self._tokenizer)
        if not tokens or any(type(t) is not int or not 0 <= t < size for t in tokens):
            raise BadRequest(
                f"tokens must be numbers from 0 to {size - 1}, one at least",
                code="parameter-invalid",
                param="prompt",
            )
        return tuple(tokens)

    def _job(
        self,
        model: ServedModel,
        prompt: Sequence[int],
        drawing: Drawing,
        *,
        most: int,
        alternatives: int,
    ) -> Job:
        if len(prompt) >= self._engine.positions:
            raise HttpRefusal(
                f"the prompt has {len(prompt)} tokens, and the model takes"
                f" {self._engine.positions} with the answer; shorten it",
                code="context-length-exceeded",
                status=400,
                param="prompt",
            )
        return Job(
            model=model.id,
            prompt=tuple(prompt),
            max_tokens=most,
            ends=frozenset(self._models.model.ends),
            temperature=drawing.temperature,
            top_p=drawing.top_p,
            seed=drawing.seed,
            alternatives=alternatives,
        )

    async def _wait(
        self, request: Request, jobs: Sequence[Job], stops: Sequence[str]
    ) -> list[Choice]:
        """Wait for all answers, or for the client to go."""
        async with Continuations(self._engine, self._tokenizer, jobs, stops) as found:
            answer = asyncio.ensure_future(found.choices())
            gone = asyncio.ensure_future(_gone(request))
            try:
                await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not answer.done():
                    raise HttpRefusal(
                        "the client has gone", code="client-gone", status=499
                    )
                return await answer
            finally:
                for task in (answer, gone):
                    task.cancel()
                    with suppress(asyncio.CancelledError, TapestryError, TimeoutError):
                        await task

    def _stream(
        self,
        envelope: Envelope,
        jobs: Sequence[Job],
        asked: ChatRequest | CompletionRequest,
    ) -> Response:
        found = Continuations(self._engine, self._tokenizer, jobs, asked.stops)
        stream = AnswerStream(envelope, found, with_usage=asked.with_usage)
        return stream.response()

    def _answer(
        self,
        envelope: Envelope,
        body: list[dict[str, Any]],
        choices: Sequence[Choice],
        prompt: int,
    ) -> Response:
        return JSONResponse(
            {
                **envelope.head(),
                "choices": body,
                "usage": count_tokens(
                    prompt, sum(len(each.tokens) for each in choices)
                ),
                "tapestry": envelope.lineage(choices),
            },
            headers={"x-tapestry-lineage": envelope.model.digest},
        )


def _seeded(job: Job, count: int) -> list[Job]:
    """Return a job for each answer that is asked for, each with a seed of its own."""
    return [replace(job, seed=(job.seed + n) % 2**63) for n in range(count)]


def _drawing(asked: ChatRequest | CompletionRequest) -> Drawing:
    return Drawing(
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        seed=secrets.randbits(63) if asked.seed is None else asked.seed,
    )


def _described(model: ServedModel) -> dict[str, Any]:
    found = {
        **model.lineage,
        "lineage_digest": model.digest,
        "verified": model.badge,
        "refused": model.refused,
    }
    return {"id": model.id, "object": "model", "created": 0, "owned_by": "tapestry",
            "tapestry": found}  # fmt: skip


async def _body(request: Request) -> bytes:
    """Read a body, no further than it may be long."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > BODY:
            raise HttpRefusal(
                f"the body is over {BODY} bytes",
                code="request-body-too-large",
                status=413,
            )
    return bytes(found)


async def _gone(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.1)


def _refused(error: TapestryError) -> Response:
    status, body = described(error)
    busy = isinstance(error, BusyError)
    return JSONResponse(
        body, status_code=status, headers={"retry-after": "2"} if busy else None
    )


async def _no_route(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = "no such route" if status == 404 else "another method is needed"
    refusal = HttpRefusal(message, code="route-unknown", status=status)
    return _refused(refusal)
