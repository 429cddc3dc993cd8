"""What is not protected: the README's list, and one more where noise is missing."""

import re
from pathlib import Path

import pytest

from tapestry_demo.report import limits
from tapestry_demo.report.data import RunFigures
from tests.support.report_pages import (
    Page,
)

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
    assert text in "".join(Page(limits.limits(RunFigures(title="t")).text).text)
