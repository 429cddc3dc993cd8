"""Larger corpora than the demo's: Debian's handbook, guide and reference.

    python benchmarks/debian_corpora.py OUT --languages de fr es id

The books (GPL-2+, the handbook also CC-BY-SA-3.0) are fetched with ``apt-get
download``, unpacked with ``dpkg-deb -x``, and never leave the folder OUT; nothing is
committed. Needs a Debian with a package source; ``--debs FOLDER`` takes packages that
are there already.

Per language OUT gets what a node and an evaluation read::

    OUT/de/private/corpus.toml       language, licence, unit
    OUT/de/private/handbook.jsonl    a paragraph per line, one record each; so for
    OUT/de/private/guide.jsonl       the installation guide and
    OUT/de/private/reference.jsonl   the reference
    OUT/de/held-out.jsonl            paragraphs of the held-out chapters, public

The books are translations of each other, so the held-out chapters are the same in
every language: otherwise one node would train on the translation of what another is
tested on. Paragraphs under 40 characters, repeated ones and ones left in English are
dropped. It is technical prose: non-IID in language, not in content.
"""

import argparse
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from tapestry.errors import ConfigError, ResourceError, TapestryError

SHORTEST = 40
HELD_OUT = {
    "handbook": frozenset({"unix-services", "network-services"}),
    "guide": frozenset({"ch05"}),
    "reference": frozenset({"ch04", "ch09"}),
}
LICENCES = "GPL-2.0-or-later"

_ENGLISH = frozenset(
    {"the", "of", "and", "to", "is", "in", "that", "for", "you", "this", "are", "with"}
)
_UP = re.compile(r'<link rel="up" href="([^".]+)')
_SPACE = re.compile(r"\s+")
_BLOCKS = frozenset({"p", "div", "li", "td", "th", "dt", "dd", "h1", "h2", "h3", "h4"})
_SKIPPED = frozenset({"pre", "script", "style", "table", "head", "title"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The spelling of a language in each book; None: there is no translation."""

    handbook: str
    guide: str | None
    reference: str | None


LANGUAGES = {
    "ar": Places(handbook="ar-MA", guide=None, reference=None),
    "de": Places(handbook="de-DE", guide="de", reference="de"),
    "en": Places(handbook="en-US", guide="en", reference="en"),
    "es": Places(handbook="es-ES", guide="es", reference="es"),
    "fr": Places(handbook="fr-FR", guide="fr", reference="fr"),
    "id": Places(handbook="id-ID", guide="id", reference="id"),
    "it": Places(handbook="it-IT", guide="it", reference="it"),
    "ja": Places(handbook="ja-JP", guide="ja", reference="ja"),
    "pt-BR": Places(handbook="pt-BR", guide=None, reference=None),
    "ru": Places(handbook="ru-RU", guide="ru", reference=None),
    "vi": Places(handbook="vi-VN", guide="vi", reference=None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """A paragraph and its chapter, which has the same name in every language."""

    book: str
    chapter: str
    text: str


class _Paragraphs(HTMLParser):
    """Collect the text of ``<p>`` and DocBook's ``<div class="para">``."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._open: list[tuple[str, bool]] = []  # blocks: tag, is it a paragraph
        self._skipped = 0
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipped += 1
        elif tag in _BLOCKS:
            self._flush()
            self._open.append((tag, tag == "p" or ("class", "para") in attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED:
            self._skipped = max(0, self._skipped - 1)
        elif tag in _BLOCKS:
            self._flush()
            while self._open and self._open.pop()[0] != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not self._skipped and self._open and self._open[-1][1]:
            self._text.append(data)

    def _flush(self) -> None:
        text = _SPACE.sub(" ", "".join(self._text)).strip()
        self._text.clear()
        if len(text) >= SHORTEST:
            self.found.append(text)


def main() -> None:
    """Prepare the corpora that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--languages", nargs="+", default=["de", "fr", "es", "id"], metavar="LANGUAGE"
    )
    parser.add_argument("--debs", type=Path, help="packages that are there already")
    options = parser.parse_args()
    try:
        prepare(options.out, options.languages, debs=options.debs)
    except TapestryError as error:
        parser.exit(1, f"text.py: {error}\n")


def prepare(out: Path, languages: list[str], *, debs: Path | None) -> None:
    """Write the corpora of some languages and print their sizes.

    Raises:
        ConfigError: A language is unknown, or the packages hold no text in it.
        ResourceError: A package cannot be fetched or unpacked.
    """
    for language in languages:
        if language not in LANGUAGES:
            known = ", ".join(sorted(LANGUAGES))
            raise ConfigError(f"no books in {language!r}; there are {known}")
    root = _unpacked(out, languages, debs=debs)
    english = {p.text for p in _read(root, LANGUAGES["en"])}
    for language in languages:
        found = _read(root, LANGUAGES[language])
        if language != "en":
            found = (
                p for p in found if p.text not in english and not _looks_english(p.text)
            )
        paragraphs = list({p.text: p for p in found}.values())
        if not paragraphs:
            raise ConfigError(f"the packages hold no text in {language!r}")
        _write(out / language, language, paragraphs)


def _unpacked(out: Path, languages: list[str], *, debs: Path | None) -> Path:
    work = out / "packages"
    work.mkdir(parents=True, exist_ok=True)
    if debs is None:
        names = ["debian-handbook", "installation-guide-amd64", "debian-reference-en"]
        suffixes = {LANGUAGES[language].reference for language in languages} - {None}
        names += sorted(f"debian-reference-{suffix}" for suffix in suffixes)
        _call(["apt-get", "download", *sorted(set(names))], work)
        debs = work
    packages = sorted(debs.resolve().glob("*.deb"))
    if not packages:
        raise ConfigError(f"no .deb files in {debs}")
    for package in packages:
        _call(["dpkg-deb", "-x", str(package), "files"], work)
    return work / "files" / "usr" / "share"


def _call(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, check=False, text=True
        )
    except OSError as error:
        raise ResourceError(f"cannot run {command[0]}: {error.strerror}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ResourceError(f"{command[0]} {command[1]} failed: {lines[-1]}")


def _read(root: Path, places: Places) -> Iterator[Paragraph]:
    doc = root / "doc"
    handbook = doc / "debian-handbook" / "html" / places.handbook
    for path in sorted(handbook.glob("*.html")):
        page = path.read_text(encoding="utf-8")
        up = _UP.search(page)
        inside = path.name.startswith("sect.") and up
        yield from _page("handbook", inside[1] if inside else path.stem, page)
    if places.guide:
        guide = doc / "installation-guide-amd64" / places.guide
        for path in sorted(guide.glob("*.html")):
            page = path.read_text(encoding="utf-8")
            yield from _page("guide", re.split(r"s\d\d$", path.stem)[0], page)
    if places.reference:
        reference = root / "debian-reference"
        for path in sorted(reference.glob(f"*.{places.reference}.html")):
            page = path.read_text(encoding="utf-8")
            yield from _page("reference", path.name.split(".")[0], page)


def _page(book: str, chapter: str, page: str) -> Iterator[Paragraph]:
    parser = _Paragraphs()
    parser.feed(page)
    parser.close()
    for text in parser.found:
        yield Paragraph(book=book, chapter=chapter, text=text)


def _looks_english(text: str) -> bool:
    words = re.findall(r"[a-z]+", text.lower())
    return sum(word in _ENGLISH for word in words) > 0.15 * max(len(words), 1)


def _write(folder: Path, language: str, paragraphs: list[Paragraph]) -> None:
    held_out = [p.text for p in paragraphs if p.chapter in HELD_OUT[p.book]]
    private = folder / "private"
    private.mkdir(parents=True, exist_ok=True)
    kept = 0
    for book in HELD_OUT:
        texts = [
            p.text
            for p in paragraphs
            if p.book == book and p.chapter not in HELD_OUT[book]
        ]
        if texts:
            _write_lines(private / f"{book}.jsonl", texts)
        kept += sum(len(text.encode()) for text in texts)
    _write_lines(folder / "held-out.jsonl", held_out)
    (private / "corpus.toml").write_text(
        f'language = "{language}"\nlicence = "{LICENCES}"\nunit = "record"\n'
        'source = "Debian handbook, installation guide and reference"\n',
        encoding="utf-8",
    )
    tested = sum(len(text.encode()) for text in held_out)
    records = len(paragraphs) - len(held_out)
    print(
        f"{language}  {records} records, {kept} bytes;"
        f" held out {len(held_out)}, {tested} bytes"
    )


def _write_lines(path: Path, texts: list[str]) -> None:
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
