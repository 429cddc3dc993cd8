"""report.json and report.html say the same, and text stays text."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.cli.page import results
from tapestry.cli.page.data import read
from tapestry.cli.page.markup import Markup, element, joined, page
from tapestry.cli.page.plots import ticks
from tapestry.cli.report import render, write_report
from tapestry.errors import ConfigError, ResourceError

FIXTURE = Path(__file__).parent.parent / "vectors" / "report-fixture.json"
HOSTILE = '</title></style><script>alert(1)</script><img src=x onerror="a()">&amp;\'"'


def _data() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FIXTURE.read_text("utf-8"))
    return loaded


class _Page(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_the_files_hold_the_numbers_that_were_given(tmp_path: Path) -> None:
    write_report(_data(), tmp_path / "new" / "folder")
    written = (tmp_path / "new" / "folder" / "report.json").read_text("utf-8")
    assert json.loads(written) == _data()
    assert written.endswith("}\n")


def test_equal_numbers_give_equal_bytes(tmp_path: Path) -> None:
    backwards = dict(reversed(_data().items()))
    for name, data in (("one", _data()), ("two", backwards)):
        write_report(data, tmp_path / name)
    for file in ("report.json", "report.html"):
        assert (tmp_path / "one" / file).read_bytes() == (
            tmp_path / "two" / file
        ).read_bytes()


def test_the_page_tells_the_story_and_the_key_numbers() -> None:
    words = _Page(render(read(_data()))).words()
    assert "Four institutions with private text" in words
    assert "ended 10.7 % better on average (2.190 to 1.957 bits per byte)" in words
    assert "better than the given one in every language" in words
    assert "no institution spent more than ε = 7.33, of 8 agreed" in words
    assert "tapestry audit verify bundle" in words
    assert "What is not protected" in words


def test_a_run_that_made_things_worse_says_so() -> None:
    data = _data()
    for country in data["bits_per_byte"]["base-4"]:
        data["bits_per_byte"]["base-4"][country] = 3.0
    words = _Page(render(read(data))).words()
    assert "worse on average" in words
    assert "better than the given one in 0 of 4 languages" in words


def test_a_run_without_noise_promises_nothing() -> None:
    data = _data()
    data["epsilon"]["italy"]["base"] = float("inf")
    words = _Page(render(read(data))).words()
    assert "This run promises no differential privacy." in words
    assert "Single records, in this run." in words
    assert "no bound" in words


def test_the_best_model_of_each_column_is_marked_with_a_sign() -> None:
    cells = re.findall(r"★ ([\d.]+)", results.matrix(read(_data())).text)
    assert cells == ["1.906", "1.820", "1.909", "1.814", "1.911"]


def test_levels_come_with_what_other_texts_would_have_changed() -> None:
    data = _data()
    data["bits_per_byte_se"] = {"base-4": {"italy": 0.012}}
    words = _Page(results.matrix(read(data)).text).words()
    assert words.count("± 0.012") == 1  # no mean: the other countries have none
    assert "standard error of the difference from the base as given" in words
    full = dict.fromkeys(data["epsilon"], 0.02)
    assert read(data | {"bits_per_byte_se": {"base-4": full}}).mean_error(
        "base-4"
    ) == pytest.approx(0.01)
    del data["bits_per_byte_se"]
    assert "±" not in results.matrix(read(data)).text


def test_the_page_neither_runs_nor_loads_anything() -> None:
    text = render(read(_data()))
    seen = _Page(text)
    names = {name for name, _ in seen.tags}
    assert not names & {"script", "img", "link", "iframe", "object", "embed", "form"}
    loading = {"src", "href", "style", "srcset", "data", "action"}
    assert [a for _, a in seen.tags if loading & set(a)] == []
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) == {"#weave"}


def test_the_policy_of_the_page_allows_its_style_sheet_alone() -> None:
    text = render(read(_data()))
    style = text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policies = [
        attributes["content"]
        for name, attributes in _Page(text).tags
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


def test_hostile_text_stays_text_wherever_it_stands() -> None:
    clean, hostile = _Page(render(read(_data()))), _data()
    hostile = {key: _hostile(hostile[key]) for key in hostile}
    hostile["software"][HOSTILE] = HOSTILE
    hostile["bits_per_byte"][HOSTILE] = dict.fromkeys(hostile["epsilon"], 1.0)
    hostile["epsilon"][HOSTILE] = {HOSTILE: 1.0}
    hostile["bytes_out"][HOSTILE] = {HOSTILE: 1}
    hostile["seconds"][HOSTILE] = 1.0
    seen = _Page(render(read(hostile)))
    assert {name for name, _ in seen.tags} <= {name for name, _ in clean.tags}
    assert not any(key.startswith("on") for _, a in seen.tags for key in a)
    assert "alert(1)" in seen.words()


@given(st.text(), st.text())
def test_markup_gives_back_the_text_that_was_put_in(text: str, attribute: str) -> None:
    shown = element("p", {"class": attribute}, text).text
    seen = _Page(shown)
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    assert [name for name, _ in seen.tags] == ["p"]
    assert "".join(seen.text).replace("\r\n", "\n").replace("\r", "\n") == unified


@pytest.mark.parametrize("name", ["p onload", "onclick", "", "a>b", "ONLOAD"])
def test_markup_refuses_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="not a name for markup"):
        element("p", {name: "x"})


def test_a_style_sheet_cannot_close_its_element() -> None:
    with pytest.raises(ValueError, match="closing tag"):
        page("t", "en", "</style>", joined())


@pytest.mark.parametrize("part", sorted(set(_data()) - {"title"}))
def test_the_page_does_without_any_part(part: str, tmp_path: Path) -> None:
    data = _data()
    del data[part]
    write_report(data, tmp_path)
    assert "<h1>Fixture" in (tmp_path / "report.html").read_text("utf-8")


def test_a_title_alone_is_a_report(tmp_path: Path) -> None:
    write_report({"title": "Nothing yet"}, tmp_path)
    assert "Nothing yet" in (tmp_path / "report.html").read_text("utf-8")


def test_holes_in_the_numbers_become_dashes(tmp_path: Path) -> None:
    data = _data()
    data["bits_per_byte"]["base-4"]["italy"] = float("nan")
    data["rounds"][1]["bits_per_byte"] = None
    data["rounds"][2]["bits_per_byte"] = 2.0
    data["rounds"][3]["dropped"] = ["spain"]
    write_report(data, tmp_path)
    written = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert written["bits_per_byte"]["base-4"]["italy"] is None
    assert "NaN" not in (tmp_path / "report.html").read_text("utf-8")


def test_each_plot_has_a_name_and_a_table() -> None:
    text = render(read(_data()))
    seen = _Page(text)
    drawings = [a for name, a in seen.tags if name == "svg" and "aria-hidden" not in a]
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
    assert text.count("<figure>") == len(drawings) == text.count("</figure>")
    for after in text.split("</figure>")[1:]:
        assert "<table>" in after.split("<h2")[0]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("countries", [{"language": "de"}]),
        ("bits_per_byte", {"given": {"germany": "low"}}),
        ("rounds", "four"),
    ],
    ids=["no name", "no number", "no list"],
)
def test_a_part_of_the_wrong_shape_is_named(
    part: str, value: object, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"report data, {part}"):
        write_report({**_data(), part: value}, tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ResourceError, match="cannot write the report"):
        write_report(_data(), tmp_path / "taken")


@given(
    st.floats(-1e6, 1e6, allow_nan=False),
    st.floats(1e-6, 1e6),
)
def test_ticks_are_few_and_lie_between_the_ends(low: float, span: float) -> None:
    found = ticks(low, low + span)
    slack = 1e-9 + 1e-9 * abs(low)
    assert len(found) <= 8
    assert all(low - slack <= tick <= low + span + slack for tick in found)


def test_only_markup_passes_unescaped() -> None:
    assert joined("<b>", Markup("<b></b>")).text == "&lt;b&gt;<b></b>"


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("chromium") is None, reason="chromium is not installed"
)
def test_a_browser_shows_the_page_without_complaint(tmp_path: Path) -> None:
    write_report(_data(), tmp_path)
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={tmp_path}/user",
        "--dump-dom", (tmp_path / "report.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True
    )
    assert "What the coordinator could see" in done.stdout
    assert "CONSOLE" not in done.stderr
    assert "Content Security Policy" not in done.stderr
