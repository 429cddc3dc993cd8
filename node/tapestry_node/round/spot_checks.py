"""Spot checks: chunks of a published sum that this node wants to see recomputed.

After a round all members have its transcript and its sum, but these do not show that
the sum is that of the uploads. So every node that takes a sum, whether its own upload
is in it or not, draws chunks, asks to see them in every upload, and recomputes them. It
draws when it has the sum, and the coordinator learns the draw when it can change
nothing any more.

A coordinator that falsified a fraction f of the chunks escapes c draws of honest nodes
with probability (1 - f) ** c. Restarting a node gives no new draw: a draw is on the
disk before it is told, and stands. A node that draws a false chunk keeps the proof, in
the layout of a bundle's evidence on sums, and trains in that run no more::

    disputes/<log index of round.closed>/

Removing it changes nothing: what is disputed stays in the node's database.
"""

import logging
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from tapestry.errors import ProtocolError, ResourceError
from tapestry.protocol.messages import (
    MAX_ASKS,
    Bulk,
    CheckChunkRequest,
    ChunkRequest,
    Reason,
)
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Result
from tapestry.secagg.chunks import count_chunks
from tapestry.secagg.transcript import FalseSum, SumChecker
from tapestry.storage import durable_files
from tapestry_governance.audit.sum_evidence import (
    Spot,
    unpack_spot,
    write_result,
    write_spot,
)
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused

_logger = logging.getLogger(__name__)
_DRAW = secrets.SystemRandom()
_Key = tuple[str, int]  # run, round
DISPUTES = "disputes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A sum that this node has taken."""

    manifest: RoundManifest
    result: Result
    index: int  # of round.closed in the log


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotChecks:
    """The chunks that this node has drawn and not seen yet."""

    store: NodeState
    wanted: int  # chunks of each sum
    folder: Path  # the node's; proofs against sums go there
    _taken: dict[_Key, Taken] = field(default_factory=dict, init=False)

    def draw(self, taken: Taken) -> None:
        """Draw chunks of a sum that is at hand and fits its result; only once.

        Edge cases:
            Chunks of an earlier run are asked for no more: they are shown during their
            run alone, and its rounds have the same numbers. They stay unseen, so that a
            release of that run is not cosigned later.
        """
        key = taken.manifest.run_id, taken.manifest.round_number
        count = count_chunks(taken.manifest.length)
        drawn = _DRAW.sample(range(count), min(self.wanted, count))
        self.store.keep_spots(*key, chunks=drawn)
        for each in [known for known in self._taken if known[0] != key[0]]:
            del self._taken[each]
        if self.store.spots(*key):
            self._taken[key] = taken

    def forget(self, run_id: str, *, until: int) -> None:
        """Ask no more about rounds that a quorum has cosigned: no answer will come."""
        for key in [k for k in self._taken if k[0] == run_id and k[1] <= until]:
            del self._taken[key]

    def runs(self) -> set[str]:
        """Name the runs with sums of which this node still wants to see chunks."""
        return {run for run, _ in self._taken}

    def asks(self) -> list[ChunkRequest]:
        """List the chunks that the node wants to see, at most ``MAX_ASKS``."""
        return [
            ChunkRequest(round_number=number, chunk=chunk)
            for run, number in sorted(self._taken)
            for chunk in self.store.spots(run, number)
        ][:MAX_ASKS]

    def check(self, shown: CheckChunkRequest, chunks: Bulk) -> None:
        """Recompute a chunk that this node asked for.

        Guarantees:
            A chunk counts as seen only if it is the sum of that chunk of the uploads
            that the survivors signed, less their masks.

        Raises:
            Refused, ProtocolError: The node did not ask for the chunk.
            FalseSum: The chunk proves that the sum is another one; that is on the disk,
                and the proof as well if there is room for it.
            VerificationError: The chunk proves nothing; the node goes on asking.
        """
        number, spot = shown.round_number, unpack_spot(shown, chunks)
        key = next((each for each in self._taken if each[1] == number), None)
        if key is None:
            said = f"no chunk of round {number} is open"
            raise Refused(Reason.UNKNOWN_ROUND, said, code="spot-check-not-open")
        if spot.index not in self.store.spots(*key):
            raise ProtocolError(
                f"chunk {spot.index} of round {number} is not open",
                code="spot-check-not-open",
            )
        taken = self._taken[key]
        checker = SumChecker(taken.manifest, taken.result)
        try:
            checker.check(spot.index, uploads=spot.uploads, total=spot.total)
        except FalseSum:
            self._dispute(taken, spot)
            raise
        self.store.mark_verified(*key, chunk=spot.index)
        if not self.store.spots(*key):
            del self._taken[key]

    def _dispute(self, taken: Taken, spot: Spot) -> None:
        """Note it for good, and only then write the proof, which may fail."""
        run, number = taken.manifest.run_id, taken.manifest.round_number
        self.store.dispute_spot(run, number, chunk=spot.index)
        place = self.folder / DISPUTES / str(taken.index)
        where = f"in {place}"
        try:
            self._write_proof(place, taken.result, spot)
        except ResourceError as error:
            where = f"NOT written: {error}"
        _logger.error(
            "chunk %d of the sum of round %d is NOT the sum of the uploads; proof %s",
            *(spot.index, number, where),
        )

    def _write_proof(self, place: Path, result: Result, spot: Spot) -> None:
        draft = self.folder / f"{DISPUTES}{durable_files.SUFFIX}"
        with durable_files.write_errors(place):
            if not place.exists():
                with durable_files.replace_folder(place, draft=draft):
                    write_result(draft, result)
            chunk = place / str(spot.index)
            if not chunk.exists():
                with durable_files.replace_folder(chunk, draft=draft):
                    write_spot(draft, spot)

    def pending_rounds(self, run_id: str) -> list[int]:
        """Name the rounds of a run with chunks that this node still wants to see."""
        return self.store.pending_rounds(run_id) if self.wanted else []
