"""Folders of Hugging Face ``datasets``, as ``save_to_disk`` writes them.

::

    dataset_dict.json                   where there are splits, each in its folder
    train/state.json                    names the files that are the data
    train/dataset_info.json
    train/data-00000-of-00001.arrow

The three files of JSON hold no record and are passed over, and each split is read.
``state.json`` is compared with the folder: a cache or an older version beside the data
would be read as more records, and a file of indices would choose among them.

Folders of the hub have descriptions beside their data, at the top: exactly those named
in ``OF_THE_HUB`` are not read, wherever data are there, and the operator is told which.
Anything else is refused by name, as in any folder.
"""

from pathlib import Path
from typing import Any

from tapestry.errors import ConfigError
from tapestry.inputs.faults import Faults, InputFault
from tapestry.inputs.text_reader import read_object

OF_THE_HUB = frozenset({"README.md", ".gitattributes", "dataset_infos.json", "LICENSE"})
_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_INDICES = "_indices_data_files"  # of versions before 1.6


def is_companion(path: Path, faults: Faults) -> bool:
    """Return whether a file stands beside data and holds none, and check what it says.

    What is wrong becomes a fault.
    """
    if path.name == _STATE:
        try:
            _check_state(
                read_object(path), {f.name for f in path.parent.glob("*.arrow")}
            )
        except InputFault as fault:
            faults.add(fault)
        except ConfigError as error:
            faults.add(InputFault(path, str(error), code=error.code))
    elif path.name == _INFO and not path.with_name(_STATE).exists():
        rule = (
            "describes a cache of datasets, which holds rows more than once; save the"
            " data with save_to_disk, and name that folder"
        )
        faults.add(InputFault(path, rule, code="dataset-folder-differs"))
    return path.name in (_STATE, _INFO, _SPLITS)


def _check_state(state: dict[str, Any], here: set[str]) -> None:
    """Compare the files that a state names with those beside it.

    Raises:
        ConfigError: They differ, or the state names indices.
    """
    files = state.get("_data_files")
    if not isinstance(files, list) or not all(map(_is_file, files)):
        raise ConfigError(
            "does not say which files are the data; save them again with save_to_disk",
            code="dataset-folder-differs",
        )
    if state.get(_INDICES):
        raise ConfigError(
            "names indices, by which some rows are no data; save the data again with a"
            " version of datasets from 1.6 on",
            code="dataset-folder-differs",
        )
    named = {each["filename"] for each in files}
    if named != here:
        raise ConfigError(
            f"names {len(named)} files of data, of which {len(named - here)} are not"
            f" here, and {len(here - named)} others are; copy the folder again, and"
            " take caches out",
            code="dataset-folder-differs",
        )


def _is_file(found: Any) -> bool:
    return isinstance(found, dict) and isinstance(found.get("filename"), str)
