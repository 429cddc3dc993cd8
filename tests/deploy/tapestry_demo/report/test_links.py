"""A link of the page leads to a file that is there, or there is no link."""

from pathlib import Path

from tapestry.html.markup import (
    Markup,
    link,
)
from tapestry_demo.report.links import Folder


def test_a_folder_links_to_its_files_alone(tmp_path: Path) -> None:
    (tmp_path / "privacy").mkdir()
    (tmp_path / "privacy" / "base 1.md").write_text("x")
    (tmp_path / "secret.md").write_text("x")
    folder = Folder.read(tmp_path)
    assert folder.files == {"report.json", "privacy/base 1.md"}
    shown = folder.link("privacy/base 1.md", "x")
    assert isinstance(shown, Markup)
    assert 'href="privacy/base%201.md"' in shown.text
    assert folder.link("privacy/../secret.md", "x") == "x"
    assert folder.links([("a", "a"), ("report.json", "r")]) == [
        link("report.json", "r")
    ]
