"""report.json and report.html say the same, in plain words, and text stays text."""

import base64
import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ResourceError
from tapestry_demo.report.page import write_report
from tests.support.refusals import refused
from tests.support.report_pages import (
    Page,
    figures,
    figures_of,
    page_of,
    run_of,
    words_of,
)

HOSTILE = '</title></style><script>alert(1)</script><img src=x onerror="a()">&amp;\'"'


def test_the_files_hold_the_numbers_that_were_given(tmp_path: Path) -> None:
    write_report(run_of(), tmp_path / "new" / "folder")
    written = (tmp_path / "new" / "folder" / "report.json").read_text("utf-8")
    assert json.loads(written) == figures()
    assert written.endswith("}\n")


def test_equal_numbers_give_equal_bytes(tmp_path: Path) -> None:
    backwards = dict(reversed(figures().items()))
    for name, data in (("one", figures()), ("two", backwards)):
        write_report(figures_of(data), tmp_path / name)
    for file in ("report.json", "report.html"):
        assert (tmp_path / "one" / file).read_bytes() == (
            tmp_path / "two" / file
        ).read_bytes()


def test_no_id_stands_where_a_name_could() -> None:
    words = words_of(figures()).split("Check it yourself")
    shown = words[0] + words[1].split("Details")[-1]
    for name in ("base-4", "adapter-italy", "central-dp", "inprocess", "germany"):
        assert name not in shown


def test_the_page_is_well_formed_for_those_who_hear_it() -> None:
    seen = Page(page_of(figures()))
    levels = [int(name[1]) for name, _ in seen.tags if re.fullmatch("h[1-6]", name)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert ("html", {"lang": "en"}) in seen.tags
    assert all(a.get("scope") for name, a in seen.tags if name == "th")
    ids = [a["id"] for _, a in seen.tags if "id" in a]
    assert len(ids) == len(set(ids))
    prompts = [a for _, a in seen.tags if a.get("class") == "prompt"]
    assert {a["lang"] for a in prompts} == {"de", "fr", "it", "es"}
    assert all(a["dir"] == "auto" for a in prompts)


def test_every_link_leads_to_a_file_or_a_part_that_is_there(tmp_path: Path) -> None:
    for path in ("adapters/italy/README.md", "privacy/base-4.md", "bundle/checkpoint"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("x")
    write_report(run_of(), tmp_path)
    seen = Page((tmp_path / "report.html").read_text("utf-8"))
    ids = {a["id"] for _, a in seen.tags if "id" in a}
    hrefs = seen.hrefs()
    assert {h for h in hrefs if not h.startswith("#")} == {
        "adapters/italy/README.md",
        "privacy/base-4.md",
        "bundle/checkpoint",
        "report.json",
    }
    assert {h[1:] for h in hrefs if h.startswith("#")} <= ids


def test_the_page_neither_runs_nor_loads_anything() -> None:
    text = page_of(figures())
    seen = Page(text)
    names = {name for name, _ in seen.tags}
    assert not names & {"script", "img", "link", "iframe", "object", "embed", "form"}
    loading = {"src", "style", "srcset", "data", "action", "ping", "target"}
    assert [a for _, a in seen.tags if loading & set(a)] == []
    assert {name for name, a in seen.tags if "href" in a} == {"a"}
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) == {"#weave"}


def test_the_policy_of_the_page_allows_its_style_sheet_alone() -> None:
    text = page_of(figures())
    style = text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policies = [
        attributes["content"]
        for name, attributes in Page(text).tags
        if name == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == [
        (
            f"default-src 'none'; style-src 'sha256-{digest}'; "
            "base-uri 'none'; form-action 'none'"
        )
    ]


def _hostile(value: Any) -> Any:
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, dict):
        return {key: _hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hostile(item) for item in value]
    return value


def _poisoned(text: str) -> dict[str, Any]:
    """The fixture with a text behind every word, and as a key wherever one is free."""
    data = {key: _append(value, text) for key, value in figures().items()}
    data["software"][text] = text
    vote = {
        "what": text,
        "standing": text,
        "yes": 1,
        "needed": 1,
        "votes": {text: text},
        "decided": 1,
    }
    data["decisions"] = [vote]
    data["bits_per_byte"][text] = dict.fromkeys(data["epsilon"], 1.0)
    data["epsilon"][text] = {"total": 1.0}
    data["bytes_out"][text] = {text: 1}
    data["seconds"][text] = 1.0
    for sample in data["samples"]:
        sample["answers"][text] = text
        sample["country"] = "italy" + text
    return data


def _append(value: Any, text: str) -> Any:
    if isinstance(value, str):
        return value + text
    if isinstance(value, dict):
        return {key: _append(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [_append(item, text) for item in value]
    return value


def test_hostile_text_stays_text_wherever_it_stands() -> None:
    clean = Page(page_of(figures()))
    seen = Page(page_of(_poisoned(HOSTILE)))
    assert {name for name, _ in seen.tags} <= {name for name, _ in clean.tags}
    assert not any(key.startswith("on") for _, a in seen.tags for key in a)
    assert "alert(1)" in seen.words()


@pytest.mark.parametrize(
    "text",
    [
        "\ud800",
        "\x00\x1b[31m",
        "\u202etxt",
        "x" * 5000,
        "\u05e9\u05dc\u05d5\u05dd",
        "../..",
        "%",
    ],
    ids=[
        "surrogate",
        "control",
        "override",
        "long",
        "right to left",
        "path",
        "percent",
    ],
)
def test_any_text_can_be_written(text: str, tmp_path: Path) -> None:
    write_report(figures_of(_poisoned(text)), tmp_path)
    page = (tmp_path / "report.html").read_bytes().decode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)
    told = json.loads((tmp_path / "report.json").read_bytes().decode("utf-8"))
    assert told["engine"] == "inprocess" + text.replace("\ud800", "\ufffd")
    assert {h for h in Page(page).hrefs() if not h.startswith("#")} == {"report.json"}


def test_holes_in_the_numbers_become_dashes(tmp_path: Path) -> None:
    data = figures()
    data["bits_per_byte"]["base-4"]["italy"] = float("nan")
    data["rounds"][1]["bits_per_byte"] = {"italy": None}
    data["rounds"][2]["mean_norm"] = float("inf")
    write_report(figures_of(data), tmp_path)
    written = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert written["bits_per_byte"]["base-4"]["italy"] is None
    assert "NaN" not in (tmp_path / "report.html").read_text("utf-8")


def test_each_plot_has_a_name_and_a_table() -> None:
    text = page_of(figures())
    seen = Page(text)
    drawings = [
        a
        for name, a in seen.tags
        if name == "svg" and "aria-hidden" not in a and a.get("class") == "plot"
    ]
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
    assert len(drawings) == 1 + len(
        figures()["countries"]
    )  # the gains; a line for each
    assert text.count("<figure>") == 2 == text.count("</figure>")
    for after in text.split("<figure>")[1:]:
        assert "<table " in after.split("<h2")[0]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with refused(
        ResourceError, "file-unwritable", match=f"{tmp_path}/taken: File exists"
    ):
        write_report(run_of(), tmp_path / "taken")
