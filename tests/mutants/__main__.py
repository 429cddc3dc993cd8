"""Applies each mutant to a copy of the tree and sees that its tests fail.

``python -m tests.mutants [NAME...] [--jobs 1] [--list]``

Exit statuses: 0 all killed; 1 a mutant survived, its tests fail without it, or its run
was no verdict; 64 an unknown name or a list that does not fit the code.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from tests.mutants.catalogue import ROOT, Mutant, WrongEntry, import_roots, read

_LEFT_OUT = shutil.ignore_patterns(
    ".*", "demo", "demo-*", "dist", "shared", "node_modules", ".hypothesis"
)
_PASSED, _FAILED = 0, 1  # pytest's own statuses; all others are no verdict
_SECONDS = 300


def _say(text: str, *, to: TextIO = sys.stdout) -> None:
    to.write(f"{text}\n")
    to.flush()


def main(words: Sequence[str] | None = None) -> int:
    """Run the mutants that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args(words)
    known = {mutant.name: mutant for mutant in read()}
    if unknown := sorted(set(given.names) - known.keys()):
        _say(f"no mutant {unknown[0]}; --list names them", to=sys.stderr)
        return 64
    chosen = [known[name] for name in dict.fromkeys(given.names or known)]
    if given.list:
        for mutant in chosen:
            _say(f"{mutant.name:60} {mutant.module}")
        return 0
    try:
        for mutant in chosen:
            mutant.mutate(ROOT)
            mutant.check_tests(ROOT)
    except WrongEntry as error:
        _say(str(error), to=sys.stderr)
        return 64
    return _run_all(chosen, jobs=given.jobs)


def _run_all(mutants: Sequence[Mutant], *, jobs: int) -> int:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        clean = Path(place) / "clean"
        shutil.copytree(ROOT, clean, ignore=_LEFT_OUT)
        for tests in _by_file(mutants):
            status, said = _test(clean, tests)
            if status != _PASSED:
                _say(f"fails without any mutant: {' '.join(tests)}\n{said}")
                return 1
        with ThreadPoolExecutor(jobs) as pool:
            wrong = [
                m.name
                for m, dead in zip(
                    mutants,
                    pool.map(lambda m: _is_killed(m, clean), mutants),
                    strict=True,
                )
                if not dead
            ]
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    _say(
        f"{len(mutants) - len(wrong)} of {len(mutants)} mutants killed,"
        f" {spent.ru_utime + spent.ru_stime:.0f} CPU seconds,"
        f" {time.monotonic() - start:.0f} seconds"
    )
    for name in wrong:
        _say(f"not killed: {name}")
    return 1 if wrong else 0


def _by_file(mutants: Iterable[Mutant]) -> list[list[str]]:
    """Group all tests that are named by their file, so that each runs once."""
    groups: dict[str, set[str]] = {}
    for test in (test for mutant in mutants for test in mutant.tests):
        groups.setdefault(test.partition("::")[0], set()).add(test)
    return [
        [file] if file in tests else sorted(tests)
        for file, tests in sorted(groups.items())
    ]


def _is_killed(mutant: Mutant, clean: Path) -> bool:
    """Run a mutant's tests on a copy of its own, and say how it ended."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=clean.parent) as place:
        root = Path(place) / "mutated"
        shutil.copytree(clean, root)  # with what Python compiled already
        path, text = mutant.mutate(root)
        stamp = path.stat().st_mtime + 2  # else compiled code might pass for its own
        path.write_text(text, "utf-8")
        os.utime(path, (stamp, stamp))
        status, said = _test(root, mutant.tests)
    word = {_PASSED: "SURVIVED", _FAILED: "killed"}.get(status, f"NO VERDICT {status}")
    _say(f"{word:9} {time.monotonic() - start:5.1f} s  {mutant.name}")
    if status not in (_PASSED, _FAILED):
        _say(said)
    return status == _FAILED


def _test(root: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests on a copy of the tree; return pytest's status and last lines."""
    path = os.pathsep.join(map(str, import_roots(root)))
    settings = {"PYTHONPATH": path, "CI": "true"}  # CI: laws draw the same examples
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *tests,
    ]
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"still running after {_SECONDS} seconds"
    return done.returncode, done.stdout[-2000:] + done.stderr[-500:]


if __name__ == "__main__":
    sys.exit(main())
