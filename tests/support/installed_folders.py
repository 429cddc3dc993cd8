"""Folders with small packages in them, installed as pip or uv leaves them."""

import csv
import hashlib
import io
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

CODE = b"VALUE = 1\n"


def install(
    folder: Path,
    name: str,
    *,
    version: str = "1.0",
    files: Mapping[str, bytes] | None = None,
    requires: Sequence[str] = (),
    extras: Sequence[str] = (),
    added: Sequence[tuple[str, str, str]] = (),
) -> Path:
    """Install a package, and return its RECORD; ``added`` are rows of the installer."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {each}" for each in extras]
    lines += [f"Requires-Dist: {each}" for each in requires]
    content = {
        **(files or {f"{name.replace('-', '_')}/__init__.py": CODE}),
        f"{info}/METADATA": "\n".join([*lines, ""]).encode(),
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        writer.writerow([path, recorded(data), len(data)])
    writer.writerows([*added, (f"{info}/RECORD", "", "")])
    record = folder / info / "RECORD"
    record.write_text(text.getvalue())
    return record


def recorded(data: bytes) -> str:
    """Spell a digest as RECORD does."""
    found = urlsafe_b64encode(hashlib.sha256(data).digest())
    return f"sha256={found.decode().rstrip('=')}"
