"""Write what happened: report.json for machines, report.html for everybody else.

Both hold the same numbers. The page loads nothing and runs nothing; it may be
mailed, printed and archived as the one file that it is.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from tapestry.cli.page import evidence, results
from tapestry.cli.page.data import Run, finite, read
from tapestry.cli.page.markup import element, page
from tapestry.cli.page.plots import weave
from tapestry.errors import ResourceError

__all__ = ["write_report"]


def write_report(data: dict[str, Any], directory: Path) -> None:
    """Write ``report.json`` and ``report.html`` into a directory.

    Guarantees:
        Equal data gives equal bytes. Text from the data appears in the page as
        text, whatever it contains.

    Edge cases:
        Missing parts are left out of the page. NaN and infinities become null in
        the file and a dash, or "no bound" for epsilon, on the page.

    Args:
        data: The numbers, in the shape of `tapestry.cli.page.data.Run`.
        directory: Where to write; it is created if it does not exist.

    Raises:
        ConfigError: A part has the wrong shape.
        ResourceError: The files cannot be written.
    """
    run = read(data)
    text = json.dumps(finite(data), indent=2, sort_keys=True, ensure_ascii=False)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.json").write_text(text + "\n", encoding="utf-8")
        (directory / "report.html").write_text(render(run), encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            f"cannot write the report to {directory}: {error}"
        ) from None


def render(run: Run) -> str:
    """Draw the page."""
    style = resources.files("tapestry.cli.page").joinpath("page.css").read_text("utf-8")
    facts = [run.created, run.base and f"base {run.base}", run.engine]
    facts.append("" if run.seed is None else f"seed {run.seed}")
    top = element(
        "header",
        {"class": "top"},
        element("h1", {}, run.title),
        element("p", {"class": "facts"}, " · ".join(fact for fact in facts if fact)),
    )
    main = element(
        "main",
        {},
        top,
        results.story(run),
        results.figures(run),
        results.matrix(run),
        results.rounds(run),
        results.comparison(run),
        results.members(run),
        evidence.privacy(run),
        evidence.sight(run),
        evidence.traffic(run),
        evidence.log(run),
        evidence.published(run),
        evidence.check(run),
        evidence.limits(run),
        evidence.time(run),
        evidence.software(run),
    )
    foot = element(
        "footer", {}, "Made by Tapestry. The same numbers are in report.json."
    )
    return page(run.title, "en", style, weave(max(len(run.countries), 3)), main, foot)
