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

from collections.abc import Callable, Iterator, Sequence
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

Watch = Callable[[int, int], None]
"""Is told bytes of files that are read, and of all files."""


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
    records: Sequence[Record]
    keys: Sequence[str | None]  # of each record; all of them with unit "person"
    digests: bytes  # SHA-256 of each record, 32 bytes a record
    parts: Sequence[Record]  # rows that some records are joined from
    description: dict[str, Any]  # what of the manifest is part of the digest
    digest: str
    summary: Summary | None  # None: there is no more to say than how many


@hides_records
def read(
    folder: Path,
    reader: RecordReader,
    *,
    manifest: Path | None = None,
    scratch: Path | None = None,
    watch: Watch = lambda _, __: None,
) -> Records:
    """Read all records of a folder, of which nothing is changed.

    Args:
        folder: The folder with the data.
        reader: The reader of a workload's kind of data.
        manifest: The manifest of the data; by default it lies among them.
        scratch: Where records that are more than memory are kept, sealed, in a file
            without a name; without it all are in memory.
        watch: Is told, before each file, how many of all bytes are read.

    Raises:
        ConfigError: The folder or its manifest is missing, a file is of a kind that
            the reader does not know, a file or row breaks a rule, or there is no
            record. All faults of the folder are in one message, up to ten.
        ResourceError: The disk of ``scratch`` is full, or it cannot be written.
    """
    faults = Faults()
    own = manifest or folder / reader.manifest_file
    described = read_manifest(folder, reader, faults, place=manifest)
    paths = [p for p in walk(folder, faults, beside=reader.beside) if p != own]
    beside = [p for p in paths if p.parent == folder and p.name in reader.beside]
    found = reader.read(
        _watched([path for path in paths if path not in beside], watch),
        faults,
        manifest=described,
        scratch=scratch,
        beside=[path.name for path in beside],
    )
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
        mode="json", exclude=set(described.undigested), exclude_defaults=True
    )
    return Records(
        manifest=described,
        records=found.records,
        keys=found.keys,
        digests=found.digests,
        parts=found.parts,
        description=description,
        digest=dataset_digest(description, found.digests),
        summary=found.summary,
    )


def _watched(paths: Sequence[Path], watch: Watch) -> Iterator[Path]:
    """Yield paths, and tell before each how far the one who reads them has come."""
    sizes = [_size(path) for path in paths]
    done, total = 0, sum(sizes)
    for path, size in zip(paths, sizes, strict=True):
        watch(done, total)
        yield path
        done += size


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # then it cannot be read, either, which is a fault
        return 0
