"""Private records of any workload: its reader finds them, the node vouches for them."""

from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry_node.data.records import read
from tests.support.linear_regression import CsvReader
from tests.support.refusals import refused

READER = CsvReader()
MANIFEST = 'licence = "CC0-1.0"\nunit = "record"\n'


def folder(path: Path, manifest: str | None = MANIFEST, **tables: str) -> Path:
    path.mkdir()
    if manifest is not None:
        (path / "table.toml").write_text(manifest)
    for name, text in tables.items():
        (path / f"{name}.csv").write_text(text)
    return path


def test_the_digest_depends_on_records_and_not_on_files(tmp_path: Path) -> None:
    one = read(folder(tmp_path / "a", x="1,2,3,4,5\n0,0,0,1,1\n"), READER)
    two = read(folder(tmp_path / "b", y="0,0,0,1,1\n", z="1,2,3,4,5\n"), READER)
    other = read(folder(tmp_path / "c", x="1,2,3,4,5\n0,0,0,1,2\n"), READER)
    assert one.records == two.records == ((0, 0, 0, 1, 1), (1, 2, 3, 4, 5))
    assert one.digest == two.digest != other.digest
    assert one.manifest.languages == ()


def test_the_source_is_no_part_of_the_digest_and_the_licence_is(tmp_path: Path) -> None:
    row = "1,2,3,4,5\n"
    plain = read(folder(tmp_path / "a", x=row), READER)
    told = read(folder(tmp_path / "b", MANIFEST + 'source = "a"\n', x=row), READER)
    freed = read(
        folder(tmp_path / "c", MANIFEST.replace("CC0-1.0", "MIT"), x=row), READER
    )
    assert plain.digest == told.digest != freed.digest


@pytest.mark.parametrize(
    ("manifest", "table", "code", "said"),
    [
        (
            None,
            "1,2,3,4,5",
            "data-manifest-missing",
            "has no table.toml; write one with licence and unit",
        ),
        ('unit = "record"\n', "1,2,3,4,5", "setting-invalid", "licence: is missing"),
        (
            MANIFEST + 'language = "it"\n',
            "1,2,3,4,5",
            "setting-invalid",
            "language: no such key",
        ),
        (
            MANIFEST,
            "1,2,3,4\n",
            "input-fault",
            "x.csv, line 1: is no row of five numbers",
        ),
        (MANIFEST, "", "records-missing", "no records in .*; add a .csv"),
    ],
)
def test_what_is_wrong_is_named_in_the_words_of_the_reader(
    tmp_path: Path, manifest: str | None, table: str, code: str, said: str
) -> None:
    with refused(ConfigError, code, match=said):
        read(folder(tmp_path / "a", manifest, x=table), READER)
