"""Errors as clients read them."""

import pytest

from tapestry.errors import ConfigError, ResourceError, TapestryError
from tapestry_serve.completion_requests import BadRequest
from tapestry_serve.engine import BusyError
from tapestry_serve.http_refusals import HttpRefusal, described, too_long


@pytest.mark.parametrize(
    ("error", "status", "code", "kind"),
    [
        (HttpRefusal("x", code="a-b", status=404, param="p"), 404, "a_b", "invalid"),
        (BadRequest("x", code="c-d", param="p"), 400, "c_d", "invalid"),
        (ConfigError("x", code="prompt-too-long"), 400, "prompt_too_long", "invalid"),
        (ConfigError("x", code="model-not-finite"), 500, "model_not_finite", "server"),
        (BusyError("x", code="queue-full"), 503, "queue_full", "server"),
        (TapestryError("x", code="engine-failed"), 500, "engine_failed", "server"),
        (
            ResourceError("x", code="memory-too-small"),
            500,
            "memory_too_small",
            "server",
        ),
        (too_long(), 504, "deadline_exceeded", "server"),
    ],
    ids=lambda value: value.code if isinstance(value, TapestryError) else None,
)
def test_each_error_has_its_status_and_code(
    error: TapestryError, status: int, code: str, kind: str
) -> None:
    found, body = described(error)
    assert found == status
    assert body["error"]["code"] == code
    assert body["error"]["type"].startswith(kind)
    assert body["error"]["param"] == getattr(error, "param", None)
