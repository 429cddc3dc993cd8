"""The audit bundle of a coordinator: what an auditor verifies from files alone."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tapestry.artifacts import manifest as manifests
from tapestry.encoding import digest
from tapestry.storage import durable_files
from tapestry.tlog import tiles
from tapestry.tlog.checkpoint import read_claim
from tapestry_coordinator.log_reader import require_open
from tapestry_coordinator.settings import CoordinatorSettings
from tapestry_coordinator.spot_check_responder import EVIDENCE
from tapestry_governance.audit.bundle import (
    Bundle,
    add_sums,
    new_bundle,
    open_bundle,
    read_checkpoint,
    read_small,
    write_bundle,
)

_RELEASE = re.compile("base-[0-9]+")


def collect_bundle(directory: Path, bundle: Path) -> Bundle:
    """Copy a coordinator's log, evidence, adapters and releases into a new bundle.

    A bundle has no weights of a release, which it names by digest. What a crash left
    among releases and adapters is passed over.

    Guarantees:
        The bundle is whole or absent.

    Raises:
        ConfigError: The bundle's folder exists already.
        IncompleteError: The log is not open yet, or has no cosigned checkpoint.
        ResourceError: A file cannot be copied.
    """
    with new_bundle(bundle) as draft:
        _write(directory, draft)
    return open_bundle(bundle)


def _write(directory: Path, bundle: Path) -> None:
    CoordinatorSettings.read(directory / "coordinator.toml")  # or it is another folder
    require_open(directory)
    public = directory / "log" / "public"
    size = read_claim(read_checkpoint(public)).size
    charter = next(tiles.read_entries(public, size))
    adapters = {
        path.name: path
        for path in sorted((directory / "adapters").glob("[!.]*"))
        if (path / manifests.FOLDER).is_dir()
    }
    with _without_weights(directory / "releases", bundle) as releases:
        write_bundle(
            bundle,
            public=public,
            trust=read_small(directory / "trust-policy.txt"),
            genesis=digest(charter),
            artifacts=adapters | releases,
        )
    evidence = sorted((directory / EVIDENCE).glob("[0-9]*"))
    add_sums(
        bundle, {int(path.name): path for path in evidence if path.name.isdecimal()}
    )


@contextmanager
def _without_weights(releases: Path, bundle: Path) -> Iterator[dict[str, Path]]:
    """Copy what the log names of releases, near the bundle, for as long as needed."""
    durable_files.make_folders(bundle.parent)
    with (
        durable_files.write_errors(bundle),
        TemporaryDirectory(dir=bundle.parent, prefix=".releases-") as place,
    ):
        draft, found = Path(place), dict[str, Path]()
        for path in sorted(releases.glob("base-*")):
            source = path / manifests.FOLDER
            if _RELEASE.fullmatch(path.name) and source.is_dir():
                found[path.name] = draft / path.name
                shutil.copytree(source, found[path.name] / manifests.FOLDER)
        yield found
