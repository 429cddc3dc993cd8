"""Lists the codes of the product's errors, as found in its source.

``python -m tests.support.error_codes`` writes ``governance/ERRORS.md``; a test fails
when that page says something else. With ``--missing`` it prints, as ``file:line``,
the errors that name no code.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tapestry import errors

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "governance" / "ERRORS.md"
FOLDERS = ("tapestry", "node", "coordinator", "governance", "deploy")
_NOT_RAISED = {"TapestryError", "ManyFaults"}
_HEAD = """# Error codes

Each refusal and each rule has a code. A message ends with it in brackets; with
`--json` a command that fails prints `{"error": {"code": ..., "message": ...}}`. A code
stays when the sentence changes, so programs and tests compare codes. The kind decides
the exit status ([list](../README.md#command-line)). Several faults of one folder are an
error with the code `many-faults`; each of its lines ends with the code of the fault.

`python -m tests.support.error_codes` writes this page.

| code | kind | raised in |
|---|---|---|
"""


@dataclass(frozen=True, order=True)
class Site:
    """A place that makes an error."""

    code: str  # empty: none is named
    kind: str
    file: str
    line: int


def kinds() -> set[str]:
    """Return the names of the product's errors."""
    found = {"TapestryError"}
    classes = [n for _, n in _nodes(ast.ClassDef)]
    while True:
        more = {
            each.name
            for each in classes
            if isinstance(each, ast.ClassDef)
            and any(ast.unparse(base).split(".")[-1] in found for base in each.bases)
        }
        if more <= found:
            return found - _NOT_RAISED
        found |= more


def sites() -> list[Site]:
    """Find every call of an error's class, and of a function that builds one.

    A function builds an error if it passes a parameter called ``code`` on to an
    error's class; its callers name the rule.

    Edge cases:
        A code that is taken from another error (``code=error.code``) is named where
        that error is raised, so such a call is no site and lacks nothing.
    """
    known = kinds() | {"TapestryError"}
    builders = _builders(known)
    found = []
    for path, node in _nodes(ast.Call):
        assert isinstance(node, ast.Call)
        name = _name(node.func)
        code = next((k.value for k in node.keywords if k.arg == "code"), None)
        if code is None and name not in known:
            continue
        spelled = "" if code is None else _literal(code)
        if spelled is not None:
            file = path.relative_to(ROOT).as_posix()
            for kind in [name] if name in known else builders.get(name, []):
                found.append(Site(spelled, kind, file, node.lineno))
    return sorted(found)


def families() -> dict[str, str]:
    """Return for each error the one right below ``TapestryError`` that it is."""
    above = {}
    for _, node in _nodes(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        for base in node.bases:
            above[node.name] = _name(base)
    found = {"TapestryError": "TapestryError"}
    for kind in kinds():
        top = kind
        while above[top] != "TapestryError":
            top = above[top]
        found[kind] = top
    return found


def _builders(known: set[str]) -> dict[str, list[str]]:
    """Find what builds an error of these kinds, by name.

    Such are the functions that pass their parameter ``code`` to an error's class, and
    the parameters that are such a class (``damage: type[TapestryError]``).
    """
    found: dict[str, set[str]] = {}
    for _, parameter in _nodes(ast.arg):
        assert isinstance(parameter, ast.arg)
        spelled = ast.unparse(parameter.annotation) if parameter.annotation else ""
        named = re.fullmatch(r"type\[(\w+)\]", spelled)
        if named and named[1] in known:
            found.setdefault(parameter.arg, set()).add(named[1])
    for _, function in _nodes(ast.FunctionDef):
        assert isinstance(function, ast.FunctionDef)
        parameters = [*function.args.args, *function.args.kwonlyargs]
        if "code" not in {each.arg for each in parameters}:
            continue
        made = {
            _name(node.func)
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and any(map(_is_code, node.keywords))
        }
        if made & known:
            found.setdefault(function.name, set()).update(made & known)
    return {name: sorted(kinds) for name, kinds in found.items()}


def _is_code(keyword: ast.keyword) -> bool:
    return keyword.arg == "code" and ast.unparse(keyword.value) == "code"


def _literal(code: ast.expr) -> str | None:
    """Return the text of a literal; None for one that is passed on."""
    if isinstance(code, ast.Constant) and isinstance(code.value, str):
        return code.value
    return None


def _name(node: ast.expr) -> str:
    return ast.unparse(node).split(".")[-1]


def page() -> str:
    """Return the page that the source asks for."""
    families_of = families()
    kinds_of: dict[str, set[str]] = {}
    files_of: dict[str, set[str]] = {}
    for site in sites():
        if site.code:
            public = (
                site.kind if site.kind in errors.__all__ else families_of[site.kind]
            )
            kinds_of.setdefault(site.code, set()).add(public)
            files_of.setdefault(site.code, set()).add(site.file)
    lines = [
        f"| `{code}` | {', '.join(sorted(kinds_of[code]))} |"
        f" {', '.join(map(_link, sorted(files_of[code])))} |"
        for code in sorted(kinds_of)
    ]
    return _HEAD + "\n".join(lines) + "\n"


def _link(file: str) -> str:
    return f"[{Path(file).stem}](../{file})"


def _nodes(kind: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in _walked(path):
                if isinstance(node, kind):
                    yield path, node


@cache
def _walked(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


def main() -> None:
    """Write the page, or print what lacks a code."""
    if "--missing" in sys.argv:
        for site in sites():
            if not site.code:
                print(f"{site.file}:{site.line}: {site.kind}")  # noqa: T201
    else:
        PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
