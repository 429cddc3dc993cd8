"""Read the list of mutants and find what each one names.

A mutant is data: a module, a text that occurs in it once, what to write in its place,
and the tests that must then fail. A module that moves takes one line of the list along.
"""

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LIST = Path(__file__).with_name("mutants.toml")


class WrongEntry(Exception):
    """A mutant that does not fit the code: the list must be brought up to date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One check taken out of the code."""

    name: str
    module: str
    before: str
    after: str
    tests: tuple[str, ...]

    def mutate(self, root: Path) -> tuple[Path, str]:
        """Return the module's file under a root and its mutated text.

        Raises:
            WrongEntry: No such module, not exactly one place, or no Python after it.
        """
        path = find_module(self.module, root)
        if self.before.split() == self.after.split():
            raise WrongEntry(f"{self.name} changes nothing")
        text = path.read_text("utf-8")
        if (count := text.count(self.before)) != 1:
            raise WrongEntry(f"{self.name}: {count} times in {self.module}, not once")
        mutated = text.replace(self.before, self.after)
        try:
            compile(mutated, str(path), "exec")
        except SyntaxError as error:
            raise WrongEntry(f"{self.name}: does not compile: {error}") from None
        return path, mutated

    def check_tests(self, root: Path) -> None:
        """Demand that each test named is there.

        Raises:
            WrongEntry: A file or a function is missing.
        """
        for test in self.tests:
            file, _, function = test.partition("::")
            path = root / file
            if not path.is_file() or f"def {function}(" not in _with_any(path):
                raise WrongEntry(f"{self.name}: no test {test}")


def _with_any(path: Path) -> str:
    """Return a file's text, headed by what a test without a function looks for."""
    return "def (\n" + path.read_text("utf-8")


def read() -> tuple[Mutant, ...]:
    """Read the list, in its order."""
    entries = tomllib.loads(LIST.read_text("utf-8"))["mutant"]
    return tuple(
        Mutant(
            name=entry["name"],
            module=entry["module"],
            before=entry["before"],
            after=entry["after"],
            tests=tuple(entry["tests"]),
        )
        for entry in entries
    )


@lru_cache
def import_roots(root: Path) -> list[Path]:
    """List the folders that hold our packages, as the wheel is built from them."""
    build = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]
    packages = build["build"]["targets"]["wheel"]["packages"]
    return list(dict.fromkeys((root / package).parent for package in packages))


def find_module(module: str, root: Path) -> Path:
    """Find the file of a module.

    Raises:
        WrongEntry: There is none.
    """
    inner = Path(*module.split("."))
    for folder in import_roots(root):
        for path in (
            folder / inner.with_suffix(".py"),
            folder / inner / "__init__.py",
        ):
            if path.is_file():
                return path
    raise WrongEntry(f"no module {module}")
