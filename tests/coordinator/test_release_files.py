"""A release's folder appears whole, with the manifest that members rebuild."""

from pathlib import Path

from tapestry.artifacts import manifest, model_folder
from tapestry_coordinator.release_files import write_files
from tests.tapestry.model.test_release_draft import draft


def test_the_folder_is_what_its_manifest_lists(tmp_path: Path) -> None:
    made, folder = draft(), tmp_path / "releases" / "base-1"
    (folder / "left").mkdir(parents=True)  # of another day
    write_files(folder, made)
    manifest.verify(folder, made.manifest)
    assert model_folder.read_files(folder).manifest_digest == made.manifest.digest
    assert (folder / "README.md").read_text("utf-8") == made.card
