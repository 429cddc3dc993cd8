"""Program that renders chat templates, in a process that cannot harm another.

A program, run by path with little more than a path to its libraries: it reads one
object of JSON and writes one. It imports nothing of tapestry.
"""

import json
import os
import re
import resource
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any

_NOW = datetime(2026, 1, 1)  # noqa: DTZ001  # templates print a day, without a zone
_ADDRESS = re.compile(r"<[^<>]{1,200} at 0x[0-9a-f]{4,}>")
_SURROGATE = re.compile("[\ud800-\udfff]")
_REASON = 200  # characters


def main() -> None:
    """Answer the request on standard input: a text or a reason for each job."""
    request: dict[str, Any] = json.load(sys.stdin)
    from transformers.utils import chat_template_utils as library

    _limit(request)
    try:
        # The compiled template that render_jinja_template takes from its cache.
        template = library._compile_jinja_template(request["template"])  # noqa: SLF001  # no public way
        template.environment.filters["random"] = _refuse_chance
        template.globals["lipsum"] = _refuse_chance
        template.globals["strftime_now"] = _NOW.strftime
    except MemoryError:
        answers = [{"reason": "it takes too much memory"}] * len(request["jobs"])
    except Exception as error:  # noqa: BLE001  # a template may raise anything
        answers = [{"reason": one_line(error)}] * len(request["jobs"])
    else:
        render = library.render_jinja_template
        answers = [_render(render, request, job) for job in request["jobs"]]
    json.dump(answers, sys.stdout)


def _render(render: Any, request: dict[str, Any], job: dict[str, Any]) -> Any:
    try:
        (text,), _ = render(
            [job["messages"]],
            chat_template=request["template"],
            add_generation_prompt=job["prompt"],
            **request["variables"],
        )
    except MemoryError:
        return {"reason": "it takes too much memory"}
    except Exception as error:  # noqa: BLE001  # a template may raise anything
        return {"reason": one_line(error)}
    reason = fault_of(text, most=request["characters"])
    return {"text": text} if reason is None else {"reason": reason}


def fault_of(text: str, *, most: int) -> str | None:
    """Say why a printed text cannot be used; None if it can."""
    if len(text) > most:
        return f"it prints over {most} characters"
    if _SURROGATE.search(text):
        return "it prints half of a surrogate pair"
    if (found := _ADDRESS.search(text)) is not None:
        return f"it prints where something lies in memory: {found[0][:80]}"
    return None


def _limit(request: dict[str, Any]) -> None:
    """Bound memory and processor time from here on; the kernel ends what takes more."""
    with suppress(ValueError, OSError):  # a system that does not limit memory
        resource.setrlimit(resource.RLIMIT_AS, (request["bytes"], request["bytes"]))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + request["seconds"]
    with suppress(ValueError, OSError):  # a hard limit below stays
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _refuse_chance(*_: object) -> str:
    raise ValueError("it draws at random; print the same for the same turns")


def one_line(error: BaseException) -> str:
    """Return an error's reason as one short line."""
    return " ".join(str(error).split())[:_REASON] or type(error).__name__


if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # a TextIOWrapper
    main()
    sys.stdout.flush()
    os._exit(0)  # whatever the library would do at the end
