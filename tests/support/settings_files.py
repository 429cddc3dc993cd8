"""Settings files of a test, written from the fields of their models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from tapestry.inputs.setting_values import to_toml
from tapestry.settings import Settings
from tests.support.federation import merged


def write_settings(path: Path, values: Mapping[str, Any], of: type[Settings]) -> Path:
    """Write fields of a model, decimals as text, to a file; they need not be right."""
    path.write_text(tomli_w.dumps(to_toml(values, of)), encoding="utf-8")
    return path


def change_settings(path: Path, of: type[Settings], changes: Mapping[str, Any]) -> None:
    """Replace some fields of a file; None takes a key out."""
    write_settings(path, merged(of.read(path).model_dump(), changes), of)
