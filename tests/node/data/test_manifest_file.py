"""The manifest of a data folder, read without a record."""

from pathlib import Path

from tapestry.errors import ConfigError
from tapestry.inputs.faults import Faults
from tapestry.workloads.language.text_records import TextReader
from tapestry_node.data.manifest_file import read_manifest
from tests.support.record_canaries import CANARY, shown_in, spelled
from tests.support.refusals import refused

GOOD = 'language = "it"\nlicence = "CC0-1.0"\nunit = "record"\n'


def test_a_manifest_is_read_beside_records_that_nothing_looks_at(
    tmp_path: Path,
) -> None:
    (tmp_path / "corpus.toml").write_text(GOOD)
    (tmp_path / "broken.jsonl").write_bytes(b"\xff")
    faults = Faults()
    found = read_manifest(tmp_path, TextReader(), faults)
    faults.check(tmp_path)
    assert found is not None
    assert (found.licence, found.languages) == ("CC0-1.0", ("it",))


def test_a_fault_is_noted_without_a_word_of_the_file(tmp_path: Path) -> None:
    for text, code in (
        (None, "data-manifest-missing"),
        ("", "file-empty"),
        (f"{GOOD}{CANARY}", "toml-invalid"),
        (f'{GOOD}source = "{CANARY}\u200b"', "setting-invalid"),
    ):
        if text is not None:
            (tmp_path / "corpus.toml").write_text(text)
        faults = Faults()
        assert read_manifest(tmp_path, TextReader(), faults) is None
        with refused(ConfigError, code) as caught:
            faults.check(tmp_path)
        assert shown_in(spelled(caught.value)) == []
    with refused(ConfigError, "folder-missing"):
        read_manifest(tmp_path / "gone", TextReader(), Faults())
