"""The audit bundle of a node: its mirror of the log, and its proofs of false sums."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tapestry.encoding import digest
from tapestry.errors import IncompleteError
from tapestry.storage import durable_files
from tapestry.tlog import tiles
from tapestry.tlog.checkpoint import read_claim
from tapestry_governance.audit.bundle import (
    CHECKPOINT,
    TURNS,
    Bundle,
    add_sums,
    new_bundle,
    open_bundle,
    read_small,
    write_bundle,
)
from tapestry_node.directory import open_mirror
from tapestry_node.round.spot_checks import DISPUTES
from tapestry_node.settings import NodeSettings


def collect_bundle(folder: Path, bundle: Path) -> Bundle:
    """Write a node's mirror as a new bundle, up to the checkpoint that it accepted.

    Guarantees:
        The bundle is whole or absent. It needs no coordinator, and the node may run.

    Raises:
        ConfigError: The bundle's folder exists already, or a setting is invalid.
        IncompleteError: The node has accepted no checkpoint yet.
        ResourceError: There is no mirror, or a file cannot be copied.
        VerificationError: The mirror was changed, or is of another log.
    """
    settings = NodeSettings.read(folder / "node.toml")
    mirror = open_mirror(folder, settings, readonly=True)
    try:
        accepted = mirror.accepted
        if accepted is None:
            raise IncompleteError(
                f"the node in {folder} has accepted no checkpoint yet; wait for the"
                " first round",
                code="checkpoint-missing",
            )
        entries = mirror.entries(0, accepted.checkpoint.size)
        turns = mirror.turns()
    finally:
        mirror.close()
    with (
        new_bundle(bundle) as draft,
        TemporaryDirectory(dir=bundle.parent, prefix=".public-") as place,
    ):
        public = Path(place)
        durable_files.replace_file(public / CHECKPOINT, accepted.note)
        tiles.write(public, entries)
        for note in turns:
            durable_files.replace_file(
                public / TURNS / str(read_claim(note).size), note
            )
        write_bundle(
            draft,
            public=public,
            trust=read_small(folder / "trust-policy.txt"),
            genesis=digest(entries[0]),
            artifacts={},
        )
        proofs = sorted((folder / DISPUTES).glob("[0-9]*"))
        add_sums(draft, {int(path.name): path for path in proofs if path.is_dir()})
    return open_bundle(bundle)
