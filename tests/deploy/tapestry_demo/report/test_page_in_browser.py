"""The report as Chromium lays it out: on a phone, a desk and for those who hear it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tapestry_demo.report.page import write_report
from tests.support.report_pages import FIXTURE, figures, figures_of, run_of

MEASURE = FIXTURE.parent / "measure-page.js"
SMALLEST = 12.0  # pixels of text
PHONE, DESK = 390, 1280

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("chromium") is None,
        reason="chromium is not installed: no layout of the report is checked",
    ),
]


def _browse(page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
        f"--user-data-dir={folder / 'user'}", "--window-size=1400,1000",
        "--hide-scrollbars", "--dump-dom",
        page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=True
    )


def _unkind() -> dict[str, Any]:
    """A run whose names and texts are as awkward as a federation may make them."""
    data = figures()
    data["title"] = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbau" * 2
    data["countries"][0]["language_name"] = "Niederländisch-Westfriesisch"
    data["countries"][1]["institution"] = "x" * 200
    data["coordinator_view"][0]["detail"] = "y" * 300
    data["software"]["z" * 90] = "w" * 200
    data["bits_per_byte"]["base-4"]["italy"] = 2.9  # far worse, to the left of zero
    data["bits_per_byte"]["base-4"]["spain"] = 2.154  # as before
    for name in ("adapter-spain", "central", "central-dp"):
        data["bits_per_byte"][name]["spain"] = 2.154  # marks that coincide
    data["privacy"]["statement"] = "v" * 200
    data["samples"][0] |= {
        "prompt": "q" * 600,
        "reference": "\u05e9\u05dc\u05d5\u05dd " * 40,
        "answers": {
            "given": "\u202e" + "r" * 300,
            "base-4": "\n" * 30,
            "other": "s" * 99,
        },
    }
    return data


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a browser measures, by run and width, with everything unfolded."""
    folder = tmp_path_factory.mktemp("pages")
    frames = []
    runs = {"kind": figures(), "unkind": _unkind()}
    for name, data in runs.items():
        write_report(figures_of(data), folder / name)
        text = (folder / name / "report.html").read_text("utf-8")
        for width in (PHONE, DESK):
            frames.append(
                f'<iframe id="{name}-{width}" width="{width}" height="900"'
                f' style="border:0" srcdoc="{html.escape(text)}"></iframe>'
            )
    script = MEASURE.read_text("utf-8")
    wrapper = folder / "wrapper.html"
    wrapper.write_text(
        f"<!doctype html><meta charset=utf-8>{''.join(frames)}"
        f"<pre id=found></pre><script>{script}</script>",
        encoding="utf-8",
    )
    dom = _browse(wrapper, folder).stdout
    found = re.search('<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found, "the page was not measured"
    told: dict[str, dict[str, Any]] = json.loads(html.unescape(found[1]))
    return told


VIEWS = [f"{name}-{width}" for name in ("kind", "unkind") for width in (PHONE, DESK)]


@pytest.mark.parametrize("view", VIEWS)
def test_the_measurement_saw_the_page(
    view: str, measured: dict[str, dict[str, Any]]
) -> None:
    assert measured[view]["width"] == int(view.split("-")[1])
    assert measured[view]["texts"] > 300
    assert measured[view]["marks"] == 16


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_wider_than_the_screen(
    view: str, measured: dict[str, dict[str, Any]]
) -> None:
    assert measured[view]["wide"] == []
    assert measured[view]["scrolled"] == []


@pytest.mark.parametrize("view", VIEWS)
def test_text_is_large_enough_to_read(
    view: str, measured: dict[str, dict[str, Any]]
) -> None:
    assert measured[view]["smallest"] >= SMALLEST, measured[view]["smallest_text"]


@pytest.mark.parametrize("view", VIEWS)
def test_no_mark_or_word_of_a_plot_hides_another(
    view: str, measured: dict[str, dict[str, Any]]
) -> None:
    assert measured[view]["hidden"] == []


def test_a_browser_shows_the_page_without_complaint(tmp_path: Path) -> None:
    write_report(run_of(), tmp_path)
    done = _browse(tmp_path / "report.html", tmp_path)
    assert "What the coordinator could see" in done.stdout
    assert "CONSOLE" not in done.stderr
    assert "Content Security Policy" not in done.stderr
