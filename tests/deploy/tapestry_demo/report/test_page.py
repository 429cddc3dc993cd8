"""report.json and report.html say the same, in plain words, and text stays text."""

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry_demo.report import page as report
from tapestry_demo.report import results
from tapestry_demo.report.data import read
from tapestry_demo.report.links import Folder
from tapestry_demo.report.page import write_report

FIXTURE = Path(__file__).parent.parent.parent.parent / "vectors" / "report-fixture.json"
HOSTILE = '</title></style><script>alert(1)</script><img src=x onerror="a()">&amp;\'"'


def _data() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FIXTURE.read_text("utf-8"))
    return loaded


def _page(data: dict[str, Any]) -> str:
    return report.render(read(data), Folder())


def _words(data: dict[str, Any]) -> str:
    return _Page(_page(data)).words()


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
        return " ".join("".join(self.text).split())


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


def test_the_first_screen_answers_in_words() -> None:
    first = _words(_data()).split("Country by country")[0]
    assert first.startswith(
        "Four institutions trained one language model together, and the model got "
        "better for all of them"
    )
    assert "Four institutions (Germany, France, Italy and Spain) trained" in first
    assert "text that it has never seen 9.5 % better in German, 9.0 % better" in first
    assert (
        "each country trained on its own text, it is 13.9 % better in German" in first
    )
    assert "differs by a factor of at most 1,526 plus at most 1 in 100,000 (ε" in first
    assert "That is a weak promise, and in the worst case nearly none" in first
    assert "could be right nearly 100 % of the time" in first
    assert (
        "it can open only their sum. Of six things on the list below it saw three and"
        in first
    )
    assert "a statistical test of the 15 uploads (44.2 MB) found no pattern" in first
    assert "The log of this run has 71 entries, signed by four members." in first
    assert "and all of it holds." in first
    assert "bits per byte" not in first


def test_a_run_that_made_things_worse_says_so() -> None:
    data = _data()
    for country in data["bits_per_byte"]["base-4"]:
        data["bits_per_byte"]["base-4"][country] = 3.0
    assert "35.5 % worse in German" in _words(data)


def test_a_gain_that_other_texts_could_undo_is_not_called_one() -> None:
    data = _data()
    data["bits_per_byte"]["base-4"]["italy"] = 2.306 - 0.031
    words = _words(data)
    assert "For Italian the difference is so small" in words
    assert "the shared model 1.3 % better (too little to be sure)" in words


def test_many_languages_are_summed_up() -> None:
    names = [f"country-{letter}" for letter in "abcdefgh"]
    scores = {"given": dict.fromkeys(names, 2.0), "base-1": dict.fromkeys(names, 1.9)}
    scores["base-1"]["country-b"] = 2.1
    words = _words(
        {
            "title": "t",
            "countries": [{"name": name} for name in names],
            "bits_per_byte": scores,
        }
    )
    assert "better in 7 of 8 languages, from 5.0 % worse to 5.0 % better" in words


def test_a_run_without_noise_promises_nothing() -> None:
    data = _data()
    data["epsilon"]["italy"]["base"] = float("inf")
    words = _words(data)
    assert "This run promises no differential privacy:" in words
    assert "Single records, in this run." in words
    assert "no bound on privacy loss" in words


@pytest.mark.parametrize(
    ("epsilon", "told"),
    [
        (6.28, "could be right 99.9 % of the time"),
        (6.28, "by a factor of at most 534 plus at most 1 in 100,000"),
        (6.28, "is at most e to the power of ε times the probability in the other, pl"),
        (
            1.0,
            "takes 1 in 1,000 of the unused records for used ones recognizes at most",
        ),
        (1.0, "recognizes at most 0.3 % of the used ones"),
        (1.0, "That is a strong promise. Even in the worst case, whoever must say"),
        (2.0, "That is a moderate promise."),
        (8.0, "could be right nearly 100 % of the time"),
        (60.0, "by a factor of more than 1,000,000, which in practice is no bound"),
    ],
)
def test_a_promise_is_called_as_weak_as_it_is(epsilon: float, told: str) -> None:
    data = _data()
    data["epsilon"] = {name: {"run-1": epsilon} for name in data["epsilon"]}
    words = _words(data)
    assert told in words
    assert ("weak promise" in words) == (epsilon > 3)


def test_delta_is_no_chance_that_the_factor_does_not_hold() -> None:
    words = _words(_data())
    for wrong in ("apart from", "but for", "a chance of 1 in 100,000", "any attack"):
        assert wrong not in words
    data = _data()
    data["privacy"]["delta"] = None
    assert "plus at most" not in _words(data)


def test_a_delta_that_one_record_can_pay_is_not_excused() -> None:
    data = _data()
    assert "should be well below one in the number of records" in _words(data)
    data["privacy"]["delta"] = 0.01
    assert "That is not small enough" in _words(data)


def test_uploads_that_do_not_look_random_are_not_called_random() -> None:
    data = _data()
    data["upload_test"]["p_value"] = 1e-12
    words = _words(data)
    assert "they do not look random, as masked numbers must" in words
    assert "looked random" not in words
    for unproven in ("only their sum", "not seen", "could not see", "By design"):
        assert unproven not in words
    assert "it saw three and may have seen three" in words
    assert words.count("? in doubt") == 3
    del data["upload_test"]
    assert "no test looked at the uploads" in _words(data)


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        ("fails", "and a signature, proof or digest does not hold."),
        ("rule_broken", "and a rule was broken."),
        ("foreign_file", "and found a file that is not part of it."),
        ("incomplete", "and could not check all of it"),
        ("banana", "verdict is unknown to this page: 'banana'."),
        ("", "This report holds no verdict of an audit."),
    ],
)
def test_an_audit_that_found_something_is_not_called_clean(
    verdict: str, told: str
) -> None:
    data = _data()
    data["log"]["verdict"] = verdict
    words = _words(data)
    assert told in words
    assert "all of it holds." not in words


def test_each_country_shows_its_prompts_and_answers_unedited() -> None:
    data = _data()
    words = _words(data)
    for sample in data["samples"]:
        for text in (
            sample["prompt"],
            sample["reference"],
            *sample["answers"].values(),
        ):
            assert " ".join(text.split()) in words
    assert words.count("(it answered with nothing)") == 1
    assert words.count("Prompt 3 of 3") == 4


def test_the_page_says_of_the_answers_what_they_are() -> None:
    words = _words(_data())
    assert "134,515,008 parameters, which is small" in words
    assert "Of the 36 answers below, five repeat themselves, one copies the" in words
    assert "18 of 48 (37.5 %) by the model as it was given" in words
    assert "32 of 48 (66.7 %) by the adapters" in words
    assert "Answers in Italian to prompts in Italian: 4 of 12 by the model" in words


def test_the_page_says_of_other_answers_other_things() -> None:
    data = _data()
    del data["language_share"]
    data["model"]["parameters"] = 7_000_000_000
    for sample in data["samples"]:
        sample["answers"] = {"given": "Yes.", "adapter": "No."}
    words = _words(data)
    assert "None of the 24 answers below is empty, repeats itself or copies" in words
    assert "In which language it answers was not counted" in words
    assert "is small" not in words


def test_figures_of_answers_alone_are_called_that() -> None:
    data = _data()
    data["measure"] = "answers"
    data["answer_bits"] = {
        "given": dict.fromkeys(data["epsilon"], 2.0),
        "base-4": dict.fromkeys(data["epsilon"], 1.8),
    }
    data["answer_bits_se"] = {"base-4": dict.fromkeys(data["epsilon"], 0.01)}
    words = _words(data)
    assert "predicts the answers in dialogues that it has never seen 10.0 %" in words
    assert "over answers in held-out dialogues" in words
    assert "9.5 % better" not in words
    del data["answer_bits"]  # nothing but the text was measured after all
    assert "9.5 % better" in _words(data)


def test_references_that_were_not_made_are_said_to_be_missing() -> None:
    data = _data()
    assert "tapestry demo --references" not in _words(data)
    data["references"] = False
    for name in ("central", "central-dp"):
        del data["bits_per_byte"][name]
    words = _words(data)
    assert "Not compared: what the same training gives if everybody hands" in words
    assert "tapestry demo --references" in words


def test_no_id_stands_where_a_name_could() -> None:
    words = _words(_data()).split("Check it yourself")
    shown = words[0] + words[1].split("Details")[-1]
    for name in ("base-4", "adapter-italy", "central-dp", "inprocess", "germany"):
        assert name not in shown


def test_the_best_model_of_each_column_is_marked_with_a_sign() -> None:
    cells = re.findall(r"★ ([\d.]+)", results.results(read(_data())).text)
    assert cells == ["1.906", "1.820", "1.909", "1.814", "1.911"]


def test_levels_come_with_what_other_texts_would_have_changed() -> None:
    data = _data()
    data["bits_per_byte_se"] = {"base-4": {"italy": 0.012}}
    words = _Page(results.results(read(data)).text).words()
    assert words.count("± 0.012") == 1  # no mean: the other countries have none
    assert "standard error of the difference from the model as it was" in words
    full = dict.fromkeys(data["epsilon"], 0.02)
    assert read(data | {"bits_per_byte_se": {"base-4": full}}).mean_error(
        "base-4"
    ) == pytest.approx(0.01)
    del data["bits_per_byte_se"]
    assert "±" not in results.results(read(data)).text


def test_the_page_is_well_formed_for_those_who_hear_it() -> None:
    seen = _Page(_page(_data()))
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


def _hrefs(page: _Page) -> list[str]:
    return [a["href"] or "" for name, a in page.tags if name == "a"]


def test_every_link_leads_to_a_file_or_a_part_that_is_there(tmp_path: Path) -> None:
    for path in ("adapters/italy/README.md", "privacy/base-4.md", "bundle/checkpoint"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("x")
    write_report(_data(), tmp_path)
    seen = _Page((tmp_path / "report.html").read_text("utf-8"))
    ids = {a["id"] for _, a in seen.tags if "id" in a}
    hrefs = _hrefs(seen)
    assert {h for h in hrefs if not h.startswith("#")} == {
        "adapters/italy/README.md",
        "privacy/base-4.md",
        "bundle/checkpoint",
        "report.json",
    }
    assert {h[1:] for h in hrefs if h.startswith("#")} <= ids


@pytest.mark.parametrize("part", sorted(set(_data()) - {"title"}))
def test_no_link_leads_to_a_part_that_is_left_out(part: str) -> None:
    data = _data()
    del data[part]
    seen = _Page(_page(data))
    ids = {a["id"] for _, a in seen.tags if "id" in a}
    assert {h[1:] for h in _hrefs(seen) if h.startswith("#")} <= ids


def test_the_page_neither_runs_nor_loads_anything() -> None:
    text = _page(_data())
    seen = _Page(text)
    names = {name for name, _ in seen.tags}
    assert not names & {"script", "img", "link", "iframe", "object", "embed", "form"}
    loading = {"src", "style", "srcset", "data", "action", "ping", "target"}
    assert [a for _, a in seen.tags if loading & set(a)] == []
    assert {name for name, a in seen.tags if "href" in a} == {"a"}
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) == {"#weave"}


def test_the_policy_of_the_page_allows_its_style_sheet_alone() -> None:
    text = _page(_data())
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


def _poisoned(text: str) -> dict[str, Any]:
    """The fixture with a text behind every word, and as a key wherever one is free."""
    data = {key: _append(value, text) for key, value in _data().items()}
    data["measure"] = "text"
    data["software"][text] = text
    data["bits_per_byte"][text] = dict.fromkeys(data["epsilon"], 1.0)
    data["language_share"][text] = {"italy": [1, 2], text: [1, 2]}
    data["epsilon"][text] = {text: 1.0}
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
    clean = _Page(_page(_data()))
    seen = _Page(_page(_poisoned(HOSTILE)))
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
    write_report(_poisoned(text), tmp_path)
    page = (tmp_path / "report.html").read_bytes().decode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)
    told = json.loads((tmp_path / "report.json").read_bytes().decode("utf-8"))
    assert told["engine"] == "inprocess" + text.replace("\ud800", "\ufffd")
    assert {h for h in _hrefs(_Page(page)) if not h.startswith("#")} == {"report.json"}


@pytest.mark.parametrize("part", sorted(set(_data()) - {"title"}))
def test_the_page_does_without_any_part(part: str, tmp_path: Path) -> None:
    data = _data()
    del data[part]
    write_report(data, tmp_path)
    title = "Fixture" if part == "countries" else "Four institutions trained"
    assert f"<h1>{title}" in (tmp_path / "report.html").read_text("utf-8")


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
    text = _page(_data())
    seen = _Page(text)
    drawings = [
        a
        for name, a in seen.tags
        if name == "svg" and "aria-hidden" not in a and a.get("class") == "plot"
    ]
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
    assert len(drawings) == 1 + len(_data()["countries"])  # the gains; a line for each
    assert text.count("<figure>") == 2 == text.count("</figure>")
    for after in text.split("<figure>")[1:]:
        assert "<table " in after.split("<h2")[0]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("countries", [{"language": "de"}]),
        ("bits_per_byte", {"given": {"germany": "low"}}),
        ("rounds", "four"),
        ("measure", "taste"),
        ("language_share", {"given": {"germany": [13, 12]}}),
    ],
    ids=["no name", "no number", "no list", "no measure", "no share"],
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
