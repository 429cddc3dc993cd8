"""Rows that are more than memory are sealed on the disk, and gone with the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tapestry.errors import ResourceError
from tapestry.storage.sealed_rows import SealedRows
from tests.support.refusals import refused

CANARY = b"canary-of-a-private-row"


def _opened(folder: Path, process: int | str = "self") -> list[Path]:
    """Return the open files of a process that lie, or lay, in a folder."""
    links = Path(f"/proc/{process}/fd").iterdir()
    return [
        x for x in links if x.exists() and str(x.readlink()).startswith(f"{folder}/")
    ]


@pytest.mark.parametrize("room", [0, 100, 1 << 30])
def test_rows_come_back_in_any_order(tmp_path: Path, room: int) -> None:
    draw = np.random.default_rng(1)
    rows = [draw.bytes(int(draw.choice([0, 1, 7, 50, 300]))) for _ in range(200)]
    found = SealedRows(tmp_path, room=room)
    for number, row in enumerate(rows):
        found.append(row)
        seen = int(draw.integers(number + 1))
        assert found[seen] == rows[seen]
    assert len(found) == len(rows)
    assert list(found) == rows
    assert (found[-1], found[3:9]) == (rows[-1], rows[3:9])
    with pytest.raises(IndexError):
        found[len(rows)]


def test_few_rows_and_rows_without_a_folder_make_no_file(tmp_path: Path) -> None:
    for found in (SealedRows(tmp_path), SealedRows(room=0)):
        for _ in range(100):
            found.append(CANARY)
        assert found[99] == CANARY
    assert _opened(tmp_path) == []


def test_the_disk_holds_nothing_readable_and_no_name(tmp_path: Path) -> None:
    found = SealedRows(tmp_path, room=0)
    for _ in range(100):
        found.append(CANARY)
    assert list(tmp_path.rglob("*")) == []
    (file,) = _opened(tmp_path)
    data = file.read_bytes()
    assert len(data) == 100 * (len(CANARY) + 16)
    assert CANARY not in data
    assert len({data[at : at + len(CANARY)] for at in range(0, len(data), 39)}) == 100
    del found
    assert _opened(tmp_path) == []


def test_nothing_is_left_of_a_process_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from tapestry.storage.sealed_rows import SealedRows\n"
        "rows = SealedRows(Path(sys.argv[1]), room=0)\n"
        "for _ in range(999): rows.append(sys.argv[2].encode())\n"
        "print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), CANARY.decode()],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (file,) = _opened(tmp_path, process.pid)
        assert CANARY not in file.read_bytes()
        process.send_signal(signal.SIGKILL)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("damage", ["changed", "exchanged", "cut"])
def test_a_damaged_row_is_never_returned(tmp_path: Path, damage: str) -> None:
    found = SealedRows(tmp_path, room=0)
    for number in range(3):
        found.append(CANARY + bytes([number]))
    size = len(CANARY) + 17
    (file,) = _opened(tmp_path)
    with file.open("r+b") as opened:
        data = opened.read()
        opened.seek(0)
        if damage == "changed":
            opened.write(bytes([data[0] ^ 1]))
        elif damage == "exchanged":
            opened.write(data[size : 2 * size] + data[:size])
        else:
            os.truncate(opened.fileno(), size - 1)
    with refused(ResourceError, "sealed-rows-damaged", match="start again"):
        found[0]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    found = SealedRows(tmp_path / "none", room=0)
    with refused(ResourceError, "file-unwritable", match="none"):
        found.append(CANARY)
