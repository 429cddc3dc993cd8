"""Names and directions of the product's modules: one name, one thing, no circle."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.house.test_house import PROGRAMS, ROOT, SOURCES

# Each role has its own commands, settings and Flower application.
SHARED_MODULES = {"__init__", "cli", "settings", "flower"}
# A benchmark has the name of the command that it measures.
BENCHMARKS = {ROOT / "benchmarks" / f"{name}.py" for name in ("audit", "node")}
# Nouns of the field that end like a gerund.
FIELD_NOUNS = {
    *("accounting", "clipping", "encoding", "founding", "framing", "streaming")
}


def class_names(source: str) -> list[str]:
    return [n.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef)]


def module_name(path: Path) -> str:
    """Return the dotted name under which a module is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "tapestry":
        parts = parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, modules: set[str]) -> set[str]:
    """Return which modules a source imports: anywhere, also for types alone."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return found & modules


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_class_name_stands_for_two_things() -> None:
    places = defaultdict(list)
    for path in PROGRAMS:
        for name in class_names(path.read_text("utf-8")):
            places[name].append(path.relative_to(ROOT).as_posix())
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_module_name_stands_for_two_things() -> None:
    places = defaultdict(list)
    for path in PROGRAMS:
        if path.stem not in SHARED_MODULES and path not in BENCHMARKS:
            places[path.stem].append(path.relative_to(ROOT).as_posix())
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_a_module_is_named_by_a_noun() -> None:
    gerunds = {path.stem for path in PROGRAMS if path.stem.endswith("ing")}
    assert gerunds <= FIELD_NOUNS


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {module_name(path): path for path in SOURCES}
    graph = {
        name: imported(path.read_text("utf-8"), set(names)) - {name}
        for name, path in names.items()
    }
    assert sum(map(len, graph.values())) > len(graph)
    assert circle(graph) == []


def test_an_import_for_types_alone_closes_a_circle() -> None:
    sources = {
        "a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import b\n",
        "b": "def f():\n    from a import x\n",
    }
    graph = {name: imported(text, {"a", "b"}) for name, text in sources.items()}
    assert set(circle(graph)) == {"a", "b"}


@pytest.mark.parametrize("source", ["class A: ...", "def f():\n    class A: ..."])
def test_every_class_is_found_wherever_it_stands(source: str) -> None:
    assert class_names(source) == ["A"]
