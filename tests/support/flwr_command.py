"""Flower's own command line, as somebody else at a SuperLink's port would use it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tapestry.environment import without_proxies
from tapestry_coordinator.superlink.flower_programs import program


def write_connection(folder: Path, address: str, *, authority: Path) -> None:
    """Tell ``flwr`` (by its ``FLWR_HOME``) where the SuperLink is."""
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(
        f"""[superlink]
default = "local"

[superlink.local]
address = {json.dumps(address)}
root-certificates = {json.dumps(str(authority))}
""",
        encoding="utf-8",
    )


def flwr(*words: str, home: Path, search: str = "") -> Any:
    """Call ``flwr`` and return its answer; ``search`` is where it finds modules."""
    environment = {**without_proxies(os.environ), "FLWR_HOME": str(home)}
    environment |= {"FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": search}
    environment["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    done = subprocess.run(
        [program("flwr"), *words, "--format", "json"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr or done.stdout
    answer = json.loads(done.stdout[done.stdout.find("{") :])
    assert answer["success"], answer
    return answer
