"""The files that Flower's programs read: the bundle, and stand-in programs.

Flower accepts code from every client that reaches a SuperLink's port, and starts its
own programs to run it. The folder of programs written here comes first on their search
path, so that ``guarded_serverapp`` takes the place of the program that would run a
bundle, and every other program ends at once.
"""

import json
import os
import shlex
import sys
from pathlib import Path

from tapestry.errors import ConfigError

_BUNDLE = """\
[project]
name = "tapestry-coordinator"
version = "1.0.0"
description = "No logic: refers to the installed coordinator."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "tapestry"

[tool.flwr.app.components]
serverapp = {app}
clientapp = {app}

[tool.flwr.app.config]
directory = {directory}
"""

# Stands in for Flower's program of this name, which runs whatever it is given.
_SERVERAPP = """\
#!/bin/sh
exec {python} -c 'from tapestry_coordinator.flower import guarded_serverapp
guarded_serverapp()' "$@"
"""
UNWANTED = (
    "flwr-agentapp",
    "flwr-clientapp",
    "flwr-connector",
    "flwr-model",
    "flwr-simulation",
)


def check_home(home: Path) -> None:
    """Require that the engine's folder can stand on the search path of programs.

    Otherwise Flower's own programs would be found, which run any code they are given.

    Raises:
        ConfigError: The name of the folder holds the separator of search paths.
    """
    if os.pathsep in str(home.absolute()):
        raise ConfigError(
            f"{home.absolute()} holds {os.pathsep!r}, which ends a folder on the"
            " search path: choose a folder without it",
            code="path-separator-in-name",
        )


def write_bundle(folder: Path, *, app: str, directory: Path) -> None:
    """Write the bundle that refers to an installed app and holds no code."""
    folder.mkdir(exist_ok=True)
    text = _BUNDLE.format(app=_quoted(app), directory=_quoted(str(directory)))
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def write_programs(folder: Path) -> None:
    """Write the stand-ins for the programs that Flower would start."""
    folder.mkdir(exist_ok=True)
    scripts = dict.fromkeys(UNWANTED, "#!/bin/sh\nexit 1\n")
    scripts["flwr-serverapp"] = _SERVERAPP.format(python=shlex.quote(sys.executable))
    for name, text in scripts.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o700)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a TOML string
