"""A data folder is read whole or refused with the file, the line and the fix."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ConfigError
from tapestry_node import records

MANIFEST = 'language = "it"\nlicence = "BSD-3-Clause"\nunit = "record"\n'


def _folder(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "corpus.toml").write_text(MANIFEST)
    for name, content in files.items():
        path = tmp_path / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return tmp_path


def _lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_a_text_file_is_one_record_and_a_json_line_is_one(tmp_path: Path) -> None:
    lines = _lines({"text": "due"}, {"text": "tre\u2028quattro\x85"})
    folder = _folder(tmp_path, a_txt="uno\nriga", sub__b_jsonl=lines, c_txt="  \n")
    assert set(records.read(folder).texts) == {
        "uno\nriga",
        "due",
        "tre\u2028quattro\x85",
    }


def test_lines_with_one_id_are_one_record_across_files(tmp_path: Path) -> None:
    one = _lines({"id": "p1", "text": "lunedì"}, {"id": "p2", "text": "altro"})
    two = _lines({"id": "p1", "text": "martedì"}, {"text": "senza"})
    found = records.read(_folder(tmp_path, a_jsonl=one, b_jsonl=two))
    assert set(found.texts) == {"lunedì\nmartedì", "altro", "senza"}


@given(order=st.permutations(["uno", "due", "tre", "due"]))
def test_the_digest_does_not_depend_on_files_or_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[str]
) -> None:
    rows = _lines(*({"text": text} for text in order))
    found = records.read(_folder(tmp_path_factory.mktemp("data"), x_jsonl=rows))
    separate = _folder(
        tmp_path_factory.mktemp("data"),
        a_txt="due",
        b_txt="due",
        c_txt="tre",
        d_txt="uno",
    )
    assert found.digest == records.read(separate).digest
    fewer = _folder(
        tmp_path_factory.mktemp("data"), a_txt="due", b_txt="tre", c_txt="uno"
    )
    assert found.digest != records.read(fewer).digest


def test_a_commitment_hides_the_records_behind_a_salt(tmp_path: Path) -> None:
    found = records.read(_folder(tmp_path, a_txt="uno"))
    assert found.commitment(b"1" * 32) != found.commitment(b"2" * 32)
    assert found.digest not in found.commitment(b"1" * 32)
    with pytest.raises(ValueError, match="32 bytes"):
        found.commitment(b"short")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("language = ", "not TOML"),
        (MANIFEST + "extra = 1\n", "extra"),
        (MANIFEST.replace('"it"', '"Italian!"'), "language"),
        (MANIFEST.replace("record", "token"), "unit"),
        ('language = "it"\n', "licence: Field required"),
    ],
)
def test_a_wrong_manifest_is_named(tmp_path: Path, manifest: str, message: str) -> None:
    folder = _folder(tmp_path, a_txt="uno")
    (folder / "corpus.toml").write_text(manifest)
    with pytest.raises(ConfigError, match=message):
        records.read(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no records in"),
        ({"a_txt": " \n"}, "no records in"),
        ({"a_jsonl": '{"text": "private"\n'}, "line 1: not JSON"),
        ({"a_jsonl": '\n{"body": "private"}\n'}, "want an object"),
        ({"a_jsonl": '{"text": "private", "id": 7}\n'}, "must be a string"),
        ({"a_jsonl": "[" * 100_000}, "line 1: not JSON"),
        ({"a_csv": "private"}, "neither .txt nor .jsonl"),
    ],
)
def test_a_wrong_file_is_named_and_no_text_is_shown(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        records.read(_folder(tmp_path, **files))
    assert "private" not in str(caught.value).replace(str(tmp_path), "")
    assert "\n" not in str(caught.value)


def test_missing_folders_and_manifests_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder .*nowhere"):
        records.read(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"has no corpus\.toml"):
        records.read(tmp_path)


def test_bytes_that_are_no_text_and_links_to_nowhere_are_refused(
    tmp_path: Path,
) -> None:
    folder = _folder(tmp_path)
    (folder / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        records.read(folder)
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to("/nowhere/at/all")
    with pytest.raises(ConfigError, match=r"a\.txt"):
        records.read(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path, a_txt="uno")
    (folder / "a.txt").chmod(0)
    with pytest.raises(ConfigError, match=r"cannot read .*a\.txt"):
        records.read(folder)
