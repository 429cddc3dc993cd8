"""The audit bundle of a coordinator: what an auditor verifies from files alone."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tapestry.artifacts import manifest as manifests
from tapestry.encoding import digest
from tapestry.tlog import tiles
from tapestry.tlog.checkpoint import read_claim
from tapestry_coordinator.spot_check_responder import EVIDENCE
from tapestry_governance.audit.bundle import (
    CHECKPOINT,
    Bundle,
    add_sums,
    read_small,
    write_bundle,
)


def collect_bundle(directory: Path, bundle: Path) -> Bundle:
    """Copy a coordinator's log, evidence, adapters and releases into a new bundle.

    A bundle has no weights of a release, which it names by digest.

    Raises:
        ConfigError: The bundle's folder exists already.
        IncompleteError: The log has no cosigned checkpoint yet.
        ResourceError: A file cannot be copied.
    """
    public = directory / "log" / "public"
    size = read_claim(read_small(public / CHECKPOINT)).size
    charter = next(tiles.read_entries(public, size))
    adapters = {path.name: path for path in sorted((directory / "adapters").glob("*"))}
    with _without_weights(directory / "releases", bundle) as releases:
        write_bundle(
            bundle,
            public=public,
            trust=read_small(directory / "trust-policy.txt"),
            genesis=digest(charter),
            artifacts=adapters | releases,
        )
    evidence = sorted((directory / EVIDENCE).glob("*"))
    return add_sums(bundle, {int(path.name): path for path in evidence})


@contextmanager
def _without_weights(releases: Path, bundle: Path) -> Iterator[dict[str, Path]]:
    """Copy what the log names of releases, beside the bundle, for as long as needed."""
    draft = bundle.with_name(f"{bundle.name}.releases")
    shutil.rmtree(draft, ignore_errors=True)
    found: dict[str, Path] = {}
    try:
        for path in sorted(releases.glob("*")):
            source = path / manifests.FOLDER
            shutil.copytree(source, draft / path.name / manifests.FOLDER)
            found[path.name] = draft / path.name
        yield found
    finally:
        shutil.rmtree(draft, ignore_errors=True)
