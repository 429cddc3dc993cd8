"""What README prints for a stranger's first sessions runs as it is printed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"<!-- run: ([a-z]+) -->\n```\n(.*?)```", re.DOTALL)
BLOCKS = dict(_BLOCK.findall((ROOT / "README.md").read_text("utf-8")))
TEXTS = 300


def _own_texts(folder: Path) -> None:
    """Write 300 records of three kinds, as an institution might have them."""
    folder.mkdir()
    third = TEXTS // 3
    for number in range(third):
        text = f"Lettera numero {number}: il tempo è bello, e la strada è lunga."
        (folder / f"lettera-{number}.txt").write_text(text, "utf-8")
    rows = [
        {"text": f"La nota {n} dice: si chiude alle {n % 12}."} for n in range(third)
    ]
    dialogues = [
        {
            "messages": [
                {"role": "user", "content": f"Quanto fa {n} più uno?"},
                {"role": "assistant", "content": f"Fa {n + 1}."},
            ]
        }
        for n in range(third)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in [*rows, *dialogues]]
    (folder / "note.jsonl").write_text("\n".join(lines), "utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo of all three sessions was made."""
    folder = tmp_path_factory.mktemp("stranger")
    _own_texts(folder / "texts")
    _run("start", folder)
    return folder


def _run(name: str, folder: Path) -> str:
    """Run a block in a shell of its own, and return what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", BLOCKS[name]],
        cwd=folder,
        env={**os.environ, "PATH": path, "TAPESTRY_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def test_every_session_is_run_here() -> None:
    assert set(BLOCKS) == {"start", "auditor", "operator", "citizen"}


def test_an_auditor_verifies_from_files_alone(place: Path) -> None:
    said = _run("auditor", place)
    assert "HOLDS" in said
    assert "recomputed" in said
    assert "unit of privacy | record" in said
    for name in ("brazil", "italy", "netherlands", "spain"):
        assert name in said


def test_an_operator_learns_what_a_node_would_do_with_her_texts(place: Path) -> None:
    said = _run("operator", place)
    assert f"data      {TEXTS} records in 101 files" in said
    assert "language it, licence CC0-1.0" in said
    assert "missing   node.toml has no [transport]" in said
    assert "is spent" in said
    assert "0 bytes left this node" in said


def test_a_citizen_gets_an_answer_of_each(place: Path) -> None:
    said = _run("citizen", place)
    for word in ("Ciao, come stai?", "base", "italy", "spain"):
        assert word in said
