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


def test_a_page_alone_links_to_its_numbers_and_nothing_else() -> None:
    folder = Folder()
    assert "report.json" in folder
    assert folder.link("adapters/italy/README.md", "card") == "card"
    assert isinstance(folder.link("report.json", "numbers"), Markup)


def test_a_folder_is_read_for_the_kinds_of_files_that_a_page_links_to(
    tmp_path: Path,
) -> None:
    known = {
        "adapters/italy/README.md",
        "bundle/checkpoint",
        "bundle/trust-policy.txt",
        "privacy/italy.md",
        "releases/base-1/README.md",
    }
    other = {
        "adapters/italy/adapter_config.json",
        "bundle/MANIFEST.sha256",
        "nodes/italy/keys/node.key",
        "privacy/italy.json",
        "README.md",
    }
    for path in known | other:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "privacy" / "folder.md").mkdir()
    assert Folder.read(tmp_path).files == known | {"report.json"}
    assert Folder.read(tmp_path / "nowhere").files == {"report.json"}


def test_a_name_from_the_data_leads_nowhere_but_to_a_file_that_is_there() -> None:
    folder = Folder(frozenset({"privacy/a.md"}))
    for name in ("privacy/../privacy/a.md", "/privacy/a.md", "javascript:a()", ""):
        assert folder.link(name, "x") == "x"
        assert folder.links([(name, "x")]) == []
