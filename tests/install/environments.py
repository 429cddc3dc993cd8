"""Empty environments with nothing in them but what a user's command installs."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
UV = Path(sys.executable).with_name("uv")
# The build for processors alone, asked for by name, so that nothing of CUDA arrives.
TORCH = "torch==2.13.0"
_UV_NAMES = {
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to install: which extra, the newest or the lowest versions, for whom."""

    extra: str = ""
    lowest: bool = False
    python: str = ""  # the one that runs the tests

    def __str__(self) -> str:
        """Name it in a report of tests."""
        versions = "lowest" if self.lowest else "newest"
        return f"{self.extra or 'plain'}-{versions}{self.python and '-'}{self.python}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An environment, and how to run what is in it."""

    folder: Path
    plan: Plan

    def run(
        self, *words: str | Path, program: str = "tapestry"
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, away from the source folder."""
        return subprocess.run(
            [self.folder / "bin" / program, *words],
            cwd=self.folder,
            env=environment(self.folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a user: our search path is not theirs.

    What is compiled is kept beside the folder: environments take turns in one place,
    and the larger packages are the same in each.
    """
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TAPESTRY_TRACEBACK"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"PYTHONPYCACHEPREFIX": str(folder.parent / "compiled")}


def build_wheel(folder: Path) -> Path:
    """Build what would be published."""
    run_uv("build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def build(source: Path, folder: Path, *, env: Mapping[str, str]) -> None:
    """Build wheel and source archive of a source folder in a given environment."""
    for kind in ("--wheel", "--sdist"):
        run_uv("build", "--quiet", kind, "--out-dir", folder, source, env=env)


def find_python(version: str) -> str | None:
    """Find an interpreter on this machine."""
    done = subprocess.run(
        [UV, "python", "find", "--no-python-downloads", "--system", version],
        capture_output=True,
        text=True,
        check=False,
    )
    if found := done.stdout.strip():
        return found
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    return str(kept[-1]) if kept else None


def install(plan: Plan, wheel: Path, folder: Path) -> Installed:
    """Install a wheel as a user does, without our constraints."""
    python = find_python(plan.python) if plan.python else sys.executable
    assert python is not None, f"no Python {plan.python}"
    run_uv("venv", "--quiet", "--python", python, folder)
    wanted: list[str] = [f"{wheel}[{plan.extra}]" if plan.extra else str(wheel)]
    if plan.extra:
        wanted.append(TORCH)
    resolution = "lowest-direct" if plan.lowest else "highest"
    options: list[str | Path] = [
        "--quiet",
        "--python",
        folder,
        "--resolution",
        resolution,
    ]
    run_uv("pip", "install", *options, *wanted)
    run_uv("pip", "check", "--quiet", "--python", folder)
    return Installed(folder=folder, plan=plan)


def remove(installed: Installed) -> None:
    """Give the space back."""
    shutil.rmtree(installed.folder, ignore_errors=True)


def run_uv(*words: str | Path, env: Mapping[str, str] | None = None) -> None:
    """Run uv with the package index that this machine's pip uses."""
    ours = {**_as_pip(), "UV_INDEX_STRATEGY": "unsafe-best-match"}
    done = subprocess.run(
        [UV, *words],
        env={**os.environ, **ours, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def _as_pip() -> dict[str, str]:
    """Tell uv where this machine's pip finds packages."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        option = name.rsplit(".", 1)[-1]
        if option in _UV_NAMES:
            found[_UV_NAMES[option]] = str(ast.literal_eval(value))
    return found
