"""Snapshots of the base as this node follows it, so that it takes no round twice.

Each is a file of tensors, named by the log index of the ``round.closed`` after which
the base was this one::

    bases/57.safetensors    base/NAME  first/NAME  second/NAME    step in its header

``base/`` has the tensors that are not the given base's, in the type that they have in a
run; ``first/`` and ``second/`` have the moments of the outer optimizer. All of it
follows from published sums. A snapshot proves nothing: what it holds is compared with
the log, and where it differs an older one or the given base takes its place.
"""

import logging
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tapestry.artifacts.safetensors_reader import (
    TensorFile,
    TensorLimits,
    read_tensors,
)
from tapestry.artifacts.safetensors_writer import encode_tensors
from tapestry.encoding import decode_integer
from tapestry.errors import ProtocolError, ResourceError, VerificationError
from tapestry.model.outer_optimizer import OuterState
from tapestry.model.replica import Replica
from tapestry.storage import durable_files
from tapestry.tensor_types import Stored
from tapestry_governance.events.round_events import RoundClosed

_logger = logging.getLogger(__name__)
FOLDER = "bases"
_NAME = re.compile(r"(0|[1-9][0-9]{0,17})\.safetensors")
_HEADER = 64 << 20  # bytes
_PARTS = ("base", "first", "second")


def check_base(replica: Replica, closed: RoundClosed) -> None:
    """Compare base, rounded base and optimizer with what a round's end names.

    Raises:
        VerificationError: One of the three differs.
    """
    for here, said in (
        (replica.digest, closed.base_after),
        (replica.release_digest, closed.release_digest),
        (replica.optimizer.digest, closed.outer_digest),
    ):
        if here != said:
            raise VerificationError(
                f"round {closed.round_number} gives {here} here, the log says {said}",
                code="replica-differs",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSnapshots:
    """Bases of a node on its disk: the last two, and those that runs may begin with."""

    directory: Path  # the node's
    given: Replica

    @property
    def _folder(self) -> Path:
        return self.directory / FOLDER

    def path(self, index: int) -> Path:
        """Name the file of a snapshot."""
        return self._folder / f"{index}.safetensors"

    def sweep(self) -> None:
        """Remove what a crash left of a snapshot that was being written."""
        with suppress(OSError):
            durable_files.remove_leftovers(self._folder)

    def held(self) -> list[int]:
        """List the log indexes of the snapshots, the newest first."""
        found: list[int] = []
        with suppress(OSError):  # without a folder that can be read there is none
            for path in self._folder.iterdir():
                name = _NAME.fullmatch(path.name)
                if name and not path.is_dir():
                    found.append(int(name[1]))
        return sorted(found, reverse=True)

    def keep(
        self, index: int, replica: Replica, *, releases: Collection[int] = ()
    ) -> None:
        """Write the base after the round that ended at an index of the log.

        Args:
            index: Where the round ended.
            replica: The base after it.
            releases: Where rounds ended whose snapshots stay, if they are there.

        Guarantees:
            The tensors are written from where they lie, without a copy. A snapshot is
            whole or absent, on the disk on return, and readable by the node's user
            alone. But for those of releases at most two are there, of which the last
            stays until the new one is whole.

        Edge cases:
            ==============================  ==========================================
            The disk is full or failing     a warning, and no new snapshot; the round
                                            was taken, and is taken again after a
                                            restart
            No tensor has moved             the first one by name is written: a file
                                            of tensors has at least one
            ==============================  ==========================================
        """
        given = self.given.parameters
        moved = {n: t for n, t in replica.parameters.items() if t is not given[n]}
        optimizer, first = replica.optimizer, min(given)
        parts = (moved or {first: given[first]}, optimizer.first, optimizer.second)
        tensors = {
            f"{part}/{name}": tensor
            for part, each in zip(_PARTS, parts, strict=True)
            for name, tensor in each.items()
        }
        try:
            self._remove_others(index, releases)
            pieces = encode_tensors(tensors, {"step": str(optimizer.step)})
            durable_files.replace_file(self.path(index), *pieces, mode=0o600)
        except ResourceError as error:
            _logger.warning(
                "no snapshot of the base: %s [%s]; the round was taken, and is taken"
                " again after a restart",
                *(error, error.code),
            )

    def _remove_others(self, index: int, releases: Collection[int]) -> None:
        """Remove all snapshots but the last one before an index, and of releases."""
        held = self.held()
        last = next((each for each in held if each < index), None)
        for each in held:
            if each != last and each not in releases:
                durable_files.remove_file(self.path(each))

    def read(self, index: int, closed: RoundClosed) -> Replica:
        """Read the base after a round.

        Guarantees:
            What is returned is bit for bit the base, its rounded form and the state of
            the optimizer that the end of the round names. A tensor is hashed as it is
            read, and no more is read than the base can have.

        Raises:
            IncompleteError: There is no snapshot of this index.
            ResourceError: The file cannot be read.
            VerificationError: The file is no snapshot, or not of this base.
        """
        path, given = self.path(index), self.given
        count = sum(tensor.size for tensor in given.parameters.values())
        limits = TensorLimits(
            header_bytes=_HEADER,
            file_bytes=_HEADER + 3 * 4 * count,
            tensors=3 * len(given.parameters),
        )
        try:
            file = read_tensors(path, limits=limits)
        except OSError as error:
            raise durable_files.storage_error(
                "read", path, error, code="file-unreadable"
            ) from error
        parts = self._parts(file)
        optimizer = OuterState(
            step=_step(file), first=parts["first"], second=parts["second"]
        )
        moved = parts["base"]
        hashes = {name: file.hashes[f"base/{name}"] for name in moved}
        replica = given.moved(
            {**given.parameters, **moved},
            known={**given.hashes, **hashes},
            optimizer=optimizer,
        )
        check_base(replica, closed)
        return replica

    def _parts(self, file: TensorFile) -> dict[str, dict[str, Stored]]:
        """Sort tensors by part; each has the name and shape of one of the base."""
        parts: dict[str, dict[str, Stored]] = {part: {} for part in _PARTS}
        for key, tensor in file.arrays.items():
            part, _, name = key.partition("/")
            known = self.given.parameters.get(name)
            if part not in parts or known is None or known.shape != tensor.shape:
                raise VerificationError(
                    f"{file.name}: {key[:100]!r} of shape {tensor.shape} is no tensor"
                    " of the given base; remove the file",
                    code="snapshot-tensor-unknown",
                )
            parts[part][name] = tensor
        return parts


def _step(file: TensorFile) -> int:
    try:
        return decode_integer(file.metadata.get("step", ""))
    except ProtocolError as error:
        raise VerificationError(f"{file.name}: {error}", code=error.code) from None
