"""Text of four countries for the demo, from the package ``chatterbot-corpus``.

The package (BSD) holds short dialogues in 28 languages, written by volunteers. Four
languages have the same nineteen files, some 450 to 560 dialogues each: Italian,
Japanese, Korean and Ukrainian. So one split by file holds out the same documents in
every language, and no country trains on a translation of what another is tested on.

What is unfit and dropped:

- ``humor`` (jokes at the expense of groups of people), ``gossip`` and ``politics``
  (hearsay, and opinions passed off as facts), ``botprofile`` (a bot on its maker).
- dialogues with a sentence left in English, and repeated dialogues.
- Persian, though larger, is for a third jokes, and its files are other ones; Chinese
  comes twice and Hindi, French, German and most others have under 200 dialogues;
  English is what the base knows already.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from tapestry.errors import ConfigError, ResourceError

LANGUAGES = {"italy": "it", "japan": "ja", "korea": "ko", "ukraine": "uk"}
COUNTRIES = tuple(LANGUAGES)
HELD_OUT = frozenset({"food", "science"})

_PACKAGE = "chatterbot-corpus"
_FOLDERS = {
    "italy": "italian",
    "japan": "japanese",
    "korea": "korean",
    "ukraine": "ukrainian",
}
_UNFIT = frozenset({"botprofile", "gossip", "humor", "politics"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A country's dialogues by file: private ones, and public held-out ones."""

    private: dict[str, tuple[str, ...]]
    held_out: dict[str, tuple[str, ...]]


def prepare(country: str, out: Path, *, longest: int | None = None) -> None:
    """Write a country's text.

    ``out/private`` becomes a data folder for ``tapestry_node.records``: a file
    of dialogues per topic and ``corpus.toml``. ``out/held-out.jsonl`` is public.

    Raises:
        ConfigError: No text for this country.
        ResourceError: The package is missing, or ``out`` cannot be written.
    """
    split = load(country, longest=longest)
    private = out / "private"
    try:
        private.mkdir(parents=True, exist_ok=True)
        for topic, texts in split.private.items():
            _write_lines(private / f"{topic}.jsonl", texts)
        held_out = [text for texts in split.held_out.values() for text in texts]
        _write_lines(out / "held-out.jsonl", held_out)
        (private / "corpus.toml").write_text(
            f'language = "{LANGUAGES[country]}"\n'
            'licence = "BSD-3-Clause"\n'
            'unit = "record"\n'
            f'source = "{_PACKAGE} {metadata.version(_PACKAGE)}"\n',
            encoding="utf-8",
        )
    except OSError as error:
        raise ResourceError(f"cannot write {out}: {error.strerror}") from error


@cache
def load(country: str, *, longest: int | None = None) -> Split:
    """Read a country's fit dialogues from the package, each one text.

    Args:
        country: Whose.
        longest: Where a dialogue ends at the latest, in bytes of UTF-8.

    Raises:
        ConfigError: No text for this country.
        ResourceError: The package is missing.
    """
    if country not in _FOLDERS:
        raise ConfigError(
            f"no demo text for {country!r}; there is {', '.join(COUNTRIES)}"
        )
    data, english = _data_folder(), _english()
    private: dict[str, tuple[str, ...]] = {}
    held_out: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for path in sorted((data / _FOLDERS[country]).glob("*.yml")):
        if path.stem in _UNFIT:
            continue
        fit = [d for d in _dialogues(path) if english.isdisjoint(_sentences(d))]
        whole = (_cut("\n".join(turns), longest) for turns in fit)
        texts = tuple(t for t in dict.fromkeys(whole) if t not in seen)
        seen.update(texts)
        (held_out if path.stem in HELD_OUT else private)[path.stem] = texts
    return Split(private=private, held_out=held_out)


def _data_folder() -> Path:
    found = util.find_spec(_PACKAGE.replace("-", "_"))
    places = found.submodule_search_locations if found else None
    for place in places or ():
        return Path(place) / "data"
    raise ResourceError(f"the demo's text is missing: pip install {_PACKAGE}")


@cache
def _english() -> frozenset[str]:
    """Every turn of the English dialogues: what a translation may have left as is."""
    paths = sorted((_data_folder() / "english").glob("*.yml"))
    return frozenset(
        turn for path in paths for dialogue in _dialogues(path) for turn in dialogue
    )


def _dialogues(path: Path) -> list[list[str]]:
    import yaml

    value: Any = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    return [[str(turn).strip() for turn in turns] for turns in value["conversations"]]


def _sentences(dialogue: list[str]) -> list[str]:
    """Keep what could be a sentence left in English; names are the same anywhere."""
    return [turn for turn in dialogue if turn.count(" ") >= 2]


def _cut(text: str, longest: int | None) -> str:
    return text.encode()[:longest].decode(errors="ignore")


def _write_lines(path: Path, texts: "tuple[str, ...] | list[str]") -> None:
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
