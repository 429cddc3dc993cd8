"""Private records: a folder of data with a small manifest, read on the node only.

The folder holds a manifest and, beside or below it, the data. The workload defines
their kind and spelling (``workloads.base.RecordReader``), and
``tapestry.inputs.folder_walker`` what a folder may hold: each file is read, or refused
by name. All manifests have in common::

    licence = "BSD-3-Clause"   SPDX; under which the institution holds the data
    unit = "record"            what the promise of privacy is about; or "person"
    source = "where it comes from"

Guarantees:
    A message names at most a file of the operator, a line, and a rule. Neither it nor
    the error holds a part of a record.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapestry.errors import ConfigError
from tapestry.inputs.faults import Faults, show
from tapestry.inputs.folder_walker import walk
from tapestry.inputs.private_data import hides_records
from tapestry.workloads.base import RecordReader, Summary
from tapestry.workloads.data_manifest import DataManifest, Record
from tapestry_node.data.data_version import dataset_digest
from tapestry_node.data.manifest_file import read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """All records of an institution; private.

    Guarantees:
        ``digest`` depends on the records and the manifest alone, not on where they lie.
        It is private, too: a holder of a record could test for it.
        ``data_version.commitment`` is what is published.

    Edge cases:
        File names and the order of rows do not count, but where the workload's reader
        makes them part of a record.
    """

    manifest: DataManifest
    records: tuple[Record, ...]
    keys: tuple[str | None, ...]  # of each record; all of them with unit "person"
    spellings: tuple[bytes, ...]  # of each record, canonical
    parts: tuple[Record, ...]  # rows that some records are joined from
    description: dict[str, Any]  # what of the manifest is part of the digest
    digest: str
    summary: Summary | None  # None: there is no more to say than how many


@hides_records
def read(
    folder: Path, reader: RecordReader, *, manifest: Path | None = None
) -> Records:
    """Read all records of a folder, of which nothing is changed.

    The manifest lies in the folder, or else at the path that is given.

    Raises:
        ConfigError: The folder or its manifest is missing, a file is of a kind that
            the reader does not know, a file or row breaks a rule, or there is no
            record. All faults of the folder are in one message, up to ten.
    """
    faults = Faults()
    own = manifest or folder / reader.manifest_file
    described = read_manifest(folder, reader, faults, place=manifest)
    paths = [path for path in walk(folder, faults) if path != own]
    found = reader.read(paths, faults, manifest=described)
    faults.check(folder)
    if described is None:  # unreachable: that was a fault
        raise ConfigError(
            f"{show(folder)} has no {reader.manifest_file}",
            code="data-manifest-missing",
        )
    if not found.records:
        raise ConfigError(
            f"no records in {show(folder)}{found.hint}", code="records-missing"
        )
    description = described.model_dump(
        mode="json", exclude=set(described.undigested), exclude_none=True
    )
    return Records(
        manifest=described,
        records=found.records,
        keys=found.keys,
        spellings=found.spellings,
        parts=found.parts,
        description=description,
        digest=dataset_digest(description, found.spellings),
        summary=found.summary,
    )
