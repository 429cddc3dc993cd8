"""What is not protected: the README's list, and one more where noise is missing."""

import re
from pathlib import Path

import pytest

from tapestry_demo.report import limits
from tapestry_demo.report.data import RunFigures
from tests.support.report_pages import Page, run_of

ROOT = Path(__file__).resolve().parent.parent.parent.parent.parent


def test_the_limits_are_those_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.split("\n## What is not protected\n")[1].split("\n## ")[0]
    bullets = re.split(r"^- ", section, flags=re.MULTILINE)[1:]
    plain = [re.sub(r"\s*\(\[[^]]*\]\([^)]*\)\)", "", item) for item in bullets]
    assert [" ".join(item.split()) for item in plain] == list(limits.LIMITS)
    assert len(limits.LIMITS) >= 8


@pytest.mark.parametrize("text", limits.LIMITS)
def test_each_limit_is_shown_as_a_whole(text: str) -> None:
    assert text in "".join(Page(limits.limits(run_of()).text).text)


NO_BOUND = "Single records, in this run."


def _items(run: RunFigures) -> int:
    return limits.limits(run).text.count("<li>")


def test_a_run_without_a_bound_has_one_limit_more_and_tells_it_first() -> None:
    unbounded = run_of(epsilon={"italy": {"total": None}})
    assert _items(unbounded) == len(limits.LIMITS) + 1
    words = Page(limits.limits(unbounded).text).words()
    assert words.index(NO_BOUND) < words.index(limits.LIMITS[0])
    assert _items(run_of()) == len(limits.LIMITS)


def test_the_topic_of_a_limit_is_bold_up_to_its_first_stop() -> None:
    text = limits.limits(run_of()).text
    assert "<li><b>A coordinator that refuses service.</b></li>" in text
    assert "<b>An institution that lies about its own data.</b> Its influence" in text
    assert "<b>Several records about one person as one:</b> the promise" in text
