"""The process that renders templates: the same each day, bounded, and of few words."""

import pytest

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
