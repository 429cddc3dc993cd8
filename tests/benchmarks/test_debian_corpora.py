"""The larger corpora: paragraphs out of books, the same chapters held out."""

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry.workloads.language.text_records import TextReader
from tapestry_node.data import records
from tests.support.public_texts import read_public_texts


def _load() -> ModuleType:
    """Load a script by its path: an installed package is called benchmarks, too."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "debian_corpora.py"
    spec = util.spec_from_file_location("benchmark_text", path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


text = _load()
PAGE = """<html><head><title>Das ist der Titel, lang genug, um zu zählen, ja</title>
<link rel="up" href="{up}.html"></head><body><div class="nav">Navigation, die
lang genug wäre, um ein Absatz zu sein, aber keiner ist</div>
<div class="section"><div class="para">Ein Absatz mit <code>Code</code> und {word},
   über zwei Zeilen.</div><p>Zu kurz.</p>
<ul><li><div class="para">Ein zweiter Absatz, in einer Liste, ebenfalls über {word}.
</div></li></ul><pre>apt install irgendetwas-das-kein-Text-ist-sondern-Code</pre>
<p>This paragraph was never translated and is in the language of the original.</p>
</div></body></html>"""


def _books(root: Path) -> Path:
    handbook = root / "doc" / "debian-handbook" / "html" / "de-DE"
    handbook.mkdir(parents=True)
    for up, word in (("unix-services", "Dienste"), ("installation", "Pakete")):
        name = f"sect.{up}.html"
        (handbook / name).write_text(PAGE.format(up=up, word=word), encoding="utf-8")
    return root


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = _books(tmp_path / "share")
    monkeypatch.setattr(text, "_unpacked", lambda *_, **__: root)
    return root


@pytest.mark.usefixtures("unpacked")
def test_paragraphs_are_records_and_held_out_chapters_are_public(
    tmp_path: Path,
) -> None:
    text.prepare(tmp_path / "out", ["de"], debs=None)
    found = records.read(tmp_path / "out" / "de" / "private", TextReader())
    assert found.manifest.languages == ("de",)
    assert set(found.records) == {
        "Ein Absatz mit Code und Pakete, über zwei Zeilen.",
        "Ein zweiter Absatz, in einer Liste, ebenfalls über Pakete.",
    }
    held_out = read_public_texts(tmp_path / "out" / "de" / "held-out.jsonl")
    assert held_out == [
        "Ein Absatz mit Code und Dienste, über zwei Zeilen.",
        "Ein zweiter Absatz, in einer Liste, ebenfalls über Dienste.",
    ]


@pytest.mark.usefixtures("unpacked")
def test_a_language_without_books_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no books in 'tlh'; there are ar, de"):
        text.prepare(tmp_path / "out", ["tlh"], debs=None)
    with pytest.raises(ConfigError, match="no text in 'fr'"):
        text.prepare(tmp_path / "out", ["fr"], debs=None)


def test_packages_that_do_not_unpack_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \.deb files in"):
        text.prepare(tmp_path / "out", ["de"], debs=tmp_path)
    (tmp_path / "x.deb").write_bytes(b"no archive")
    with pytest.raises(
        ResourceError, match=r"(dpkg-deb -x failed|cannot run dpkg-deb)"
    ):
        text.prepare(tmp_path / "out", ["de"], debs=tmp_path)
