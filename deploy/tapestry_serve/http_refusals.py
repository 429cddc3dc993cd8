"""Errors as OpenAI's clients read them: a status, a code, and a parameter."""

from typing import Any

from tapestry.errors import ConfigError, TapestryError
from tapestry_serve.completion_requests import BadRequest

_STATUSES = {  # of errors that are no mistake of the client
    "model-not-finite": 500,
    "engine-failed": 500,
    "queue-full": 503,
}


class HttpRefusal(TapestryError):
    """An answer with another status than 200, and the parameter that it is about."""

    def __init__(
        self, message: str, *, code: str, status: int, param: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.status, self.param = status, param


def described(error: TapestryError) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of an error, as OpenAI's clients read it."""
    status = 400 if isinstance(error, ConfigError | BadRequest) else 500
    status = _STATUSES.get(error.code, status)
    if isinstance(error, HttpRefusal):
        status = error.status
    return status, {
        "error": {
            "message": str(error),
            "type": "invalid_request_error" if status < 500 else "server_error",
            "param": getattr(error, "param", None),
            "code": error.code.replace("-", "_"),
        }
    }


def too_long() -> HttpRefusal:
    """Return the refusal of an answer that takes longer than it may."""
    return HttpRefusal("it took too long", code="deadline-exceeded", status=504)
