"""The manifest beside private records, which may be read without them."""

from pathlib import Path

from pydantic import ValidationError

from tapestry.errors import ConfigError
from tapestry.inputs import text_reader
from tapestry.inputs.faults import Faults, InputFault, show
from tapestry.inputs.setting_faults import explain
from tapestry.inputs.setting_values import fit
from tapestry.workloads.base import RecordReader
from tapestry.workloads.data_manifest import DataManifest


def read_manifest(
    folder: Path, reader: RecordReader, faults: Faults, *, place: Path | None = None
) -> DataManifest | None:
    """Read the manifest of a folder, and no record; faults are added to ``faults``.

    It lies in the folder, or else at ``place``.

    Returns:
        The manifest, or None where that was a fault.

    Raises:
        ConfigError: The folder is missing.
    """
    path, model = place or folder / reader.manifest_file, reader.manifest
    if not folder.is_dir():
        raise ConfigError(
            f"no folder {show(folder)}; name the one with {reader.manifest_file}",
            code="folder-missing",
        )
    try:
        return model.model_validate(fit(text_reader.read_toml(path), model))
    except FileNotFoundError:
        keys = [name for name, each in model.model_fields.items() if each.is_required()]
        wanted = " and ".join((", ".join(sorted(keys)[:-1]), sorted(keys)[-1]))
        rule = f"has no {path.name}; write one with {wanted}"
        if place is None:
            rule += ", there or where manifest in node.toml says"
        where = show(path.parent if place else folder)
        faults.add(ConfigError(f"{where} {rule}", code="data-manifest-missing"))
    except InputFault as fault:
        faults.add(fault)
    except ValidationError as error:
        for line in explain(error, model):
            faults.add(InputFault(path, line, code="setting-invalid"))
    return None
