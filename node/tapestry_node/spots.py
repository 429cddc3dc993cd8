"""Spot checks: chunks of a published sum that this node wants to see recomputed.

After a round everybody has its transcript and its sum, but nobody can tell from these
whether the sum is that of the uploads. So a node whose upload is in the sum draws
chunks, asks to see them in every upload, and recomputes them. It draws when it has the
sum, and the coordinator learns the draw when it can change nothing any more.

A coordinator that falsified a fraction f of the chunks escapes c draws of honest nodes
with probability (1 - f) ** c. It cannot draw anew by restarting anybody: a draw is on
the disk before it is told, and stands.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from tapestry.errors import ProtocolError
from tapestry.protocol import MAX_ASKS, Ask, Message, Reason, RoundManifest
from tapestry.secagg.chunks import count_chunks
from tapestry.secagg.messages import Result
from tapestry.secagg.verifying import SumChecker
from tapestry_governance.sums import unpack_spot
from tapestry_node.guard import Refused
from tapestry_node.store import Store

_DRAW = secrets.SystemRandom()
_Key = tuple[str, int]  # run, round


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotChecks:
    """What this node has drawn and not seen yet."""

    name: str
    store: Store
    wanted: int  # chunks of each sum
    _results: dict[_Key, tuple[RoundManifest, Result]] = field(
        default_factory=dict, init=False
    )

    def draw(self, manifest: RoundManifest, result: Result) -> None:
        """Draw chunks of a sum that this node's upload is in; the first draw stands.

        Args:
            manifest: The round.
            result: Its result; the sum is at hand and holds against it.
        """
        if self.name not in result.transcript.survivors.names:
            return
        key = manifest.run_id, manifest.round_number
        count = count_chunks(manifest.length)
        drawn = _DRAW.sample(range(count), min(self.wanted, count))
        self.store.keep_spots(*key, chunks=drawn)
        if self.store.spots(*key):
            self._results[key] = manifest, result

    def asks(self) -> list[Ask]:
        """List what the node wants to see."""
        return list(self._asks())[:MAX_ASKS]

    def _asks(self) -> Iterator[Ask]:
        for run, number in sorted(self._results):
            for chunk in self.store.spots(run, number):
                yield Ask(round_number=number, chunk=chunk)

    def check(self, message: Message) -> None:
        """Recompute a chunk that this node asked for.

        Guarantees:
            A chunk counts as seen only if it is the sum of that chunk of the uploads
            that the survivors signed, less their masks.

        Raises:
            Refused, ProtocolError: The node did not ask for it.
            VerificationError: It is not the sum; the node goes on asking.
        """
        number, spot = unpack_spot(message)
        key = next((each for each in self._results if each[1] == number), None)
        if key is None:
            raise Refused(Reason.UNKNOWN_ROUND, f"nothing of round {number} is open")
        if spot.index not in self.store.spots(*key):
            raise ProtocolError(f"chunk {spot.index} of round {number} is not open")
        checker = SumChecker(*self._results[key])
        checker.check(spot.index, uploads=spot.uploads, total=spot.total)
        self.store.see_spot(*key, chunk=spot.index)
        if not self.store.spots(*key):
            del self._results[key]

    def unseen(self, run_id: str) -> list[int]:
        """Name the rounds of a run with chunks that this node still wants to see."""
        return self.store.unseen(run_id) if self.wanted else []
