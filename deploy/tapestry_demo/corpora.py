"""Dialogues of four countries for the demo, from the package ``chatterbot-corpus``.

The package (BSD) holds short dialogues in 28 languages, written by volunteers, in one
file a topic. Four languages are used, of which the demo's base knows a little and on
which it improves: Italian, Spanish, Brazilian Portuguese and Dutch. Of languages that
it hardly knows (Ukrainian, Korean) it predicts text better after training, but answers
in another one, or in none.

Topics that all four languages have, money and trivia, are held out in each: so no
country trains on a translation of what another is tested on.

Two kinds of text are unfit and dropped:

- jokes at the expense of groups, hearsay, opinions passed off as facts, flirtation,
  a bot's statements on its maker, and facts about the staff of one university.
- dialogues with a sentence left in English, with letters of a wrong code page, and
  repeated ones.

A dialogue is a question with its answer. In some topics the package lists several
answers to one question, and each makes a dialogue; in the others two people talk by
turns, and each pair of turns makes one.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from tapestry.errors import ConfigError, ResourceError
from tapestry.workloads.language.dialogue import Dialogue

LANGUAGES = {"italy": "it", "spain": "es", "brazil": "pt-BR", "netherlands": "nl"}
COUNTRIES = tuple(LANGUAGES)
HELD_OUT = frozenset({"money", "dinero", "trivia"})

_PACKAGE = "chatterbot-corpus"
_FOLDERS = {
    "italy": "italian",
    "spain": "spanish",
    "brazil": "portuguese",
    "netherlands": "dutch",
}
_UNFIT = frozenset(
    {
        "botprofile", "perfilbot", "origen", "gossip", "humor", "politics",
        "compliment", "unilab",
    }
)  # fmt: skip
_SEVERAL_ANSWERS = frozenset(
    {"ai", "IA", "computers", "emotion", "emociones", "psychology", "psicologia"}
)
_WRONG_CODE_PAGE = frozenset("·ıÙÍ�")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A country's dialogues by topic: private ones, and public held-out ones."""

    private: dict[str, tuple[Dialogue, ...]]
    held_out: dict[str, tuple[Dialogue, ...]]


def prepare(country: str, out: Path, *, longest: int | None = None) -> None:
    """Write a country's dialogues.

    ``out/private`` becomes a data folder for ``tapestry_node.data.records``: a file
    of dialogues per topic and ``corpus.toml``. ``out/held-out.jsonl`` is public.

    Raises:
        ConfigError: The demo has no text for this country.
        ResourceError: The package is missing, or ``out`` cannot be written.
    """
    split = load(country, longest=longest)
    private = out / "private"
    try:
        private.mkdir(parents=True, exist_ok=True)
        for topic, dialogues in split.private.items():
            _write_lines(private / f"{topic}.jsonl", dialogues)
        held_out = [each for rows in split.held_out.values() for each in rows]
        _write_lines(out / "held-out.jsonl", held_out)
        (private / "corpus.toml").write_text(
            f'language = "{LANGUAGES[country]}"\n'
            'licence = "BSD-3-Clause"\n'
            'unit = "record"\n'
            f'source = "{_PACKAGE} {metadata.version(_PACKAGE)}"\n',
            encoding="utf-8",
        )
    except OSError as error:
        raise ResourceError(
            f"cannot write {out}: {error.strerror}", code="file-unwritable"
        ) from error


@cache
def load(country: str, *, longest: int | None = None) -> Split:
    """Read a country's fit dialogues from the package.

    An answer is cut where its dialogue has more than ``longest`` bytes of UTF-8.

    Raises:
        ConfigError: The demo has no text for this country.
        ResourceError: The package of dialogues is not installed.
    """
    if country not in _FOLDERS:
        raise ConfigError(
            f"no demo text for {country!r}; there is {', '.join(COUNTRIES)}",
            code="country-unknown",
        )
    data, english = _data_folder(), _english()
    private: dict[str, tuple[Dialogue, ...]] = {}
    held_out: dict[str, tuple[Dialogue, ...]] = {}
    seen: set[Dialogue] = set()
    for path in sorted((data / _FOLDERS[country]).glob("*.yml")):
        if path.stem in _UNFIT:
            continue
        fit = [t for t in _turns(path) if _is_fit(t) and english.isdisjoint(_long(t))]
        found = [d for t in fit for d in _dialogues(t, topic=path.stem)]
        cut = (d for each in found if (d := _cut(each, longest)) is not None)
        rows = tuple(d for d in dict.fromkeys(cut) if d not in seen)
        seen.update(rows)
        (held_out if path.stem in HELD_OUT else private)[path.stem] = rows
    return Split(private=private, held_out=held_out)


def _data_folder() -> Path:
    found = util.find_spec(_PACKAGE.replace("-", "_"))
    places = found.submodule_search_locations if found else None
    for place in places or ():
        return Path(place) / "data"
    raise ResourceError(
        f"the demo's text is missing: pip install {_PACKAGE}", code="package-missing"
    )


@cache
def _english() -> frozenset[str]:
    """Return every turn of the English dialogues: a translation may have kept it."""
    paths = sorted((_data_folder() / "english").glob("*.yml"))
    return frozenset(turn for path in paths for turns in _turns(path) for turn in turns)


def _turns(path: Path) -> list[list[str]]:
    import yaml

    value: Any = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    return [[str(turn).strip() for turn in turns] for turns in value["conversations"]]


def _is_fit(turns: list[str]) -> bool:
    return len(turns) > 1 and all(turns) and _WRONG_CODE_PAGE.isdisjoint("".join(turns))


def _long(turns: list[str]) -> list[str]:
    """Keep the turns that could be a sentence left in English; a name is no sign."""
    return [turn for turn in turns if turn.count(" ") >= 2]


def _dialogues(turns: list[str], *, topic: str) -> Iterator[Dialogue]:
    if topic in _SEVERAL_ANSWERS:
        pairs = [(turns[0], answer) for answer in turns[1:]]
    else:
        pairs = list(zip(turns[::2], turns[1::2], strict=False))
    for pair in pairs:
        yield Dialogue(turns=pair)


def _cut(dialogue: Dialogue, longest: int | None) -> Dialogue | None:
    """Keep a question and as much of its answer as fits; None if no letter does."""
    question, answer = dialogue.turns
    room = None if longest is None else max(0, longest - len(question.encode()))
    kept = answer.encode()[:room].decode(errors="ignore").strip()
    return Dialogue(turns=(question, kept)) if kept else None


def _write_lines(path: Path, dialogues: Iterable[Dialogue]) -> None:
    rows = [
        json.dumps({"messages": each.messages()}, ensure_ascii=False)
        for each in dialogues
    ]
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
