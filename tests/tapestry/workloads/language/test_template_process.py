"""The process that renders templates: the same each day, bounded, and of few words."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tapestry.workloads.language import template_process
from tapestry.workloads.language.template_renderer import (
    Rendered,
    RenderingJob,
    render,
)

DOUBLING = (
    "{% set x = namespace(v='a' * 99) %}"
    "{% for i in range(60) %}{% set x.v = x.v ~ x.v %}{% endfor %}"
)


JOB = RenderingJob(turns=("one", "two", "three"), prompt=True)


def _one(template: str, **variables: str) -> Rendered:
    return render(template, tuple(sorted(variables.items())), (JOB,))[0]


def test_the_clock_stands_still() -> None:
    assert _one("{{ strftime_now('%d %b %Y %H:%M:%S') }}").text == (
        "01 Jan 2026 00:00:00"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ ['x', 'y', 'zz'] | random }}", "it draws at random"),
        ("{{ lipsum() }}", "it draws at random"),
        ("{{ cycler('a') }}", "it prints where something lies in memory"),
        ("{{ messages | map('upper') }}", "it prints where something lies in memory"),
        ("{{ 'a' * 60000000000 }}", "it takes too much memory"),
        (DOUBLING, "it takes too much memory"),
        ("{{ ' ' * 3000000 }}", "it prints over 1048576 characters"),
        ("{% for i in range(100001) %}{% endfor %}", "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ raise_exception('not so') }}", "not so"),
        ("{{ raise_exception('') }}", "TemplateError"),
        ("{% for %}", "Expected"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_used_says_why(template: str, said: str) -> None:
    reason = _one(template).reason
    assert reason is not None
    assert said in reason
    assert len(reason) <= 200
    assert "\n" not in reason


def test_half_a_character_is_refused() -> None:
    assert _one(r"{{ '\ud800' }}").reason == "it prints half of a surrogate pair"


CHAT = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"


def _answers(template: str, *jobs: tuple[list[str], bool], **changes: Any) -> Any:
    """Run the program by its path, with nothing else."""
    request = {
        "template": template,
        "variables": {},
        "characters": 1000,
        "bytes": 4 << 30,
        "seconds": 20,
        "jobs": [
            {"messages": [{"role": "user", "content": t} for t in turns], "prompt": p}
            for turns, p in jobs
        ],
        **changes,
    }
    done = subprocess.run(
        [sys.executable, "-I", template_process.__file__],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_each_job_of_a_request_has_its_own_answer() -> None:
    template = (
        CHAT
        + "{% if messages | length > 2 %}{{ raise_exception('two\nturns') }}{% endif %}"
        + "{% if add_generation_prompt %}{{ mark }}{% endif %}"
    )
    jobs = ((["a"], False), (["a", "b"], True), (["a"] * 3, True), (["x" * 60], False))
    found = _answers(template, *jobs, variables={"mark": "@"}, characters=50)
    assert found == [
        {"text": "user:a;"},
        {"text": "user:a;user:b;@"},
        {"reason": "two turns"},
        {"reason": "it prints over 50 characters"},
    ]


@pytest.mark.slow
def test_a_template_that_does_not_compile_fails_every_job() -> None:
    found = _answers("{% for %}", (["a"], False), (["b"], True))
    assert len(found) == 2
    assert all("Expected" in each["reason"] for each in found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x" * 101, "it prints over 100 characters"),
        ("a\udc80", "it prints half of a surrogate pair"),
        (
            "<jinja2.utils.Cycler object at 0x7f00aa11bb22>",
            "it prints where something lies in memory: <jinja2.utils.Cycler object",
        ),
    ],
)
def test_a_text_that_differs_by_day_or_cannot_be_kept_is_a_fault(
    text: str, said: str
) -> None:
    fault = template_process.fault_of(text, most=100)
    assert fault is not None
    assert fault.startswith(said)
    assert len(fault) < 140


@pytest.mark.parametrize("text", ["", "x" * 100, "<b at 0xyz>", "<at 0x1234>", "日本"])
def test_an_ordinary_text_is_no_fault(text: str) -> None:
    assert template_process.fault_of(text, most=100) is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (KeyError(), "KeyError"),
        (ValueError(" \n"), "ValueError"),
        (ValueError("x" * 999), "x" * 200),
    ],
    ids=["lines", "nothing", "blank", "long"],
)
def test_a_reason_is_one_short_line(error: Exception, said: str) -> None:
    assert template_process.one_line(error) == said


def test_the_program_imports_nothing_of_ours() -> None:
    source = Path(template_process.__file__).read_text("utf-8")
    assert "import tapestry" not in source
    assert "from tapestry" not in source
