"""The two files of a report: report.json for programs, report.html for readers.

Both hold the same figures. The page loads nothing and runs nothing, so it can be
mailed, printed and archived as one file.
"""

import json
from importlib import resources
from pathlib import Path

from tapestry.errors import ResourceError
from tapestry.html import numbers
from tapestry.html.charts import weave
from tapestry.html.markup import Child, Markup, element, joined, link, page
from tapestry_demo.report import assurance, names
from tapestry_demo.report.answers import countries
from tapestry_demo.report.data import RunFigures
from tapestry_demo.report.limits import limits
from tapestry_demo.report.links import Folder
from tapestry_demo.report.overview import headline, opening
from tapestry_demo.report.privacy_section import privacy
from tapestry_demo.report.results import results, rounds

__all__ = ["write_report"]


def write_report(run: RunFigures, directory: Path) -> None:
    """Write ``report.json`` and ``report.html`` into a directory, which may be new.

    Guarantees:
        Equal figures beside equal files give equal bytes. Text from the figures
        appears in the page as text, whatever it contains. A link leads to a part of
        the page or to a file that stands in the directory when the page is written.

    Edge cases:
        An unknown number is null in report.json and a dash, or "no bound" for
        epsilon, on the page.

    Raises:
        ResourceError: The folder cannot be made or a file in it cannot be written.
    """
    data = run.model_dump(mode="json", exclude_unset=True)
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        html = render(run, Folder.read(directory))
        (directory / "report.json").write_text(text + "\n", encoding="utf-8")
        (directory / "report.html").write_text(html, encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            f"cannot write the report to {directory}: {error.strerror}; free the place"
            " or its disk, and call again with --resume",
            code="file-unwritable",
        ) from error


def render(run: RunFigures, folder: Folder) -> str:
    """Draw the page: a summary, then country by country, then the parts for experts."""
    style = resources.files("tapestry.html").joinpath("style.css").read_text("utf-8")
    parts = {
        ("countries", "Country by country"): countries(run, folder),
        ("results", "How good the models are"): results(run),
        ("privacy", "Privacy"): privacy(run),
        ("coordinator", "What the coordinator could see"): assurance.sight(run),
        ("limits", "What is not protected"): limits(run),
        ("verify", "Check it yourself"): assurance.check(run),
        ("details", "Details"): _details(run, folder),
    }
    contents = [link(f"#{part}", name) for part, name in parts]
    main = element(
        "main",
        {},
        _top(run),
        opening(run),
        element("nav", {"class": "contents", "aria-label": "Contents"}, *contents),
        *parts.values(),
    )
    foot = element("footer", {}, *_closing())
    threads = weave(len(run.countries))
    return page(headline(run), "en", style, threads, main, foot)


def _top(run: RunFigures) -> Markup:
    licence = f" ({run.model.licence})" if run.model.licence else ""
    facts = [
        numbers.date(run.created),
        f"model: {run.model.name}{licence}",
        names.engine(run.engine),
    ]
    return element(
        "header",
        {"class": "top"},
        element("h1", {}, headline(run)),
        element("p", {"class": "facts"}, " · ".join(facts)),
    )


def _details(run: RunFigures, folder: Folder) -> Markup:
    return joined(
        element("h2", {"id": "details"}, "Details"),
        rounds(run),
        assurance.members(run),
        assurance.traffic(run),
        assurance.log(run, folder),
        assurance.published(run, folder),
        assurance.decisions(run),
        assurance.time(run),
        assurance.software(run),
    )


def _closing() -> tuple[Child, ...]:
    return (
        "Made by Tapestry. The same numbers are in ",
        link("report.json", "report.json"),
        ".",
    )
