"""The rules of the house that no linter knows.

Each test reads the tree as text or syntax and names what breaks a rule as
``file:line``. An exception stands in this file with its reason, or not at all.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = (
    "tapestry",
    "node/tapestry_node",
    "coordinator/tapestry_coordinator",
    "governance/tapestry_governance",
    "deploy/tapestry_demo",
    "deploy/tapestry_serve",
)
# A role owns its commands; only commands print, and draw with click and rich.
COMMANDS = re.compile(r"tapestry/cli/|\w+/tapestry_\w+/(cli(\.py|/)|\w+_commands\.py$)")
# Only this package makes anything durable, locks it or opens a database.
STORAGE = "tapestry/storage/"
LOW_LEVEL = re.compile(
    r"(fcntl|posix|sqlite3\.dbapi2|_sqlite3)(\.|$)|sqlite3\.(connect|Connection)$"
    r"|os\.(fsync|fdatasync|sync|lockf|posix_f\w+|rename|renames|replace)$"
)
MODULE_LINES = 600
TEST_MODULE_LINES = 600  # a list of sentences, read one at a time
BODY_LINES = 50
PARAMETERS = 6

# "checkpoint" means a log's signed size and root. Where a model is at hand, the word
# would be read as the model's files, so it does not appear there at all.
MODEL_FOLDERS = ("tapestry/workloads/", "tapestry/privacy/", "tapestry/secagg/")
MODEL_IMPORTS = re.compile(
    r"^(from|import) (torch|transformers|peft|opacus|safetensors)\b", re.MULTILINE
)
# Names of other libraries' settings, which we cannot choose.
FOREIGN_WORDS = ("gradient_checkpointing", "activation_checkpointing")
TEXT_SUFFIXES = {
    "", ".py", ".md", ".toml", ".txt", ".json", ".jsonl", ".css", ".yaml", ".yml",
}  # fmt: skip
UNTRACKED = {
    ".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    ".hypothesis", ".import_linter_cache", "dist", "shared", "node_modules", "work",
}  # fmt: skip

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _modules(*folders: str) -> list[Path]:
    found = [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]
    return [p for p in found if not UNTRACKED & set(p.relative_to(ROOT).parts)]


def _texts() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        ours = not UNTRACKED & set(parts) and not parts[0].startswith((".venv", "demo"))
        if ours and path.is_file() and path.suffix in TEXT_SUFFIXES:
            yield path


SOURCES = _modules(*PACKAGES)
PROGRAMS = SOURCES + _modules("benchmarks")
TESTS = _modules("tests")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def _found(paths: list[Path], *kinds: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
    for path in paths:
        for node in _walked(path):
            if isinstance(node, kinds):
                yield path, node


@cache
def _walked(path: Path) -> list[ast.AST]:
    return list(ast.walk(_tree(path)))


def _at(path: Path, node: ast.AST, text: str) -> str:
    return f"{_name(path)}:{getattr(node, 'lineno', 0)}: {text}"


def _functions(paths: list[Path]) -> Iterator[tuple[Path, Function]]:
    for path, node in _found(paths, ast.FunctionDef, ast.AsyncFunctionDef):
        assert isinstance(node, Function)
        yield path, node


def _body_lines(function: Function) -> int:
    """Count the lines of a body without its docstring."""
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    if not body:
        return 0
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def _parameters(function: Function) -> list[ast.arg]:
    arguments = function.args
    positional = arguments.posonlyargs + arguments.args
    if positional and positional[0].arg in {"self", "cls"}:
        positional = positional[1:]
    return positional + arguments.kwonlyargs


def _is_command(function: Function) -> bool:
    """Say whether click calls it; there, a parameter is a flag."""
    calls = [d.func if isinstance(d, ast.Call) else d for d in function.decorator_list]
    return any(isinstance(c, ast.Attribute) and c.attr == "command" for c in calls)


def _call_name(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def test_the_tree_is_where_this_test_looks_for_it() -> None:
    assert len(SOURCES) > 10
    assert TESTS


def test_a_module_is_read_in_one_sitting() -> None:
    long = {}
    for path in PROGRAMS + TESTS:
        lines = len(path.read_text("utf-8").splitlines())
        if lines > (TEST_MODULE_LINES if path in TESTS else MODULE_LINES):
            long[_name(path)] = lines
    assert long == {}


def test_a_function_fits_a_screen() -> None:
    long = [
        _at(path, function, f"{function.name} has {_body_lines(function)} lines")
        for path, function in _functions(PROGRAMS)
        if _body_lines(function) > BODY_LINES
    ]
    assert long == []


def test_a_function_takes_few_parameters() -> None:
    wide = [
        _at(path, function, f"{function.name} takes {len(_parameters(function))}")
        for path, function in _functions(PROGRAMS)
        if len(_parameters(function)) > PARAMETERS and not _is_command(function)
    ]
    assert wide == []


def test_no_function_takes_unnamed_keywords() -> None:
    found = [
        _at(path, node, f"takes **{kwarg.arg}")
        for path, node in _found(
            PROGRAMS, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda
        )
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        and (kwarg := node.args.kwarg) is not None
        and not ast.unparse(kwarg.annotation or kwarg).startswith("Unpack[")
    ]
    assert found == []


def test_no_function_rebinds_a_global() -> None:
    assert [_at(p, n, "global") for p, n in _found(PROGRAMS + TESTS, ast.Global)] == []


def test_imports_are_absolute() -> None:
    found = [
        _at(path, node, "relative import")
        for path, node in _found(PROGRAMS + TESTS, ast.ImportFrom)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert found == []


def test_only_the_command_line_prints() -> None:
    found = [
        _at(path, node, _call_name(node))
        for path, node in _found(SOURCES, ast.Call)
        if _call_name(node) in {"print", "rich.print", "click.echo", "sys.stdout.write"}
        and not COMMANDS.match(_name(path))
    ]
    assert found == []


def test_only_the_command_line_draws_with_click_and_rich() -> None:
    found = [
        _at(path, node, ast.unparse(node))
        for path, node in _found(SOURCES, ast.Import, ast.ImportFrom)
        if re.match(r"(from|import) (click|rich)\b", ast.unparse(node))
        and not COMMANDS.match(_name(path))
    ]
    assert found == []


def test_only_the_storage_package_touches_the_disk_by_itself() -> None:
    found = [
        _at(path, node, text)
        for path in SOURCES
        if not _name(path).startswith(STORAGE)
        for node, text in _low_level(_tree(path))
    ]
    assert found == [], "say it by tapestry.storage"


def _low_level(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Yield what makes something durable, locks it, or renames it into its place.

    A name is followed to its import, whatever it is called there. What only catches
    an exception of SQLite or speaks its types is no such use.
    """
    origins = _origins(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((node, name) for name in _imported(node) if _is_low(name))
        elif isinstance(node, (ast.Name, ast.Attribute)):
            head, _, rest = ast.unparse(node).partition(".")
            name = f"{origins.get(head, head)}.{rest}".rstrip(".")
            if head in origins and rest and _is_low(name):
                yield node, name
        if isinstance(node, ast.Call) and _renames(node):
            yield node, ast.unparse(node)


def _is_low(name: str) -> bool:
    return bool(LOW_LEVEL.match(name))


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
    return [module + alias.name for alias in node.names]


def _origins(tree: ast.Module) -> dict[str, str]:
    """Map each imported name of a module to what it stands for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias, name in zip(node.names, _imported(node), strict=True):
                bound = alias.asname or alias.name.split(".")[0]
                is_whole = alias.asname or isinstance(node, ast.ImportFrom)
                found[bound] = name if is_whole else bound
    return found


def _renames(call: ast.Call) -> bool:
    """Say whether a call is ``Path.rename`` or ``Path.replace``, by its arguments.

    ``str.replace`` takes two, ``datetime.replace`` and ``dataclasses.replace`` take
    keywords.
    """
    if not isinstance(call.func, ast.Attribute):
        return False
    one = len(call.args) == 1 and not call.keywords
    return call.func.attr == "rename" or (call.func.attr == "replace" and one)


@pytest.mark.parametrize(
    "source",
    [
        "import sqlite3\nsqlite3.connect(path)",
        "import sqlite3 as s\ns.connect(path)",
        "import sqlite3\nopen_it = sqlite3.connect",
        "import sqlite3.dbapi2\nsqlite3.dbapi2.connect(path)",
        "from sqlite3 import connect",
        "from sqlite3 import connect as open_it\nopen_it(path)",
        "from sqlite3 import dbapi2",
        "import sqlite3\nsqlite3.Connection(path)",
        "import os\nos.fsync(1)",
        "import os as system\nsystem.fdatasync(1)",
        "from os import fsync as sync\nsync(1)",
        "import posix\nposix.fsync(1)",
        "import os\nos.lockf(1, 2, 3)",
        "import fcntl",
        "import fcntl as locks",
        "from fcntl import flock as hold",
        "def f():\n    import fcntl",
        "import os\nos.replace(a, b)",
        "from os import rename",
        "draft.rename(path)",
        "draft.replace(path)",
    ],
)
def test_the_finder_of_low_level_storage_finds_it(source: str) -> None:
    assert list(_low_level(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "import sqlite3\ntry: f()\nexcept sqlite3.Error: pass",
        "import os\nos.open(path, os.O_RDONLY)\nos.environ.get('x')",
        "'a'.replace('a', 'b')\nnow.replace(tzinfo=None)\nreplace(row, a=1)",
        "storage.connect(path)\nself.fsync()\nconnect()",
    ],
)
def test_the_finder_of_low_level_storage_finds_nothing_else(source: str) -> None:
    assert list(_low_level(ast.parse(source))) == []


def test_no_module_about_models_says_checkpoint() -> None:
    found = []
    for path in PROGRAMS:
        text = path.read_text("utf-8")
        if not _name(path).startswith(MODEL_FOLDERS) and not MODEL_IMPORTS.search(text):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if "checkpoint" in _without_foreign_words(line.lower()):
                found.append(f"{_name(path)}:{number}: {line.strip()}")
    assert found == [], "say release (published) or snapshot (resumable)"


def _without_foreign_words(line: str) -> str:
    for word in FOREIGN_WORDS:
        line = line.replace(word, "")
    return line


def test_no_file_names_a_folder_of_one_machine() -> None:
    # Put together here, so that this file does not match itself.
    folders = "|".join(("home", "root", "work", "Users", "opt", "mnt"))
    pattern = re.compile(rf"(?<![\w.)}}\]*/-])/({folders})/\w")
    found = [
        f"{_name(path)}:{number}: {line.strip()[:80]}"
        for path in _texts()
        if not re.match(
            r"deploy/.*(?<!\.py)$", _name(path)
        )  # images have folders of their own
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_pins_name_versions_and_no_place_to_fetch_them_from() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []


def test_every_skip_says_why() -> None:
    found = [
        _at(path, node, ast.unparse(node))
        for path, node in _found(TESTS, ast.Call, ast.Attribute)
        if _skips_silently(node)
    ]
    bare = [
        _at(path, decorator, ast.unparse(decorator))
        for path, function in _functions(TESTS)
        for decorator in function.decorator_list
        if ast.unparse(decorator) in {"pytest.mark.skip", "pytest.mark.xfail"}
    ]
    assert found + bare == []


def _skips_silently(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    keywords = {k.arg for k in node.keywords}
    match _call_name(node):
        case "pytest.skip" | "pytest.mark.skip" | "pytest.fail":
            return not node.args and not keywords & {"reason", "msg"}
        case "pytest.mark.skipif" | "pytest.mark.xfail":
            return "reason" not in keywords
    return False


def test_a_test_is_named_by_a_sentence() -> None:
    short = [
        _at(path, function, function.name)
        for path, function in _functions(TESTS)
        if function.name.startswith("test_") and function.name.count("_") < 3
    ]
    assert short == []


def test_a_suppression_names_its_rule_and_its_reason() -> None:
    rule = re.compile(
        r"#\s*(noqa: [A-Z]+\d+(, ?[A-Z]+\d+)*|type: ignore\[[\w, -]+\])\s+\S.{5,}$"
    )
    found = [
        f"{_name(path)}:{number}: {line.strip()}"
        for path in PROGRAMS
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(r"#\s*(noqa|type:\s*ignore)", line) and not rule.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [("def f(a, *, b): pass", 2), ("class A:\n def f(self, a): pass", 1)],
    ids=["function", "method"],
)
def test_the_counter_of_parameters_leaves_out_self(source: str, expected: int) -> None:
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, Function)]
    assert len(_parameters(functions[0])) == expected


def test_the_counter_of_lines_leaves_out_the_docstring() -> None:
    function = ast.parse(
        'def f():\n    """Say.\n\n    More.\n    """\n    x = 1\n'
    ).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert _body_lines(function) == 1
