"""Bodies of requests, in the shape that OpenAI's clients send, read strictly.

Parameters that clients send by default and that change nothing are accepted; one
that would change something, and cannot be followed here, is refused by name.
"""

import json
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tapestry.errors import ProtocolError

M = TypeVar("M", bound=BaseModel)
BODY = 1 << 20  # bytes
_MESSAGES = 256
_TEXT = 1 << 18  # characters
_IGNORED = {  # by name, with the only value that changes nothing; None: any
    "user": None, "metadata": None, "store": False, "service_tier": None,
    "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": None,
    "parallel_tool_calls": None, "suffix": None, "best_of": 1,
}  # fmt: skip
_UNSUPPORTED = frozenset(
    {"tools", "tool_choice", "functions", "function_call", "response_format",
     "modalities", "audio", "prediction", "web_search_options", "reasoning_effort"}
)  # fmt: skip


class BadRequest(ProtocolError):
    """A body breaks a rule; ``param`` is the parameter, if it is one."""

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message, code=code)
        self.param = param


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class StreamOptions(_Body):
    """Options of a streamed answer."""

    include_usage: bool = False


class SamplingRequest(_Body):
    """The parameters that both kinds of completions take."""

    model: Annotated[str, Field(max_length=200)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: (
        Annotated[str, Field(max_length=200)]
        | Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=8)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=4)] | None = None

    @property
    def with_usage(self) -> bool:
        """True if a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class TextPart(_Body):
    """A part of a message; text alone is taken."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=_TEXT)]


class ChatTurn(_Body):
    """A turn of a conversation."""

    role: Literal["user", "assistant"]
    content: (
        Annotated[str, Field(max_length=_TEXT)]
        | Annotated[list[TextPart], Field(min_length=1, max_length=64)]
    )
    name: Annotated[str, Field(max_length=200)] | None = None

    @property
    def text(self) -> str:
        """The text of all parts."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(SamplingRequest):
    """A body of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatTurn], Field(min_length=1, max_length=_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def turns(self) -> tuple[str, ...]:
        """The texts of user and assistant in turn."""
        return tuple(message.text for message in self.messages)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for place, message in enumerate(self.messages):
            want = "assistant" if place % 2 else "user"
            if message.role != want:
                raise ValueError(
                    f"messages: turn {place + 1} is of the {message.role}, want"
                    f" {want}; user and assistant speak in turn"
                )
        if len(self.messages) % 2 == 0:
            raise ValueError("messages: the last turn must be of the user")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: set logprobs to true as well")
        return self


class CompletionRequest(SamplingRequest):
    """A body of ``/v1/completions``."""

    prompt: (
        Annotated[str, Field(max_length=_TEXT)]
        | Annotated[
            list[Annotated[str, Field(max_length=_TEXT)]],
            Field(min_length=1, max_length=64),
        ]
        | Annotated[list[int], Field(min_length=1, max_length=_TEXT)]
        | Annotated[list[list[int]], Field(min_length=1, max_length=64)]
    )
    max_tokens: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or its tokens."""
        found: Any = self.prompt
        if isinstance(found, str) or isinstance(found[0], int):
            return [found]
        return list(found)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 gives nothing without echo")
        if self.stream and self.echo:
            raise ValueError("echo: not with stream")
        return self


class CompareRequest(_Body):
    """A body of ``/v1/tapestry/compare``: the turns so far, for each id."""

    models: Annotated[
        list[Annotated[str, Field(max_length=200)]], Field(min_length=1, max_length=8)
    ]
    conversations: Annotated[
        dict[
            Annotated[str, Field(max_length=200)],
            Annotated[
                list[Annotated[str, Field(max_length=_TEXT)]],
                Field(min_length=1, max_length=_MESSAGES),
            ],
        ],
        Field(max_length=8),
    ]
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.models)) != len(self.models):
            raise ValueError("models: each once")
        if set(self.models) != self.conversations.keys():
            raise ValueError("conversations: one for each of models, and no other")
        if any(len(turns) % 2 == 0 for turns in self.conversations.values()):
            raise ValueError("conversations: the last turn must be of the user")
        return self


class TokenizeRequest(_Body):
    """A body of ``/v1/tokenize``; a model may be named, as all share the tokenizer."""

    prompt: Annotated[str, Field(max_length=_TEXT)]
    model: Annotated[str, Field(max_length=200)] | None = None


class DetokenizeRequest(_Body):
    """A body of ``/v1/detokenize``."""

    tokens: Annotated[list[int], Field(min_length=1, max_length=_TEXT)]
    model: Annotated[str, Field(max_length=200)] | None = None


def read_body(data: bytes, kind: type[M]) -> M:
    """Read a body strictly.

    Raises:
        BadRequest: It is too long, no JSON, or breaks a rule; the message names the
            parameter, and repeats nothing of a prompt.
    """
    if len(data) > BODY:
        raise BadRequest(f"the body is over {BODY} bytes", code="body-too-large")
    try:
        value = parse(data)
    except ProtocolError as error:
        raise BadRequest(str(error), code="body-invalid") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is no JSON object", code="body-invalid")
    for name in _UNSUPPORTED & value.keys():
        if value[name] not in (None, [], {}):
            raise BadRequest(
                f"{name} is not supported here", code="unsupported", param=name
            )
        del value[name]
    for name in _IGNORED.keys() & value.keys() - kind.model_fields.keys():
        _check_ignored(name, value.pop(name))
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _fault(error) from None


def _check_ignored(name: str, value: Any) -> None:
    neutral = _IGNORED[name]
    if name == "logit_bias" and value:
        raise BadRequest(
            f"{name} is not supported here", code="unsupported", param=name
        )
    if neutral is not None and value is not None and value != neutral:
        raise BadRequest(
            f"{name} is not supported here but as {neutral}",
            code="unsupported",
            param=name,
        )


def _fault(error: ValidationError) -> BadRequest:
    """Name the parameter and the rule, and nothing of the value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[
        0
    ]
    place = ".".join(str(part) for part in first["loc"][:3])
    message = first["msg"].removeprefix("Value error, ")
    param = place or message.partition(":")[0]
    code = "unsupported" if first["type"] == "extra_forbidden" else "parameter-invalid"
    return BadRequest(
        f"{place}: {message}" if place else message, code=code, param=param
    )


def parse(data: bytes) -> Any:
    """Parse JSON in UTF-8, without NaN, repeated keys or halves of characters.

    Raises:
        ProtocolError: It is none of that.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key occurs twice")
        return found

    def refuse(_: str) -> Any:
        raise ValueError("NaN and infinity are no JSON")

    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise ProtocolError("the body is no UTF-8", code="text-not-utf8") from None
    except (ValueError, RecursionError):
        raise ProtocolError("the body is no JSON", code="json-invalid") from None
    return value
