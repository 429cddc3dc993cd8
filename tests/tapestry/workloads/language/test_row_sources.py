"""The same rows in each format are the same records; bytes at random are no crash."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.errors import ConfigError, TapestryError
from tapestry.workloads.language.text_records import TextReader
from tapestry_node.data import records
from tests.support.record_canaries import CANARY, shown_in, spelled
from tests.support.refusals import refused
from tests.support.tables import (
    TYPED,
    WRITERS,
    Rows,
    write_cells,
    write_jsonl,
    write_parquet,
    write_stream,
)
from tests.tapestry.workloads.language.test_dataset_folders import DATA, saved

MANIFEST = 'language = "it"\nlicence = "CC0-1.0"\nunit = "record"\n'
COLUMNS = '[columns]\ntext = "body"\nid = "patient"\nignored = ["ward"]\n'
DESCRIPTIONS = (".gitattributes", "LICENSE", "README.md", "dataset_infos.json")
PAIRS = '[columns]\nquestion = "q"\nanswer = "a"\n'
TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cn", "Cc"], exclude_characters="\ufeff")
    | st.sampled_from('\n\r\t",;\u2028'),
    max_size=12,
)


def read(
    folder: Path, name: str, rows: Rows, *, columns: str = "", manifest: str = MANIFEST
) -> records.Records:
    """Write rows in a format, and read the folder."""
    suffix, write = WRITERS[name]
    folder.mkdir(parents=True)
    (folder / "corpus.toml").write_text(manifest + columns)
    write(folder / f"rows{suffix}", rows)
    return records.read(folder, TextReader())


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(texts=st.lists(st.tuples(TEXTS, st.sampled_from("abc")), min_size=1, max_size=8))
def test_the_same_rows_in_each_format_have_the_same_digest(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    rows = [{"text": text, "id": f"p{key}"} for text, key in [*texts, ("visible", "d")]]
    wards = [{"ward": "W", "patient": row["id"], "body": row["text"]} for row in rows]
    found = {name: read(folder / name, name, rows) for name in WRITERS}
    found |= {
        f"{name} mapped": read(folder / f"{name} mapped", name, wards, columns=COLUMNS)
        for name in WRITERS
    }
    assert len({each.digest for each in found.values()}) == 1
    assert len({tuple(each.records) for each in found.values()}) == 1


@pytest.mark.parametrize("name", WRITERS)
def test_pairs_of_columns_are_dialogues_in_each_format(
    tmp_path: Path, name: str
) -> None:
    pairs = [{"q": "come stai?", "a": "bene"}, {"q": "e tu?", "a": ""}]
    rows = [
        {
            "messages": [
                {"role": "user", "content": pair["q"]},
                {"role": "assistant", "content": pair["a"]},
            ]
        }
        for pair in pairs
    ]
    found = read(tmp_path / "pairs", name, pairs, columns=PAIRS)
    lines = read(tmp_path / "lines", "JSON lines", rows)
    assert found.digest == lines.digest
    assert len(found.records) == 1
    if name in TYPED:
        assert read(tmp_path / "messages", name, rows).digest == lines.digest


@pytest.mark.parametrize("name", TYPED)
def test_whole_numbers_of_a_typed_column_are_ids_by_their_decimals(
    tmp_path: Path, name: str
) -> None:
    rows: list[dict[str, Any]] = [
        {"text": str(place), "id": n} for place, n in enumerate([7, 7, -1, 2**62])
    ]
    lines = [{**row, "id": str(row["id"])} for row in rows]
    found = read(tmp_path / "a", name, rows)
    assert len(found.records) == 3
    assert found.digest == read(tmp_path / "b", "JSON lines", lines).digest
    assert found.digest == read(tmp_path / "c", "CSV", rows).digest
    with refused(ConfigError, "column-type-differs", match="id is numbers"):
        read(tmp_path / "d", name, [{"text": "a", "id": 7.0}])
    with refused(ConfigError, "record-invalid", match='"id" must be a string'):
        read(tmp_path / "e", "JSON lines", rows[:1])


@pytest.mark.parametrize("name", WRITERS)
def test_a_misspelled_column_of_persons_is_never_passed_over(
    tmp_path: Path, name: str
) -> None:
    rows = [{"body": "a", "pateint": "p7"}]
    for place, (columns, code) in enumerate(
        {
            "": "record-invalid" if name == "JSON lines" else "column-missing",
            COLUMNS: "column-missing",
            COLUMNS.replace('id = "patient"\n', ""): "column-unknown",
        }.items()
    ):
        with refused(ConfigError, code):
            read(tmp_path / str(place), name, rows, columns=columns)
    opened = COLUMNS.replace('ignored = ["ward"]', 'others = "ignored"')
    with refused(ConfigError, "column-missing", match='"patient"'):
        read(tmp_path / "open", name, rows, columns=opened)
    with refused(ConfigError, "column-unknown", match="column 2 of 2"):
        read(
            tmp_path / "id",
            name,
            [{"body": "a", "id": "p7"}],
            columns=opened.replace('id = "patient"\n', ""),
        )


def test_the_names_of_columns_are_no_part_of_the_digest(tmp_path: Path) -> None:
    rows = [{"body": "a", "patient": "p", "ward": "W"}]
    one = read(tmp_path / "a", "CSV", rows, columns=COLUMNS)
    others = COLUMNS.replace('ignored = ["ward"]', 'others = "ignored"')
    assert one.digest == read(tmp_path / "b", "CSV", rows, columns=others).digest
    assert one.digest == read(tmp_path / "c", "CSV", [{"text": "a", "id": "p"}]).digest


BAD_CELLS: dict[str, Mapping[str, Any]] = {
    "NUL": {"text": f"{CANARY}\0", "id": "a"},
    "noncharacter": {"text": f"{CANARY}\uffff", "id": "a"},
    "empty id": {"text": CANARY, "id": ""},
    "id with space": {"text": "x", "id": f" {CANARY}"},
    "long id": {"text": "x", "id": CANARY * 50},
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("row", BAD_CELLS.values(), ids=BAD_CELLS)
def test_a_bad_cell_is_told_by_its_row_in_each_format(
    tmp_path: Path, name: str, row: Mapping[str, Any]
) -> None:
    rows = [{"text": "fine", "id": "b"}, row, {"text": "fine", "id": "c"}]
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "a", name, rows)
    place = {"J": "line 2", "C": "line 3", "T": "line 3"}.get(name[0], "row 2")
    assert f", {place}: " in str(caught.value)
    assert shown_in(spelled(caught.value)) == []


def test_many_faults_of_many_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "corpus.toml").write_text(MANIFEST)
    for place, (suffix, write) in enumerate(WRITERS.values()):
        rows = [{"text": "x", "id": " a"}] * 5 + [{"text": "x", "id": "b"}]
        write(tmp_path / f"{place}{suffix}", rows)
    with refused(ConfigError, "many-faults", match="30 faults") as caught:
        records.read(tmp_path, TextReader())
    assert str(caught.value).endswith("and 20 more")


def test_a_table_without_names_shows_no_record(tmp_path: Path) -> None:
    (tmp_path / "corpus.toml").write_text(MANIFEST)
    for text in (f"{CANARY},p7\nx,y\n", f"{CANARY}\n", f"text;{CANARY}\n"):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(ConfigError) as caught:
            records.read(tmp_path, TextReader())
        assert shown_in(spelled(caught.value)) == []


def test_semicolons_and_messages_in_cells_have_their_own_remedy(
    tmp_path: Path,
) -> None:
    (tmp_path / "corpus.toml").write_text(MANIFEST)
    for text, code, said in (
        ("text;id\na;b\n", "table-invalid", "with another separator"),
        ("messages\n[]\n", "column-type-differs", "question and answer"),
    ):
        (tmp_path / "a.csv").write_text(text)
        with refused(ConfigError, code, match=said):
            records.read(tmp_path, TextReader())


def _tree(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_that_may_only_be_read_is_read_and_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest lies elsewhere, and no cache or copy of a record anywhere."""
    data = tmp_path / "data"
    data.mkdir()
    for place, (suffix, write) in enumerate(WRITERS.values()):
        write(data / f"{place}{suffix}", [{"text": f"{CANARY} {place}", "id": "a"}])
        (data / f"{place}{suffix}").chmod(0o400)
    data.chmod(0o500)
    home = tmp_path / "home"
    home.mkdir()
    (home / "corpus.toml").write_text(MANIFEST)
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.chdir(home)
    before = _tree(tmp_path)
    found = records.read(data, TextReader(), manifest=home / "corpus.toml")
    assert len(found.records) == 1
    assert _tree(tmp_path) == before
    for path in home.rglob("*"):
        assert shown_in(path.read_bytes()) == []
    data.chmod(0o700)


def test_a_manifest_elsewhere_makes_one_among_the_data_a_fault(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "corpus.toml").write_text(MANIFEST)
    (folder / "corpus.toml").write_text(MANIFEST)
    write_jsonl(folder / "a.jsonl", [{"text": "a"}])
    with refused(ConfigError, "file-not-expected", match=r"corpus.toml"):
        records.read(folder, TextReader(), manifest=tmp_path / "corpus.toml")
    (folder / "corpus.toml").unlink()
    with refused(ConfigError, "data-manifest-missing", match=r"has no other.toml"):
        records.read(folder, TextReader(), manifest=tmp_path / "other.toml")


_LOADED = """
import sys
from pathlib import Path
from tapestry.workloads.workload_registry import open_reader
from tapestry_node.data import records
found = records.read(Path(sys.argv[1]), open_reader("language"))
assert len(found.records) == 1
print("pyarrow" in sys.modules, any("table_process" in name for name in sys.modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["JSON lines", "CSV", "Parquet"])
def test_no_process_of_ours_loads_pyarrow(tmp_path: Path, name: str) -> None:
    read(tmp_path / "a", name, [{"text": "a"}])
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, str(tmp_path / "a")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.stdout.split() == ["False", "False"]


def _fault_of(folder: Path) -> TapestryError | None:
    try:
        assert len(records.read(folder, TextReader()).records) <= 7
    except TapestryError as error:
        return error
    return None


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_bytes_changed_at_random_give_records_or_faults(
    tmp_path: Path, name: str
) -> None:
    """Whatever a byte becomes, an error is one of ours, and shows no record."""
    suffix, write = WRITERS[name]
    (tmp_path / "corpus.toml").write_text(MANIFEST)
    path = tmp_path / f"a{suffix}"
    write(path, [{"text": f"{CANARY} {n}", "id": f"p{n}"} for n in range(7)])
    good = path.read_bytes()
    draw = np.random.default_rng(len(name))
    ends = []
    for _ in range(300):
        bad = bytearray(good)
        for place in draw.integers(len(bad), size=draw.integers(1, 4)):
            bad[place] = draw.integers(256)
        is_cut = draw.random() < 0.1
        path.write_bytes(bytes(bad[: draw.integers(len(bad))] if is_cut else bad))
        fault = _fault_of(tmp_path)
        ends.append(fault is None)
        assert fault is None or fault.code
        assert fault is None or shown_in(spelled(fault)) == []
    assert {*ends} == {True, False}


def test_a_folder_of_datasets_is_read_as_it_was_saved(tmp_path: Path) -> None:
    (tmp_path / "corpus.toml").write_text(MANIFEST)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for place, split in enumerate(("train", "test")):
        folder = saved(tmp_path / split, DATA)
        write_stream(
            folder / DATA, [{"text": f"{split} {n}"} for n in range(2 + place)]
        )
    assert len(records.read(tmp_path, TextReader()).records) == 5
    write_stream(tmp_path / "test" / "cache-1.arrow", [{"text": "again"}])
    with refused(ConfigError, "dataset-folder-differs", match=r"test/state.json: "):
        records.read(tmp_path, TextReader())


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A data set as the hub gives it."""
    place = tmp_path / "hub"
    (place / "data").mkdir(parents=True)
    for name in DESCRIPTIONS:
        (place / name).write_text(CANARY)
    write_parquet(place / "data" / "train-00000-of-00001.parquet", [{"text": "a"}])
    (place / "corpus.toml").write_text(MANIFEST)
    return place


def test_of_a_folder_of_the_hub_the_descriptions_are_told_and_not_read(
    hub: Path,
) -> None:
    found = records.read(hub, TextReader())
    assert [*found.records] == ["a"]
    assert found.summary is not None
    said = f"4 files not read, as descriptions of the data: {', '.join(DESCRIPTIONS)}"
    assert ("note", said) in [*found.summary.lines()]
    alone = records.read(hub / "data", TextReader(), manifest=hub / "corpus.toml")
    assert alone.digest == found.digest
    assert alone.summary is not None
    assert not any(label == "note" for label, _ in alone.summary.lines())


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions_have_their_place_at_the_top_alone(hub: Path, name: str) -> None:
    (hub / "data" / name).write_text(CANARY)
    hidden = name.startswith(".")
    with refused(
        ConfigError, "file-hidden" if hidden else "file-not-expected"
    ) as caught:
        records.read(hub, TextReader())
    assert f"data/{name}: is " in str(caught.value)
    assert shown_in(spelled(caught.value)) == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("readme.md", "file-not-expected"),
        ("NOTES.md", "file-not-expected"),
        ("README", "file-not-expected"),
        ("LICENSE.md", "file-not-expected"),
        (".gitignore", "file-hidden"),
        ("dataset_info.json", "dataset-folder-differs"),
    ],
)
def test_other_names_are_refused_beside_data_of_the_hub(
    hub: Path, name: str, code: str
) -> None:
    (hub / name).write_text(CANARY)
    with refused(ConfigError, code):
        records.read(hub, TextReader())


def test_a_text_file_of_such_a_name_is_a_record(hub: Path) -> None:
    (hub / "README.txt").write_text("b")
    (hub / "LICENSE.txt").write_text("c")
    assert sorted(records.read(hub, TextReader()).records) == ["a", "b", "c"]


def test_a_description_that_is_a_link_or_a_folder_is_refused(hub: Path) -> None:
    (hub / "LICENSE").unlink()
    (hub / "LICENSE").symlink_to("README.md")
    with refused(ConfigError, "link-not-allowed"):
        records.read(hub, TextReader())
    (hub / "LICENSE").unlink()
    (hub / ".gitattributes").unlink()
    (hub / ".gitattributes").mkdir()
    with refused(ConfigError, "file-hidden"):
        records.read(hub, TextReader())


def test_descriptions_alone_are_no_data(hub: Path) -> None:
    (hub / "data" / "train-00000-of-00001.parquet").unlink()
    said = r"\.gitattributes and LICENSE and README.md and .* are read as no record"
    with refused(ConfigError, "records-missing", match=said):
        records.read(hub, TextReader())


def test_lines_of_json_may_have_other_keys_where_they_are_named(
    tmp_path: Path,
) -> None:
    rows: list[dict[str, Any]] = [
        {"body": "a", "patient": "p", "ward": 7},
        {"body": "b", "patient": "p"},
    ]
    found = read(tmp_path / "a", "JSON lines", rows, columns=COLUMNS)
    assert [*found.records] == ["a\nb"]
    rows.append({"body": "c"})
    with refused(ConfigError, "column-missing", match="line 3: "):
        read(tmp_path / "b", "JSON lines", rows, columns=COLUMNS)
    assert json.loads((tmp_path / "b" / "rows.jsonl").read_text().splitlines()[2])


def test_an_index_without_a_name_is_ignored_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "corpus.toml").write_text(
        f'{MANIFEST}[columns]\ntext = "text"\nignored = [""]\n'
    )
    write_cells(tmp_path / "a.csv", [{"": "0", "text": "a"}])
    assert [*records.read(tmp_path, TextReader()).records] == ["a"]
