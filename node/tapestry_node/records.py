"""Private records: a folder of text with a small manifest, read on the node only.

The folder holds ``corpus.toml`` and, beside or below it, the text::

    language = "it"            BCP 47
    licence = "BSD-3-Clause"   SPDX; under which the institution holds the text
    unit = "record"            what the promise of privacy is about
    source = "where it comes from"

    *.txt     each file is one record
    *.jsonl   each line is one record, {"text": "..."}; lines with the same "id",
              in whatever file, are one record: {"id": "patient-7", "text": "..."}

Other files are an error: what is in the folder is what is trained on. No message
names anything of a record but its file and line.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tapestry.encoding import canonical_json, digest
from tapestry.errors import ConfigError

MANIFEST = "corpus.toml"
_LANGUAGE = r"^[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?$"


class Corpus(BaseModel):
    """What an institution says about its text; may be published."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    language: Annotated[str, Field(pattern=_LANGUAGE)]
    licence: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,79}$")]
    unit: Literal["record"]
    source: Annotated[str, Field(max_length=300)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """All records of an institution; private.

    Guarantees:
        ``digest`` depends on the texts and the manifest alone, not on file names or
        the order of lines, so the budget of a dataset cannot be had twice by moving
        files. It is private, too: whoever holds a text could test it. Publish
        ``commitment`` instead.
    """

    corpus: Corpus
    texts: tuple[str, ...]
    digest: str

    def commitment(self, salt: bytes) -> str:
        """Commit to the records; opened to an auditor by telling the salt."""
        if len(salt) != 32:
            raise ValueError("a salt has 32 bytes")
        return digest(salt + self.digest.encode())


def read(folder: Path) -> Records:
    """Read all records of a folder.

    Raises:
        ConfigError: No folder, no manifest or a wrong one, a file that is neither
            ``.txt`` nor ``.jsonl`` or cannot be read, or not a single record.
    """
    corpus = read_corpus(folder)
    texts: dict[str, list[str]] = {}
    for path in _files(folder):
        name = str(path.relative_to(folder))
        for number, (key, text) in enumerate(_read_file(path), start=1):
            if text.strip():
                texts.setdefault(key or f"\0{name}\0{number}", []).append(text)
    if not texts:
        raise ConfigError(f"no records in {folder}; put .txt or .jsonl files there")
    joined = sorted("\n".join(parts) for parts in texts.values())
    inner = [digest(text.encode()) for text in joined]
    value = [corpus.model_dump(mode="json", exclude={"source"}), inner]
    return Records(
        corpus=corpus, texts=tuple(joined), digest=digest(canonical_json(value))
    )


def read_corpus(folder: Path) -> Corpus:
    """Read the manifest of a folder.

    Raises:
        ConfigError: No folder, no manifest, or a wrong one.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ConfigError(f"no folder {folder}; name the one that holds {MANIFEST}")
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} has no {MANIFEST}; write one with language, licence and unit"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # TOML or UTF-8
        raise ConfigError(f"{path} is not TOML: {error}") from None
    try:
        return Corpus.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where}: {first['msg']}") from None


def _files(folder: Path) -> list[Path]:
    paths = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path == folder / MANIFEST:
            continue
        if path.suffix not in {".txt", ".jsonl"} or not path.is_file():
            raise ConfigError(
                f"{path} is neither .txt nor .jsonl; move it out of the data folder"
            )
        paths.append(path)
    return paths


def _read_file(path: Path) -> Iterator[tuple[str | None, str]]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8; convert it") from None
    if path.suffix == ".txt":
        yield None, content
        return
    for number, line in enumerate(re.split(r"\r?\n", content), start=1):
        if line.strip():
            yield _read_line(line, f"{path}, line {number}")


def _read_line(line: str, where: str) -> tuple[str | None, str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError(f"{where}: not JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise ConfigError(f'{where}: want an object with "text"')
    key = value.get("id")
    if key is not None and not isinstance(key, str):
        raise ConfigError(f'{where}: "id" must be a string')
    return key, value["text"]
