"""Folders in which a demo was begun, without the demo."""

from pathlib import Path
from typing import Any

from tapestry_demo.demo_folder import Record


def begun(name: str, *done: str, **fields: Any) -> Path:
    """A folder in which a demo was begun."""
    folder = Path(name)
    folder.mkdir()
    Record(engine="inprocess", base="tiny", done=list(done), **fields).write(folder)
    return folder
