"""The pages of the repository name things that exist.

Each check is a function from a page's text to a list of faults, and is tried on a
false page as well, so that a check that finds nothing would be noticed.
"""

import ast
import itertools
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.support import body_table

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("tapestry", "node", "coordinator", "governance", "deploy")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_SOURCE = re.compile(r"`([\w./-]+\.(?:py|go|mjs))`")
_ROAD = re.compile(r"<!-- road -->\n((?:\|.*\n)+)")
_IDIOM = re.compile(
    r"\b(vouch\w*|in league|com(e|es|ing) off|mend(s|ed|ing)?|nobody|everybody|somebody"
    r"|whoever|hand(s|ed|ing)? in|h[eo]ld(s|ing)? [\w ]{1,30} against)\b",
    re.IGNORECASE,
)
_LAYERS = re.compile(r"<!-- layers: pyproject.toml -->\n```\n(.*?)\n```", re.DOTALL)
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(
        page
        for folder in (*_PACKAGES, "benchmarks", "tests")
        for page in sorted((ROOT / folder).rglob("*.md"))
        if "work" not in page.relative_to(ROOT).parts
    ),
]


def _text(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


@cache
def _definitions(module: Path) -> frozenset[str]:
    """Names that a module defines, methods and constants included, and its own."""
    names = {module.parent.name if module.stem == "__init__" else module.stem}
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return frozenset(names)


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def _rows(table: str) -> list[list[str]]:
    """The rows of a table, without its two lines of head."""
    return [_cells(line) for line in table.strip().splitlines()[2:]]


def links_astray(text: str, *, folder: Path) -> list[str]:
    """Links to files that are not there, or to headings that a page lacks."""
    found = []
    for _, target, anchor in _LINK.findall(text):
        if target.startswith("http"):
            continue
        path = folder / target if target else None
        if path is not None and not path.exists():
            found.append(target)
        elif anchor:
            page = text if path is None else path.read_text("utf-8")
            if anchor not in _anchors(page):
                found.append(f"{target}#{anchor}")
    return found


def astray_tests(text: str) -> list[str]:
    """Tests that a page names and that are not there."""
    found = []
    for name, test in _TEST.findall(text):
        path = ROOT / name
        if not path.is_file() or (test and test not in _definitions(path)):
            found.append(f"{name}::{test}")
    return found


@cache
def _sources() -> frozenset[str]:
    """Every tail of the path of every source file, such as ``secagg/server.py``."""
    found = set()
    for folder in (*_PACKAGES, "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".go", ".mjs"}:
                parts = path.relative_to(ROOT).parts
                found |= {"/".join(parts[n:]) for n in range(len(parts))}
    return frozenset(found)


def astray_sources(text: str) -> list[str]:
    """Source files that a page names in code and that are not there."""
    return [name for name in _SOURCE.findall(text) if name not in _sources()]


def packages_unnamed(text: str) -> list[str]:
    """Python packages below the product's folders that a page does not link."""
    linked = {target for _, target, _ in _LINK.findall(text)}
    packages = [
        path.relative_to(ROOT).as_posix()
        for folder in _PACKAGES
        for path in sorted((ROOT / folder).rglob("__init__.py"))
    ]
    assert len(packages) > 20
    return [path for path in packages if path not in linked]


def folders_unnamed(text: str) -> list[str]:
    """Folders of packages that a page does not name in a cell or sentence."""
    folders = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("*/*/__init__.py")}
    folders |= {"benchmarks", "tests", "governance/decisions", "governance/verifiers"}
    return sorted(each for each in folders if f"{each}/" not in text)


def steps_astray(text: str) -> list[str]:
    """Steps of a road whose function is not defined in the file beside it."""
    found = []
    for table in _ROAD.findall(text):
        for number, (place, functions, file, *_) in enumerate(_rows(table), 1):
            links = _LINK.findall(file)
            names = re.findall(r"`(\w+)`", functions)
            known = _definitions(ROOT / links[0][1]) if len(links) == 1 else frozenset()
            wrong = [name for name in names if name not in known]
            if wrong or not names or place != str(number):
                found.append(f"step {place}: {functions} in {file}")
    return found


def layers_astray(text: str) -> tuple[list[str], list[str]]:
    """The layers that a page draws, and those of the contract."""
    block = _LAYERS.search(text)
    assert block is not None, "the page draws no layers"
    contracts = tomllib.loads(_text("pyproject.toml"))["tool"]["importlinter"]
    contract = next(c for c in contracts["contracts"] if c["type"] == "layers")
    return block[1].splitlines(), contract["layers"]


def glossary(text: str) -> list[list[str]]:
    """The rows of the glossary: word, the field's word, meaning, definition."""
    table = text[text.index("| word |") :]
    return _rows(table)


def words_out_of_order(text: str) -> list[str]:
    """Words that do not come after the one before: out of order, or there twice."""
    words = [row[0] for row in glossary(text)]
    return [b for a, b in itertools.pairwise(words) if b <= a]


def words_undefined(text: str) -> list[str]:
    """Words whose definition is not in the file that their row links."""
    found = []
    for row in glossary(text):
        links = _LINK.findall(row[-1])
        if len(row) != 4 or len(links) != 1 or not all(row):
            found.append(f"{row[0]}: want four cells and one link")
            continue
        name, target, _ = links[0]
        path = ROOT / target
        if not path.is_file() or name.strip("`") not in _definitions(path):
            found.append(f"{row[0]}: {target} defines no {name}")
    return found


def idioms(text: str) -> list[str]:
    """Words that only this project would use so, outside of quoted code."""
    prose = re.sub(r"```.*?```|`[^`]*`", " ", text, flags=re.DOTALL)
    return [found[0] for found in _IDIOM.finditer(prose)]


def before_the_first_table(text: str) -> str:
    """What a page says before its first table."""
    return re.split(r"^\|", text, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_page_links_files_and_headings_that_exist(page: Path) -> None:
    assert links_astray(page.read_text("utf-8"), folder=page.parent) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_page_names_tests_that_exist(page: Path) -> None:
    assert astray_tests(page.read_text("utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_page_names_source_files_that_exist(page: Path) -> None:
    assert astray_sources(page.read_text("utf-8")) == []


def test_a_source_file_that_is_not_there_is_found() -> None:
    assert astray_sources("`house/test_pages.py` `test_pages.py`") == []
    assert astray_sources("`house/test_nothing.py`") == ["house/test_nothing.py"]


def test_architecture_names_every_package_in_one_table() -> None:
    assert packages_unnamed(_text("ARCHITECTURE.md")) == []
    assert folders_unnamed(_text("ARCHITECTURE.md")) == []


def test_architecture_walks_roads_through_functions_that_exist() -> None:
    text = _text("ARCHITECTURE.md")
    assert len(_ROAD.findall(text)) == 2
    assert steps_astray(text) == []


def test_architecture_draws_the_layers_of_the_contract() -> None:
    drawn, contract = layers_astray(_text("ARCHITECTURE.md"))
    assert drawn == contract


def test_glossary_has_each_word_once_in_order() -> None:
    assert len(glossary(_text("GLOSSARY.md"))) > 80
    assert words_out_of_order(_text("GLOSSARY.md")) == []


def test_glossary_words_are_defined_where_it_says() -> None:
    assert words_undefined(_text("GLOSSARY.md")) == []


def test_readme_says_first_what_it_is_for_whom_and_what_not() -> None:
    first = before_the_first_table(_text("README.md"))
    leads = re.findall(r"^\*\*([\w ]+)\.\*\*", first, re.MULTILINE)
    assert leads == ["How", "For whom", "What it does not do"]
    assert first.index("**What it does not do.**") < 2000  # of a screen's characters


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_page_speaks_plain_english(page: Path) -> None:
    text = page.read_text("utf-8")
    if page.name == "CONTRIBUTING.md":  # which lists what not to say
        text = re.sub(r"- A sentence has a subject.*?\n- ", "- ", text, flags=re.DOTALL)
    assert idioms(text) == []


def test_the_roadmap_stands_in_one_page_only() -> None:
    telling = [
        page.relative_to(ROOT).as_posix()
        for page in PAGES
        if re.search(r"^#+ What is still to come$", page.read_text("utf-8"), re.M)
    ]
    assert telling == ["ARCHITECTURE.md"]
    others = [
        page.relative_to(ROOT).as_posix()
        for page in PAGES
        if page.name != "ARCHITECTURE.md"
        and re.search(
            r"(?<!#what-is-)still[ \n]to[ \n]come(?!\]\()", page.read_text("utf-8")
        )
    ]
    assert others == [], "link ARCHITECTURE.md#what-is-still-to-come instead"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a](ARCHITECTURE.md)", []),
        ("[a](NOWHERE.md)", ["NOWHERE.md"]),
        ("[a](ARCHITECTURE.md#nowhere)", ["ARCHITECTURE.md#nowhere"]),
        ("# A b: `c`\n[a](#a-b-c) [a](#d)", ["#d"]),
        ("[a](https://nowhere.example/x)", []),
    ],
)
def test_a_link_that_leads_nowhere_is_found(text: str, fault: list[str]) -> None:
    assert links_astray(text, folder=ROOT) == fault


def test_a_test_that_is_not_there_is_found() -> None:
    own = "test_a_test_that_is_not_there_is_found"
    here = "tests/house/test_pages.py"
    assert astray_tests(f"`{here}` `{here}::{own}`") == []
    assert astray_tests(f"`{here}::other`") == [f"{here}::other"]
    assert astray_tests("`tests/none.py`") == ["tests/none.py::"]


def test_a_package_that_is_not_named_is_found() -> None:
    text = _text("ARCHITECTURE.md").replace("tapestry/secagg/__init__.py", "")
    assert packages_unnamed(text) == ["tapestry/secagg/__init__.py"]
    assert "benchmarks" in folders_unnamed("tests/ node/")


def test_a_step_that_is_not_there_is_found() -> None:
    head = "<!-- road -->\n| # | function | file | |\n|---|---|---|---|\n"
    page = "[x](tests/house/test_pages.py)"
    assert steps_astray(f"{head}| 1 | `steps_astray` | {page} | x |\n") == []
    assert len(steps_astray(f"{head}| 1 | `other` | {page} | x |\n")) == 1
    assert len(steps_astray(f"{head}| 2 | `steps_astray` | {page} | x |\n")) == 1


def test_an_idiom_is_found_in_prose_and_not_in_code() -> None:
    assert idioms(
        "A node vouches for it;\nnobody mends `everybody` or what is amended."
    ) == [
        "vouches",
        "nobody",
        "mends",
    ]
    assert idioms("It is hold it against X.") == ["hold it against"]


def test_a_layer_that_was_moved_is_found() -> None:
    text = _text("ARCHITECTURE.md").replace("tapestry.storage\n", "")
    drawn, contract = layers_astray(text)
    assert drawn != contract


def test_a_word_that_is_wrong_is_found() -> None:
    head = "| word | the field says | meaning here | defined in |\n|---|---|---|---|\n"
    page = "tests/house/test_pages.py"
    good = f"| b | x | y | [`glossary`]({page}) |\n"
    assert words_out_of_order(head + good + good) == ["b"]
    assert words_out_of_order(head + good + good.replace("b", "a", 1)) == ["a"]
    assert words_undefined(head + good) == []
    assert len(words_undefined(head + good.replace("`glossary`", "`other`"))) == 1
    assert len(words_undefined(head + good.replace(" x ", " "))) == 1


def test_events_lists_every_body_of_events_and_messages() -> None:
    page = body_table.PAGE.read_text("utf-8")
    assert body_table.written(page) == page
