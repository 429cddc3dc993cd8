"""Passages of equal length in tokens, cut from paragraphs for ``federation.py``."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tapestry.errors import ConfigError
from tests.support.public_texts import read_public_texts


def prepare(corpora: Path, out: Path, *, tokenizer: Any, length: int) -> None:
    """Write the corpora of ``debian_corpora.py`` as passages, unless they are there.

    Raises:
        ConfigError: A language was not prepared.
    """
    if out.exists():
        return
    draft = out.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    for folder in sorted(corpora.iterdir()):
        if (folder / "held-out.jsonl").is_file():
            _prepare_language(folder, draft / folder.name, tokenizer, length)
    if not draft.exists():
        raise ConfigError(
            f"no corpora in {corpora}; run benchmarks/debian_corpora.py first"
        )
    draft.replace(out)


def _prepare_language(source: Path, target: Path, tokenizer: Any, length: int) -> None:
    private = target / "private"
    private.mkdir(parents=True)
    shutil.copy(source / "private" / "corpus.toml", private)
    for path in [*sorted((source / "private").glob("*.jsonl")), source / "held-out"]:
        texts = read_lines(path.with_suffix(".jsonl"))
        place = private if path.suffix else target
        write_lines(place / f"{path.stem}.jsonl", list(cut(texts, tokenizer, length)))


def cut(texts: Sequence[str], tokenizer: Any, length: int) -> Iterator[str]:
    """Join texts and cut them, before a blank, into passages of ``length`` tokens."""
    whole = "\n".join(texts)
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    starts = [start for start, _ in encoded["offset_mapping"]]
    first = 0
    while len(starts) - first > length:
        last = first + length
        while last > first + 1 and not whole[starts[last]].isspace():
            last -= 1
        yield whole[starts[first] : starts[last]]
        first = last


def read_lines(path: Path) -> list[str]:
    """Read the texts of a file, one per line; dialogues are left out."""
    return [text for text in read_public_texts(path) if isinstance(text, str)]


def write_lines(path: Path, texts: Sequence[str]) -> None:
    """Write texts, one per line; the inverse of ``read_lines``."""
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.write_text("".join(f"{row}\n" for row in rows), "utf-8")


def spread(texts: Sequence[str], count: int) -> list[str]:
    """Pick ``count`` texts at even distances."""
    return [texts[i * len(texts) // count] for i in range(count)]
