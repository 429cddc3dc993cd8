"""Spot checks: each member gets the chunks that it drew, of every upload and the sum.

A node draws chunks after the sum was published (``tapestry_node.round.spot_checks``)
and cosigns no release of that sum before it has checked them. So a coordinator that
falsified, signed and logged some chunks is caught by any node that draws one of them.
The same chunks are kept as evidence for auditors.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tapestry.errors import IncompleteError, ProtocolError
from tapestry.protocol.messages import MAX_ASKS, ChunkRequest, Message, ReceiptReply
from tapestry.protocol.secagg_messages import Result
from tapestry.secagg.chunks import chunk_leaves, cut
from tapestry.secagg.transcript import ChunkProof
from tapestry.storage import durable_files
from tapestry.tlog.merkle import inclusion_proof
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.node_tracker import NodeTracker
from tapestry_coordinator.refusals import read_reply
from tapestry_coordinator.uploads import Uploads
from tapestry_governance.audit.sum_evidence import (
    Spot,
    pack_spot,
    write_result,
    write_spot,
)

_logger = logging.getLogger(__name__)
EVIDENCE = "evidence"  # on sums, by the log index of round.closed
_AT_ONCE = 256  # chunks in memory
_KEPT = 8  # chunks of a round for auditors


class SpotCheckResponder:
    """The sender of the chunks that nodes ask for, as long as the uploads are kept."""

    def __init__(
        self,
        directory: Path,
        *,
        tracker: NodeTracker,
        journal: Journal,
        uploads: Uploads,
    ) -> None:
        """Use ``evidence/`` in a coordinator's folder."""
        self._evidence = directory / EVIDENCE
        self.tracker, self._journal, self._uploads = tracker, journal, uploads
        self._taken: Counter[tuple[str, int]] = Counter()  # chunks, by node and round

    def respond(self, names: Sequence[str]) -> None:
        """Send these nodes the chunks that they drew; then erase uploads.

        A node whose draws are unknown is asked for them first.

        A node that does not take its chunks is left alone; it cosigns no release.
        """
        rounds: dict[int, Result] = {}
        for number in self._uploads.rounds():
            row = self._journal.row(number)
            if row.status == "closed" and row.result is not None:
                rounds[number] = Result.decode(row.result)
        waiting, asks = set(names), self.tracker.asks
        unknown = waiting - asks.keys()
        cut_off: set[str] = set()  # nodes whose list was full, and may go on
        while rounds:
            self.tracker.exchange_hello(sorted(unknown))
            cut_off = {n for n in waiting if len(asks.get(n, ())) == MAX_ASKS}
            took = [self._show_round(*each, waiting) for each in rounds.items()]
            unknown = cut_off & waiting
            if not (unknown and any(took)):
                break
        for name in cut_off:
            self.tracker.asks.pop(name, None)
        self._tidy(rounds)

    def _tidy(self, numbers: Iterable[int]) -> None:
        """Erase the uploads of rounds of which no member may ask for a chunk.

        A member that was not heard since it took the result may still ask.
        """
        tracker = self.tracker
        for number in numbers:
            if all(
                name in tracker.asks
                and tracker.lacks.get(name, number) is None
                and all(ask.round_number != number for ask in tracker.asks[name])
                for name in tracker.publisher.state.members
            ):
                self._uploads.forget(number)

    def _show_round(self, number: int, result: Result, waiting: set[str]) -> int:
        """Send the chunks that are asked of a round; returns the number taken.

        A node that does not take a chunk that it asked for is dropped from
        ``waiting``.
        """
        asks = {
            name: [ask for ask in self.tracker.asks[name] if ask.round_number == number]
            for name in sorted(waiting & self.tracker.asks.keys())
        }
        if not any(asks.values()):
            return 0
        cut_out = self.cutter(number, result.transcript.survivors.names)
        width = max(1, _AT_ONCE // (len(result.transcript.uploads) + 1))
        took = 0
        for turn in _turns(asks, width=width):
            requests: dict[str, Message] = {}
            for node, ask in turn.items():
                if node not in waiting or self._taken[node, number] >= MAX_ASKS:
                    continue
                try:
                    spot = cut_out(ask.chunk)
                except IncompleteError as error:
                    _logger.warning(
                        "node %s gets no chunk of round %d: %s",
                        *(node, number, error),
                    )
                    continue
                self._keep(number, result, spot)
                requests[node] = pack_spot(spot, round_number=number)
            takers = self._send(requests)
            for node in takers:
                self._taken[node, number] += 1
                self.tracker.asks[node].discard(turn[node])
            waiting.difference_update(requests.keys() - takers)
            took += len(takers)
        return took

    def _send(self, requests: Mapping[str, Message]) -> set[str]:
        waited = self.tracker.settings.deadlines.apply_result
        takers = set()
        for name, reply in self.tracker.grid.exchange(requests, deadline=waited):
            with suppress(ProtocolError):
                read_reply(reply, ReceiptReply)
                takers.add(name)
        for name in requests.keys() - takers:
            _logger.warning("node %s does not take its chunk; asking no more", name)
            self.tracker.asks.pop(name, None)  # what it wants is unknown from now on
        return takers

    def cutter(self, number: int, names: Sequence[str]) -> Callable[[int], Spot]:
        """Return a function that cuts one chunk out of a round's sum and uploads."""
        total = cut(self._journal.load_sum(number))
        leaves = chunk_leaves(total)

        def cut_out(index: int) -> Spot:
            if index >= len(total):
                raise IncompleteError(
                    f"chunk {index} of {len(total)}; they count from 0",
                    code="chunk-out-of-range",
                )
            uploads = {
                name: self._uploads.evidence(number, name, index) for name in names
            }
            mine = ChunkProof(chunk=total[index], proof=inclusion_proof(leaves, index))
            return Spot(index=index, total=mine, uploads=uploads)

        return cut_out

    def _keep(self, number: int, result: Result, spot: Spot) -> None:
        """Keep the first few chunks of a round for auditors.

        Raises:
            ResourceError: The evidence cannot be written.
            IncompleteError: The log does not close the round.
        """
        state, run_id = self.tracker.publisher.state, self.tracker.settings.run_id
        closed = state.closed_round(number, run_id, within=state.size)
        if closed is None:
            raise IncompleteError(
                f"the log does not close round {number}", code="closing-entry-missing"
            )
        folder = self._evidence / str(closed.index)
        draft = self._evidence.with_name(self._evidence.name + durable_files.SUFFIX)
        place = folder / str(spot.index)
        with durable_files.write_errors(folder):
            if not folder.exists():
                with durable_files.replace_folder(folder, draft=draft):
                    write_result(draft, result)
            if not place.exists() and len(list(folder.iterdir())) <= _KEPT:
                with durable_files.replace_folder(place, draft=draft):
                    write_spot(draft, spot)


def _turns(
    asks: Mapping[str, list[ChunkRequest]], *, width: int
) -> Iterator[dict[str, ChunkRequest]]:
    """Yield one ask of each of up to ``width`` nodes, until all asks are served."""
    for place in range(max(map(len, asks.values()))):
        waiting = [name for name, each in asks.items() if len(each) > place]
        for start in range(0, len(waiting), width):
            yield {name: asks[name][place] for name in waiting[start : start + width]}
