"""Masked uploads on disk, from their arrival until their sum is checked.

Members draw chunks and ask for them in every upload (``spot_check_responder``). An
aborted round's uploads are erased at once, the others when all members have checked
their chunks, or with the release that they cosigned::

    uploads/<round>/<node>.u32      the chunks, one after the other
    uploads/<round>/<node>.leaves   their hashes in the Merkle tree, 32 bytes each
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tapestry.errors import IncompleteError
from tapestry.secagg.chunks import CHUNK_BYTES, chunk_leaves
from tapestry.secagg.transcript import ChunkProof
from tapestry.storage import durable_files
from tapestry.tlog.merkle import inclusion_proof

_LEAF = 32


class Uploads:
    """The uploads of the rounds of which members may still ask for chunks."""

    def __init__(self, directory: Path) -> None:
        """Use ``uploads/`` in a coordinator's folder; it need not exist."""
        self._root = directory / "uploads"

    def keep(
        self, number: int, name: str, chunks: Sequence[bytes | memoryview]
    ) -> None:
        """Write an upload durably.

        Raises:
            ResourceError: The disk is full or failing.
        """
        path = self._root / str(number) / f"{name}.u32"
        leaves = chunk_leaves(chunks)
        durable_files.replace_file(path.with_suffix(".leaves"), *leaves)
        durable_files.replace_file(path, *chunks)

    def evidence(self, number: int, name: str, index: int) -> ChunkProof:
        """Read one chunk with its inclusion proof.

        Raises:
            IncompleteError: The upload is missing, or lacks the chunk.
        """
        path = self._root / str(number) / f"{name}.u32"
        try:
            hashes = path.with_suffix(".leaves").read_bytes()
            leaves = [hashes[at : at + _LEAF] for at in range(0, len(hashes), _LEAF)]
            with path.open("rb") as file:
                file.seek(index * CHUNK_BYTES)
                chunk = file.read(CHUNK_BYTES)
        except FileNotFoundError as error:
            message = f"{error.filename} is missing"
            raise IncompleteError(message, code="file-missing") from None
        except OSError as error:
            raise IncompleteError(
                f"cannot read {path}: {error.strerror}", code="file-unreadable"
            ) from None
        if not chunk or index >= len(leaves):
            raise IncompleteError(
                f"{path} has no chunk {index}", code="chunk-out-of-range"
            )
        return ChunkProof(chunk=chunk, proof=inclusion_proof(leaves, index))

    def rounds(self) -> list[int]:
        """Return the rounds whose uploads are kept."""
        if not self._root.is_dir():
            return []
        names = (path.name for path in self._root.iterdir())
        return sorted(int(name) for name in names if name.isdecimal())

    def sizes(self, number: int) -> dict[str, int]:
        """Return the bytes of each upload of a round that is kept, by node."""
        found = (self._root / str(number)).glob("*.u32")
        return {path.stem: path.stat().st_size for path in found}

    def forget(self, number: int) -> None:
        """Erase the uploads of a round.

        Raises:
            ResourceError: A file cannot be erased.
        """
        folder = self._root / str(number)
        with durable_files.write_errors(folder):
            if folder.exists():
                shutil.rmtree(folder)
