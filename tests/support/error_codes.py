"""The codes of the product's errors, found in its source.

``python -m tests.support.error_codes`` writes ``governance/ERRORS.md``; a test fails
when that page says something else. With ``--missing`` it prints, as ``file:line``,
the errors that name no code.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "governance" / "ERRORS.md"
FOLDERS = ("tapestry", "node", "coordinator", "governance", "deploy")
# An error that says its own code, from an argument that is no code.
_OWN_CODE = {"Refused"}
_NOT_RAISED = {"TapestryError", "ManyFaults"}
_HEAD = """# Error codes

Each refusal and each rule has a code. A message ends with it in brackets; with
`--json` a command that fails prints `{"error": {"code": ..., "message": ...}}`. A code
stays when the sentence changes, so programs and tests compare codes. The kind decides
the exit status ([list](../README.md#command-line)).

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
    """Find every call of an error's class, except one of ``Refused``."""
    known = kinds() - _OWN_CODE
    found = []
    for path, node in _nodes(ast.Call):
        assert isinstance(node, ast.Call)
        kind = ast.unparse(node.func).split(".")[-1]
        if kind in known:
            code = next((k.value for k in node.keywords if k.arg == "code"), None)
            name = "" if code is None else ast.unparse(code).strip("'\"")
            file = path.relative_to(ROOT).as_posix()
            found.append(Site(name, kind, file, node.lineno))
    return sorted(found)


def page() -> str:
    """Return the page that the source asks for."""
    rows: dict[tuple[str, str], set[str]] = {}
    for site in sites():
        if site.code:
            rows.setdefault((site.code, site.kind), set()).add(site.file)
    lines = [
        f"| `{code}` | {kind} | {', '.join(map(_link, sorted(files)))} |"
        for (code, kind), files in sorted(rows.items())
    ]
    return _HEAD + "\n".join(lines) + "\n"


def _link(file: str) -> str:
    return f"[{Path(file).stem}](../{file})"


def _nodes(kind: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, kind):
                    yield path, node


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
