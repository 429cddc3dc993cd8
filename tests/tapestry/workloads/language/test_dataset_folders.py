"""A folder of datasets is read as it was saved, or refused by the file at fault."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError
from tapestry.inputs.faults import Faults
from tapestry.workloads.language.dataset_folders import is_companion
from tests.support.record_canaries import CANARY, shown_in, spelled
from tests.support.refusals import refused

DATA = "data-00000-of-00001.arrow"


def saved(folder: Path, *files: str, **changes: Any) -> Path:
    """Write what ``save_to_disk`` writes beside the files of data, and those empty."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "_data_files": [{"filename": name} for name in files],
        "_fingerprint": "0123456789abcdef",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
        **changes,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / "dataset_info.json").write_text(json.dumps({"description": CANARY}))
    for name in files:
        (folder / name).write_bytes(b"")
    return folder


def kept(folder: Path) -> list[str]:
    faults = Faults()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [path for path in paths if not is_companion(path, faults)]
    faults.check(folder)
    return [path.relative_to(folder).as_posix() for path in found]


def test_the_files_of_data_are_kept_and_their_description_is_not(
    tmp_path: Path,
) -> None:
    saved(tmp_path / "train", DATA)
    saved(tmp_path / "test", "data-00000-of-00002.arrow", "data-00001-of-00002.arrow")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert kept(tmp_path) == [
        "test/data-00000-of-00002.arrow",
        "test/data-00001-of-00002.arrow",
        f"train/{DATA}",
    ]


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"_data_files": None}, "dataset-folder-differs", "does not say"),
        ({"_data_files": [DATA]}, "dataset-folder-differs", "does not say"),
        (
            {"_data_files": []},
            "dataset-folder-differs",
            "0 files .* 0 are not here",
        ),
        (
            {"_data_files": [{"filename": DATA}, {"filename": f"{CANARY}.arrow"}]},
            "dataset-folder-differs",
            "2 files of data, of which 1 are not here",
        ),
        (
            {"_indices_data_files": [{"filename": "indices.arrow"}]},
            "dataset-folder-differs",
            "names indices",
        ),
    ],
    ids=["null", "names", "none", "another", "indices"],
)
def test_a_state_that_is_not_the_folders_is_refused(
    tmp_path: Path, changes: dict[str, Any], code: str, said: str
) -> None:
    saved(tmp_path, DATA, **changes)
    with refused(ConfigError, code, match=said) as caught:
        kept(tmp_path)
    assert shown_in(spelled(caught.value)) == []


def test_a_cache_beside_the_data_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, DATA)
    (tmp_path / "cache-0123456789abcdef.arrow").write_bytes(b"")
    with refused(ConfigError, "dataset-folder-differs", match="and 1 others are"):
        kept(tmp_path)
    (tmp_path / "state.json").unlink()
    with refused(ConfigError, "dataset-folder-differs", match="a cache of datasets"):
        kept(tmp_path)


def test_a_state_that_is_no_json_is_refused_unshown(tmp_path: Path) -> None:
    saved(tmp_path, DATA)
    for text, code in (
        (CANARY, "json-invalid"),
        (f'{{"{CANARY}": 1, "{CANARY}": 2}}', "json-key-duplicated"),
        ("[" * 100_000, "json-too-deep"),
    ):
        (tmp_path / "state.json").write_text(text)
        with refused(ConfigError, code) as caught:
            kept(tmp_path)
        assert shown_in(spelled(caught.value)) == []
