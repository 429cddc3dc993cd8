"""Chat templates end, cost little, and print the same every day."""

import signal
from pathlib import Path

import pytest

from tapestry.errors import ResourceError
from tapestry.workloads.language import template_renderer
from tapestry.workloads.language.template_renderer import (
    Rendered,
    RenderingJob,
    render,
)
from tests.support.refusals import refused

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
JOB = RenderingJob(turns=("one", "two", "three"), prompt=True)


def _one(template: str, **variables: str) -> Rendered:
    return render(template, tuple(sorted(variables.items())), (JOB,))[0]


def test_a_template_prints_turns_roles_and_named_tokens() -> None:
    found = _one(
        "{{ mark }}{% for m in messages %}{{ m.role }}={{ m.content }};"
        "{% endfor %}{{ add_generation_prompt }}",
        mark="@",
    )
    assert found.text == "@user=one;assistant=two;user=three;True"
    assert found.reason is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [LOOPS, "{{ 9 ** (9 ** 9) }}"],
    ids=["loops", "power"],
)
def test_a_template_that_does_not_end_is_ended(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_renderer, "SECONDS", 1)
    reason = _one(template).reason
    assert reason == "it takes over 1 seconds of processor time"


def test_what_was_rendered_once_starts_no_process_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = _one("again{{ messages | length }}")
    monkeypatch.setattr(template_renderer, "_run", None)
    assert _one("again{{ messages | length }}") == first == Rendered(text="again3")


def test_the_process_gets_nothing_of_the_environment_but_usual_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPESTRY_CANARY", "secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os\nprint(json.dumps([{'text': ' '.join(sorted(os.environ))}]))\n"
    )
    monkeypatch.setattr(template_renderer, "_PROGRAM", program)
    found = set(_one("{# environment #}").text.split())
    assert "LANG" in found
    assert "TAPESTRY_CANARY" not in found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_from_outside_is_not_blamed_on_the_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"import os, signal\nos.kill(os.getpid(), {int(number)})\n")
    monkeypatch.setattr(template_renderer, "_PROGRAM", program)
    for _ in range(2):  # nor is it remembered
        with refused(
            ResourceError, "template-process-failed", match=rf"signal {number:d}"
        ):
            _one(f"{{# {number} #}}")
